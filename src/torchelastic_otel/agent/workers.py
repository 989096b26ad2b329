"""The workers of one start: which failed, in what order, and how each ended.

Guarantees:

- Each worker's failure and exit are reported once, however often torch polls, and whichever source saw them first.
- The first failure is reported as the cause on this node, all others as its victims; if their times are too uncertain
  to order them, they are marked as ambiguous.
- Nothing is reaped here (``WNOWAIT``), so that torch sees every exit status; without pidfd, or if torch reaps first,
  the exit code is ``None`` and never guessed. Torch itself sees an exit at its next poll, up to the monitor interval
  later, and keeps whole seconds (``ProcessFailure.timestamp``, torch 2.2 to 2.15).
- Each time has its source (``pidfd``, the error file, torch's poll) and by how much the event may have been earlier.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.cause import WORKER_FAILURE, Cause
from torchelastic_otel.model.failure import may_precede
from torchelastic_otel.model.inferred_event import ClockReading
from torchelastic_otel.torch_events.error_files import from_error_file, signal_name
from torchelastic_otel.units import NS_PER_S

_MAX_ERROR_FILE: Final = 64 * 1024
_MAX_MESSAGE: Final = 300
_UNINTERRUPTIBLE_SLEEP: Final = "uninterruptible_sleep"


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process.

    Attributes:
        local_rank: Its rank on this node.
        rank: Its global rank.
        pid: Its process id.
        error_file: Where it writes its exception.
    """

    local_rank: int
    rank: int | None
    pid: int
    error_file: str | None = None


@dataclass(frozen=True, slots=True)
class _Observed:
    """When something happened, and how that is known.

    Attributes:
        at: When.
        source: ``pidfd``, ``error_file`` or ``poll``.
        error_ns: By how much it may have been earlier.
    """

    at: ClockReading
    source: str
    error_ns: int = 0

    def overlaps(self, other: _Observed) -> bool:
        """Whether the order of the two is uncertain."""
        one, two = self.at.monotonic_ns, other.at.monotonic_ns
        return may_precede(two, other.error_ns, one) and may_precede(one, self.error_ns, two)

    def attributes(self) -> dict[str, Any]:
        return {semconv.FAILURE_TIME_ERROR: self.error_ns / NS_PER_S, semconv.INFERRED_FROM: self.source}


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """One process that has ended.

    Attributes:
        at: When.
        code: Its exit code, minus the signal's number for a signal; ``None`` if torch reaped it first.
    """

    at: ClockReading
    code: int | None


class ExitWatcher:
    """Watches the workers of one start.

    Args:
        thread: The event loop.
        now: Both clocks.
        on_exit: Called on that thread for each process that ends: its local rank and how.
    """

    def __init__(
        self, thread: EventLoopThread, now: Callable[[], ClockReading], on_exit: Callable[[int, ProcessExit], None]
    ) -> None:
        self._thread = thread
        self._now = now
        self._on_exit = on_exit
        self.exits: dict[int, ProcessExit] = {}
        """By local rank; written on the event loop, read on any thread."""

    def watch(self, pids: Mapping[int, int]) -> None:
        """Watch these processes, by local rank."""
        self._thread.call_soon(lambda: self._open(dict(pids)))

    def _open(self, pids: Mapping[int, int]) -> None:
        pidfd_open: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
        if pidfd_open is None:
            return  # a Python that was built without it
        for local_rank, pid in pids.items():
            try:
                descriptor = pidfd_open(pid)
            except OSError:
                continue  # reaped already, or a kernel without pidfd: torch's poll remains
            self._thread.add_reader(descriptor, self._reader(local_rank, descriptor))

    def _reader(self, local_rank: int, descriptor: int) -> Callable[[], None]:
        def read() -> None:
            at, code = self._now(), _exit_code(descriptor)
            self.exits[local_rank] = ProcessExit(at, code)
            self._on_exit(local_rank, self.exits[local_rank])

        return read


