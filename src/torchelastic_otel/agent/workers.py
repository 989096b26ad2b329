"""The workers of one start: which of them failed, first the one that failed first, and how each ended.

What always holds:

- Each worker's failure is told once, and its end once, however often torch comes by, and whoever saw it first.
- The first failure is told as the cause on this node, all others as its victims; where their times are too uncertain
  to tell which was first, each says so.
- How a moment is known, and by how much it may have been earlier, is said with it: by ``pidfd``, by the error file, or
  by torch's poll.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.agent.exits import ExitWatcher, ProcessExit
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.failure import WORKER_FAILURE, Cause
from torchelastic_otel.model.inferred_event import ClockReading
from torchelastic_otel.torch_events.error_files import from_error_file, signal_name

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
        error_file: Where it leaves its exception.
    """

    local_rank: int
    rank: int | None
    pid: int
    error_file: str | None = None


class WorkerGroupMonitor:
    """See the header of this file.

    Args:
        workers: The workers, by local rank.
        tell: Takes an event's name, its attributes, when it happened, and the text of a worker's error file.
        detected: Called with the moment of the first failure, before that is told.
        propose: Takes the first failure as the cause of what comes, without the node's name.
        thread: The watch thread.
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
        """Whether the agent stops them: what ends from then on has not failed."""
        self._emit = emit
        self._on_detected = on_detected
        self._propose = propose
        self._clock = clock
        self._last_poll = clock()
        self._exits = ExitWatcher(thread, clock, self._on_exit)
        self._failed = False
        self._failures: dict[int, tuple[ClockReading, str, int] | None] = {}
        self._reported_exits: dict[int, object] = {}

    def watch(self, since: ClockReading) -> None:
        """They run since then: nobody can have failed before."""
        self._last_poll = since
        self._exits.watch({local_rank: worker.pid for local_rank, worker in self.workers.items()})

    # --- from torch's thread

    def on_poll(self) -> None:
        """Torch has looked at them."""
        self._last_poll = self._clock()

    def on_close_begin(self, codes: Mapping[int, int | None]) -> bool:
        """Tell which of them failed, by torch's exit codes and what was seen; whether some are left to stop."""
        ended = {**codes, **{r: e.code for r, e in [*self._exits.exits.items()] if e.code is not None}}
        self._report_failures({rank: code for rank, code in ended.items() if code})
        return any(ended.get(rank) is None for rank in self.workers)

    def on_interrupt(self) -> None:
        """Tell which of them failed since torch last looked: from now on it will take them for stopped."""
        self._report_failures({rank: ended.code for rank, ended in [*self._exits.exits.items()] if ended.code})

    def on_close_end(self, codes: Mapping[int, int | None]) -> None:
        """Tell how they ended, where torch alone knows it."""
        for rank, code in codes.items():
            seen = self._exits.exits.get(rank)
            if code is not None and (seen is None or seen.code is None) and rank in self.workers:
                here = self._clock()
                polled = (here, "poll", max(0, here.monotonic_ns - self._last_poll.monotonic_ns))
                known = (self._failures.get(rank) or polled) if seen is None else (seen.at, "pidfd", 0)
                self._report_exit(self.workers[rank], code, *known)

    def on_result(self, failed: Mapping[int, int | None], hanging: Iterable[int]) -> None:
        """Tell what of torch's result was not told: exit codes, and workers that hang for good, by process id."""
        by_pid = {worker.pid: worker.local_rank for worker in self.workers.values()}
        if not self._failed and not self.stopping:
            self._report_failures({by_pid[pid]: code for pid, code in failed.items() if pid in by_pid and code})
        for pid in hanging if not self._failed else ():
            if pid in by_pid:
                self._report_hanging(self.workers[by_pid[pid]])

    # --- inside

    def _on_exit(self, local_rank: int, ended: ProcessExit) -> None:
        """On the watch thread: a process has ended, perhaps long after the others, when the next ones run."""
        if ended.code is not None:
            self._report_exit(self.workers[local_rank], ended.code, ended.at, "pidfd", 0)

    def _report_exit(self, worker: Worker, code: int, at: ClockReading, known_by: str, error_ns: int) -> None:
        # both threads come here, and torch closes its workers more than once
        mine = object()
        if self._reported_exits.setdefault(worker.local_rank, mine) is mine:
            told = {semconv.FAILURE_TIME_ERROR: error_ns / 1e9, semconv.INFERRED_FROM: known_by}
            self._emit(semconv.WORKER_EXITED, {**_exit_attributes(worker, code), **told}, at, None)

    def _report_failures(self, codes: Mapping[int, int | None]) -> None:
        new = [
            (*self._failure_time(self.workers[rank]), self.workers[rank], code)
            for rank, code in codes.items()
            if rank in self.workers and rank not in self._failures
        ]
        new.sort(key=lambda known: known[0].monotonic_ns)
        for at, error_ns, known_by, worker, code in new:
            doubt = any(
                other is not worker
                and t.monotonic_ns - e <= at.monotonic_ns
                and at.monotonic_ns - error_ns <= t.monotonic_ns
                for t, e, _, other, _ in new
            )
            role = self._role(at)
            self._failures[worker.local_rank] = (at, known_by, error_ns)
            text = _error_text(worker.error_file)
            kind = "exception" if text else ("signal" if code is not None and code < 0 else "exit")
            told = {
                **_exit_attributes(worker, code),
                semconv.FAILURE_KIND: kind,
                semconv.FAILURE_ROLE: role,
                semconv.FAILURE_TIME_ERROR: error_ns / 1e9,
                semconv.FAILURE_AMBIGUOUS: doubt or None,
                semconv.INFERRED_FROM: known_by,
            }
            self._emit(semconv.WORKER_FAILED, told, at, text)
            if role == "cause":
                self._propose(_cause(worker, code, text, at, error_ns, doubt))

    def _report_hanging(self, worker: Worker) -> None:
        at = self._clock()
        role = self._role(at)
        self._failures[worker.local_rank] = None  # it has failed, and not ended
        told = {
            **_exit_attributes(worker, None),
            semconv.ERROR_TYPE: _UNINTERRUPTIBLE_SLEEP,
            semconv.FAILURE_KIND: _UNINTERRUPTIBLE_SLEEP,
            semconv.FAILURE_ROLE: role,
            semconv.INFERRED_FROM: "result",
        }
        self._emit(semconv.WORKER_FAILED, told, at, None)
        if role == "cause":
            self._propose(_cause(worker, None, None, at, 0, False, _UNINTERRUPTIBLE_SLEEP))

    def _role(self, at: ClockReading) -> str:
        """Whether a failure is the cause or a victim; the first one is detected here."""
        if self._failed:
            return "victim"
        self._on_detected(at)
        self._failed = True
        return "cause"

    def _failure_time(self, worker: Worker) -> tuple[ClockReading, int, str]:
        """When a worker failed, by how much it may have been earlier (nanoseconds), and how that is known."""
        seen = self._exits.exits.get(worker.local_rank)
        if seen is not None:
            return seen.at, 0, "pidfd"
        here = self._clock()
        since_poll_ns = max(0, here.monotonic_ns - self._last_poll.monotonic_ns)
        try:
            age_ns = here.wall_ns - os.stat(worker.error_file or "").st_mtime_ns
        except OSError:
            age_ns = -1
        if 0 <= age_ns <= since_poll_ns:
            return ClockReading(here.wall_ns - age_ns, here.monotonic_ns - age_ns), 0, "error_file"
        return here, since_poll_ns, "poll"


def _cause(
    worker: Worker,
    code: int | None,
    text: str | None,
    at: ClockReading,
    error_ns: int,
    doubt: bool,
    error_type: str | None = None,
) -> Cause:
    said = from_error_file(text) if text else {}
    signal = signal_name(code) if code is not None else None
    message = said.get(semconv.EXCEPTION_MESSAGE)
    return Cause(
        WORKER_FAILURE,
        at.wall_ns,
        error_ns,
        rank=worker.rank,
        local_rank=worker.local_rank,
        pid=worker.pid,
        exit_code=code,
        signal=signal,
        error_type=error_type or str(said.get(semconv.ERROR_TYPE) or signal or "exit"),
        message=str(message)[:_MAX_MESSAGE] if message else None,
        ambiguous=doubt,
    )


def _exit_attributes(worker: Worker, code: int | None) -> dict[str, Any]:
    return {
        semconv.WORKER_RANK: worker.rank,
        semconv.WORKER_LOCAL_RANK: worker.local_rank,
        semconv.WORKER_PID: worker.pid,
        semconv.PROCESS_EXIT_CODE: code,
        semconv.WORKER_SIGNAL: signal_name(code) if code is not None else None,
    }


def _error_text(path: str | None) -> str | None:
    """What a worker left in its error file."""
    if not path:
        return None
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_ERROR_FILE) or None
    except OSError:
        return None