class WorkerGroupMonitor:
    """See the header of this file.

    Args:
        workers: The workers.
        emit: Takes an event's name, its attributes, when it happened, and the text of a worker's error file.
        on_detected: Called with the time of the first failure, before it is reported.
        propose: Takes the first failure as a cause, without the node's name.
        thread: The event loop.
        clock: Both clocks.
    """

    def __init__(
        self,
        workers: Iterable[Worker],
        emit: Callable[[str, Mapping[str, Any], ClockReading, str | None], object],
        on_detected: Callable[[ClockReading], object],
        propose: Callable[[Cause], object],
        thread: EventLoopThread,
        clock: Callable[[], ClockReading],
    ) -> None:
        self.workers: Mapping[int, Worker] = {worker.local_rank: worker for worker in workers}
        self.stopping = False
        """Whether the agent stops them: a worker that ends from then on has not failed."""
        self._emit = emit
        self._on_detected = on_detected
        self._propose = propose
        self._clock = clock
        self._last_poll = clock()
        self._exits = ExitWatcher(thread, clock, self._on_exit)
        self._failed = False
        self._failures: dict[int, _Observed | None] = {}
        self._reported_exits: dict[int, object] = {}

    def watch(self, since: ClockReading) -> None:
        """They run since then: none can have failed before."""
        self._last_poll = since
        self._exits.watch({local_rank: worker.pid for local_rank, worker in self.workers.items()})

    # --- from torch's thread

    def on_poll(self) -> None:
        """Torch has polled them."""
        self._last_poll = self._clock()

    def on_close_begin(self, codes: Mapping[int, int | None]) -> bool:
        """Report failures, by torch's exit codes and the observed exits; returns whether some workers still run."""
        ended = {**codes, **{r: e.code for r, e in [*self._exits.exits.items()] if e.code is not None}}
        self._report_failures({rank: code for rank, code in ended.items() if code})
        return any(ended.get(rank) is None for rank in self.workers)

    def on_interrupt(self) -> None:
        """Report failures since torch's last poll: from now on torch regards them as stopped."""
        self._report_failures({rank: ended.code for rank, ended in [*self._exits.exits.items()] if ended.code})

    def on_close_end(self, codes: Mapping[int, int | None]) -> None:
        """Report the exits that torch alone knows."""
        for rank, code in codes.items():
            ended = self._exits.exits.get(rank)
            if code is not None and (ended is None or ended.code is None) and rank in self.workers:
                observed = _Observed(ended.at, "pidfd") if ended else self._failures.get(rank) or self._at_poll()
                self._report_exit(self.workers[rank], code, observed)

    def on_result(self, failed: Mapping[int, int | None], hanging: Iterable[int]) -> None:
        """Report what is only in torch's result, by process id: exit codes, and workers that hang for good."""
        by_pid = {worker.pid: worker for worker in self.workers.values()}
        if not self._failed and not self.stopping:
            self._report_failures(
                {by_pid[pid].local_rank: code for pid, code in failed.items() if pid in by_pid and code}
            )
        for pid in hanging if not self._failed else ():
            if pid in by_pid:
                worker = by_pid[pid]
                self._report_failure(worker, None, _Observed(self._clock(), "result"), hangs=True)

    # --- inside

    def _on_exit(self, local_rank: int, ended: ProcessExit) -> None:
        """On the event loop: a process has ended, perhaps when the workers of the next start already run."""
        if ended.code is not None:
            self._report_exit(self.workers[local_rank], ended.code, _Observed(ended.at, "pidfd"))

    def _report_exit(self, worker: Worker, code: int, observed: _Observed) -> None:
        # both threads call this, and torch closes its workers more than once
        own = object()
        if self._reported_exits.setdefault(worker.local_rank, own) is own:
            attributes = {**_exit_attributes(worker, code), **observed.attributes()}
            self._emit(semconv.WORKER_EXITED, attributes, observed.at, None)

    def _report_failures(self, codes: Mapping[int, int | None]) -> None:
        new = [
            (self._failure_time(self.workers[rank]), self.workers[rank], code)
            for rank, code in codes.items()
            if rank in self.workers and rank not in self._failures
        ]
        new.sort(key=lambda failure: failure[0].at.monotonic_ns)
        for observed, worker, code in new:
            ambiguous = any(other is not worker and observed.overlaps(o) for o, other, _ in new)
            self._report_failure(worker, code, observed, ambiguous=ambiguous)

    def _report_failure(
        self, worker: Worker, code: int | None, observed: _Observed, *, ambiguous: bool = False, hangs: bool = False
    ) -> None:
        is_cause = not self._failed
        if is_cause:
            self._on_detected(observed.at)
            self._failed = True
        # after the event above: if a signal interrupts that, the failure is reported with the next call
        self._failures[worker.local_rank] = None if hangs else observed  # a worker that hangs has not ended
        text = None if hangs else _error_text(worker.error_file)
        attributes = {**_exit_attributes(worker, code), semconv.FAILURE_ROLE: "cause" if is_cause else "victim"}
        if hangs:
            attributes[semconv.ERROR_TYPE] = attributes[semconv.FAILURE_KIND] = _UNINTERRUPTIBLE_SLEEP
            attributes[semconv.INFERRED_FROM] = observed.source
        else:
            kind = "exception" if text else ("signal" if code is not None and code < 0 else "exit")
            attributes |= {semconv.FAILURE_KIND: kind, semconv.FAILURE_AMBIGUOUS: ambiguous or None}
            attributes |= observed.attributes()
        self._emit(semconv.WORKER_FAILED, attributes, observed.at, text)
        if is_cause:
            error = from_error_file(text) if text else {}
            message, signal = error.get(semconv.EXCEPTION_MESSAGE), attributes[semconv.WORKER_SIGNAL]
            error_type = _UNINTERRUPTIBLE_SLEEP if hangs else str(error.get(semconv.ERROR_TYPE) or signal or "exit")
            self._propose(
                Cause(
                    WORKER_FAILURE,
                    observed.at.wall_ns,
                    observed.error_ns,
                    rank=worker.rank,
                    local_rank=worker.local_rank,
                    pid=worker.pid,
                    exit_code=code,
                    signal=signal,
                    error_type=error_type,
                    message=str(message)[:_MAX_MESSAGE] if message else None,
                    ambiguous=ambiguous,
                )
            )

    def _failure_time(self, worker: Worker) -> _Observed:
        ended = self._exits.exits.get(worker.local_rank)
        if ended is not None:
            return _Observed(ended.at, "pidfd")
        polled = self._at_poll()
        try:
            age_ns = polled.at.wall_ns - os.stat(worker.error_file or "").st_mtime_ns
        except OSError:
            age_ns = -1
        if 0 <= age_ns <= polled.error_ns:
            return _Observed(ClockReading(polled.at.wall_ns - age_ns, polled.at.monotonic_ns - age_ns), "error_file")
        return polled

    def _at_poll(self) -> _Observed:
        at = self._clock()
        return _Observed(at, "poll", max(0, at.monotonic_ns - self._last_poll.monotonic_ns))


def _exit_attributes(worker: Worker, code: int | None) -> dict[str, Any]:
    return {
        semconv.WORKER_RANK: worker.rank,
        semconv.WORKER_LOCAL_RANK: worker.local_rank,
        semconv.WORKER_PID: worker.pid,
        semconv.PROCESS_EXIT_CODE: code,
        semconv.WORKER_SIGNAL: signal_name(code) if code is not None else None,
    }


def _error_text(path: str | None) -> str | None:
    """The content of a worker's error file."""
    if not path:
        return None
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_ERROR_FILE) or None
    except OSError:
        return None


def _exit_code(descriptor: int) -> int | None:
    try:
        status = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:
        return None  # reaped by torch; or a kernel that has pidfds and cannot wait for them (Linux 5.3)
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
