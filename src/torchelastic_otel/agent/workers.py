"""The workers of one start: which failed, in what order, why, and how each ended.

Guarantees:

- Each worker's failure and exit are reported once, however often torch polls, and whichever source saw them first.
- The first failure is reported as the cause on this node, all others as its victims; if their times are too uncertain
  to order them, they are marked as ambiguous.
- Torch's threads open no file of a worker: they pass tasks to the event loop, which waits for reader threads, and
  reports without what they have not read in time. Before torch joins the next round, its thread waits for that, at
  most 50 ms.
- Nothing is reaped here (``WNOWAIT``), so that torch sees every exit status; without pidfd, or if torch reaps first,
  the exit code is ``None`` and never guessed. Torch itself sees an exit at its next poll, up to the monitor interval
  later, and keeps whole seconds (``ProcessFailure.timestamp``, torch 2.2 to 2.15).
- Each time has its source (``pidfd``, the error file, torch's poll) and by how much the event may have been earlier.
"""

from __future__ import annotations

import _thread
import os
import select
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.agent.inspection import Findings, WorkerInspector
from torchelastic_otel.agent.processes import Observed, ProcessExit, Worker
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model import exit_codes
from torchelastic_otel.model.cause import WORKER_FAILURE, Cause
from torchelastic_otel.model.event import AttributeValue
from torchelastic_otel.model.failure import may_precede
from torchelastic_otel.model.inferred_event import ClockReading
from torchelastic_otel.torch_events.error_files import from_error_file
from torchelastic_otel.torch_events.standard_error import from_standard_error, place_of
from torchelastic_otel.units import NS_PER_MS

_MAX_MESSAGE: Final = 300
_UNINTERRUPTIBLE_SLEEP: Final = "uninterruptible_sleep"
_OUT_OF_MEMORY: Final = "out_of_memory"
_SIGKILL: Final = 9
FLUSH_TIMEOUT_NS: Final = 40 * NS_PER_MS
"""How long a report may still wait for files while torch's thread waits for the report."""


@dataclass(slots=True)
class _State:
    """One worker, on the event loop.

    Attributes:
        worker: The worker.
        exit: Its exit code, and when that was; ``None`` while it runs.
        failure: Its exit code as the failure has it, and when torch or this agent saw it fail.
        hangs: Whether it is in uninterruptible sleep.
        findings: What it left behind; ``None`` while that is not read.
        reading: How many reads are under way.
        failure_reported: Whether its failure is reported.
        exit_reported: Whether its exit is reported.
    """

    worker: Worker
    exit: tuple[int, Observed] | None = None
    failure: tuple[int | None, Observed] | None = None
    hangs: bool = False
    findings: Findings | None = None
    reading: int = 0
    failure_reported: bool = False
    exit_reported: bool = False


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failure, ready to be reported."""

    worker: Worker
    code: int | None
    observed: Observed
    kind: str
    error: Mapping[str, AttributeValue] = field(default_factory=dict)
    error_file: str | None = None
    explanation: str | None = None
    stderr: str | None = None


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

    def watch(self, pids: Mapping[int, int], since_ns: int | None = None) -> None:
        """Watch these processes, by local rank.

        Args:
            pids: Their process ids.
            since_ns: Since when they may have ended, monotonic clock, nanoseconds; ``None`` for now.
        """
        since_ns = self._now().monotonic_ns if since_ns is None else since_ns
        self._thread.call_soon(lambda: self._open(dict(pids), since_ns))

    def _open(self, pids: Mapping[int, int], since_ns: int) -> None:
        pidfd_open: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
        if pidfd_open is None:
            return  # a Python that was built without it
        for local_rank, pid in pids.items():
            try:
                descriptor = pidfd_open(pid)
            except OSError:
                continue  # reaped already, or a kernel without pidfd: torch's poll remains
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            has_ended = bool(poll.poll(0))
            self._thread.add_reader(descriptor, self._reader(local_rank, descriptor, since_ns if has_ended else None))

    def _reader(self, local_rank: int, descriptor: int, since_ns: int | None = None) -> Callable[[], None]:
        def read() -> None:
            now, code = self._now(), _exit_code(descriptor)
            # another descriptor's task may have run since the loop woke up
            age_ns = max(0, now.monotonic_ns - self._thread.woken_ns)
            at = ClockReading(now.wall_ns - age_ns, now.monotonic_ns - age_ns)
            error_ns = self._thread.woken_error_ns if since_ns is None else max(0, at.monotonic_ns - since_ns)
            self.exits[local_rank] = ProcessExit(at, code, error_ns)
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
        inspector: Reads what workers leave behind.
    """

    def __init__(
        self,
        workers: Iterable[Worker],
        emit: Callable[[str, Mapping[str, Any], ClockReading, str | None], object],
        on_detected: Callable[[ClockReading], object],
        propose: Callable[[Cause], object],
        thread: EventLoopThread,
        clock: Callable[[], ClockReading],
        inspector: WorkerInspector,
    ) -> None:
        self.workers: Mapping[int, Worker] = {worker.local_rank: worker for worker in workers}
        self.stopping = False
        """Whether the agent stops them: a worker that ends from then on has not failed."""
        self._emit = emit
        self._on_detected = on_detected
        self._propose = propose
        self._thread = thread
        self._clock = clock
        self._inspector = inspector
        self._last_poll = clock()
        self._exits = ExitWatcher(thread, clock, self._on_exit)
        # torch's threads
        self._seen: set[int] = set()
        # the event loop
        self._states = {rank: _State(worker) for rank, worker in self.workers.items()}
        self._due = False
        self._cause: Cause | None = None
        self._flushing: list[Callable[[], object]] = []

    def watch(self, since: ClockReading) -> None:
        """They run since then: none can have failed before."""
        self._last_poll = since
        self._thread.call_soon(lambda: self._inspector.on_started(self.workers))
        self._exits.watch({rank: worker.pid for rank, worker in self.workers.items()}, since.monotonic_ns)

    # --- from torch's thread

    def on_poll(self) -> None:
        """Torch has polled them."""
        self._last_poll = self._clock()

    def on_close_begin(self, codes: Mapping[int, int | None]) -> bool:
        """Note failures, by torch's exit codes and the observed exits; returns whether some workers still run."""
        ended = {**codes, **{r: e.code for r, e in [*self._exits.exits.items()] if e.code is not None}}
        self._on_failed({rank: code for rank, code in ended.items() if code})
        return any(ended.get(rank) is None for rank in self.workers)

    def on_interrupt(self) -> None:
        """Note failures since torch's last poll: from now on torch regards them as stopped."""
        self._on_failed({rank: ended.code for rank, ended in [*self._exits.exits.items()] if ended.code})

    def on_close_end(self, codes: Mapping[int, int | None]) -> None:
        """Note the exits that torch alone knows."""
        polled = self._at_poll()
        self._thread.call_soon(lambda: self._on_closed(dict(codes), polled))

    def on_result(self, failed: Mapping[int, int | None], hanging: Iterable[int]) -> None:
        """Note what is only in torch's result, by process id: exit codes, and workers that hang for good."""
        by_pid = {worker.pid: worker.local_rank for worker in self.workers.values()}
        if self._seen:
            return
        if not self.stopping:
            self._on_failed({by_pid[pid]: code for pid, code in failed.items() if pid in by_pid and code})
        if not self._seen:
            ranks = [by_pid[pid] for pid in hanging if pid in by_pid]
            self._note({rank: (None, Observed(self._clock(), "result")) for rank in ranks}, hang=True)

    def flush(self, wait_s: float) -> None:
        """Wait until everything noted is reported, for a bounded time: what is not read until then is left out.

        Args:
            wait_s: The longest wait, seconds.
        """
        done = _thread.allocate_lock()
        done.acquire()
        self._thread.call_soon(lambda: self._flush(done.release))
        done.acquire(True, wait_s)

    def _on_failed(self, codes: Mapping[int, int | None]) -> None:
        polled = self._at_poll()
        new: dict[int, tuple[int | None, Observed]] = {}
        for rank, code in codes.items():
            if rank in self.workers and rank not in self._seen:
                ended = self._exits.exits.get(rank)
                new[rank] = code, polled if ended is None else ended.observed()
        self._note(new)

    def _note(self, failures: Mapping[int, tuple[int | None, Observed]], *, hang: bool = False) -> None:
        if failures:
            if not self._seen:
                first = min((observed.at for _, observed in failures.values()), key=lambda at: at.monotonic_ns)
                self._on_detected(first)
            # after the event above: if a signal interrupts that, the failure is noted with the next call
            self._thread.call_soon(lambda: self._on_noted(failures, hang))
            self._seen.update(failures)

    def _at_poll(self) -> Observed:
        at = self._clock()
        return Observed(at, "poll", max(0, at.monotonic_ns - self._last_poll.monotonic_ns))

    # --- on the event loop

    def _on_exit(self, local_rank: int, ended: ProcessExit) -> None:
        """A process has ended, perhaps when the workers of the next start already run."""
        if ended.code is not None:
            self._on_ended(self._states[local_rank], ended.code, ended.observed())

    def _on_closed(self, codes: Mapping[int, int | None], polled: Observed) -> None:
        for rank, code in codes.items():
            state = self._states.get(rank)
            if state is not None and code is not None and state.exit is None:
                ended = self._exits.exits.get(rank)
                known = ended.observed() if ended else state.failure[1] if state.failure else polled
                self._on_ended(state, code, known)

    def _on_ended(self, state: _State, code: int, observed: Observed) -> None:
        if state.exit is None:
            state.exit = code, observed
            if code:
                self._inspect(state)
            self._advance()

    def _on_noted(self, failures: Mapping[int, tuple[int | None, Observed]], hang: bool) -> None:
        for rank, failure in failures.items():
            state = self._states[rank]
            if state.failure is None:
                state.failure, state.hangs = failure, hang
                if state.exit is None and not hang:
                    self._inspect(state)
        self._advance()

    def _inspect(self, state: _State) -> None:
        if state.findings is None and not state.reading:
            state.reading += 1
            self._inspector.inspect(state.worker, lambda findings: self._on_inspected(state, findings), ended=True)

    def _on_inspected(self, state: _State, findings: Findings) -> None:
        state.reading -= 1
        state.findings = findings
        self._advance()

    def _flush(self, done: Callable[[], object]) -> None:
        self._flushing.append(done)
        self._thread.call_later(FLUSH_TIMEOUT_NS, self._on_due)
        self._advance()

    def _on_due(self) -> None:
        if self._flushing:
            self._due = True
            self._advance()
            self._due = False

    def _advance(self) -> None:
        """Report what can be reported."""
        for state in self._states.values():
            if state.exit is not None and not state.exit_reported and (not state.reading or self._due):
                state.exit_reported = True
                self._report_exit(state, *state.exit)
        new = [state for state in self._states.values() if state.failure is not None and not state.failure_reported]
        if new and (self._due or not any(state.reading for state in new)):
            for state in new:
                state.failure_reported = True
            self._report_failures([_failure(state) for state in new])
        if not any(state.reading for state in self._states.values()) or self._due:
            flushing, self._flushing = self._flushing, []
            for done in flushing:
                done()

    def _report_exit(self, state: _State, code: int, observed: Observed) -> None:
        attributes = {**_exit_attributes(state.worker, code), **observed.attributes()}
        self._emit(semconv.WORKER_EXITED, attributes, observed.at, None)

    def _report_failures(self, failures: Sequence[_Failure]) -> None:
        for failure in sorted(failures, key=lambda failure: failure.observed.at.monotonic_ns):
            ambiguous = any(other is not failure and _overlap(other.observed, failure.observed) for other in failures)
            self._report_failure(failure, ambiguous)

    def _report_failure(self, failure: _Failure, ambiguous: bool) -> None:
        observed, worker, is_cause = failure.observed, failure.worker, self._cause is None
        attributes = {
            **_exit_attributes(worker, failure.code),
            semconv.FAILURE_ROLE: "cause" if is_cause else "victim",
            semconv.FAILURE_KIND: failure.kind,
            semconv.FAILURE_AMBIGUOUS: ambiguous or None,
            **observed.attributes(),
            **({} if failure.error_file else failure.error),
            **_place_attributes(failure.error.get(semconv.EXCEPTION_STACKTRACE)),
            **({semconv.FAILURE_EXPLANATION: failure.explanation} if failure.explanation else {}),
            **({semconv.WORKER_STDERR: failure.stderr} if failure.stderr else {}),
        }
        self._emit(semconv.WORKER_FAILED, attributes, observed.at, failure.error_file)
        if is_cause:
            message, signal = failure.error.get(semconv.EXCEPTION_MESSAGE), attributes[semconv.WORKER_SIGNAL]
            error_type = failure.error.get(semconv.ERROR_TYPE) or signal or "exit"
            self._cause = Cause(
                WORKER_FAILURE,
                observed.at.wall_ns,
                observed.error_ns,
                rank=worker.rank,
                local_rank=worker.local_rank,
                pid=worker.pid,
                exit_code=failure.code,
                signal=signal,
                error_type=str(error_type),
                message=str(message)[:_MAX_MESSAGE] if message else None,
                ambiguous=ambiguous,
            )
            self._propose(self._cause)


def _failure(state: _State) -> _Failure:
    """The failure of a worker, with what it left behind."""
    assert state.failure is not None
    code, observed = state.failure
    findings = state.findings or Findings()
    if state.hangs:
        error: Mapping[str, AttributeValue] = {semconv.ERROR_TYPE: _UNINTERRUPTIBLE_SLEEP}
        return _Failure(state.worker, code, observed, _UNINTERRUPTIBLE_SLEEP, error)
    if observed.source == "poll" and findings.error_file_ns is not None:
        age_ns = observed.at.wall_ns - findings.error_file_ns
        if 0 <= age_ns <= observed.error_ns:
            at = ClockReading(observed.at.wall_ns - age_ns, observed.at.monotonic_ns - age_ns)
            observed = Observed(at, "error_file")
    kind = "signal" if code is not None and code < 0 else "exit"
    explanations = [exit_codes.explanation(code)]
    error, error_file = {}, findings.error_file
    if error_file:
        kind, error = "exception", from_error_file(error_file)
    elif findings.standard_error and code != -_SIGKILL:
        error = from_standard_error(findings.standard_error)
        kind = "exception" if error else kind
    number = None if code is None else -code if code < 0 else exit_codes.wrapped_signal(code)
    if findings.memory is not None:
        if number == _SIGKILL and findings.memory.kills:
            kind = _OUT_OF_MEMORY
            explanations.append(f"the kernel killed it: {findings.memory.reason}")
        elif number == _SIGKILL:
            explanations.append(f"the kernel likely killed it for lack of memory: {findings.memory.reason}")
        elif findings.memory.kills:
            explanations.append(f"the kernel killed a process of its group: {findings.memory.reason}")
    return _Failure(
        state.worker,
        code,
        observed,
        kind,
        error,
        error_file,
        "; ".join(each for each in explanations if each) or None,
        None if error else findings.standard_error,
    )


def _overlap(one: Observed, other: Observed) -> bool:
    """Whether the order of the two is uncertain."""
    first, second = one.at.monotonic_ns, other.at.monotonic_ns
    return may_precede(second, other.error_ns, first) and may_precede(first, one.error_ns, second)


def _place_attributes(trace: object) -> dict[str, Any]:
    place = place_of(trace) if isinstance(trace, str) else None
    if place is None:
        return {}
    function, file, line = place
    return {semconv.CODE_FUNCTION_NAME: function, semconv.CODE_FILE_PATH: file, semconv.CODE_LINE_NUMBER: line}


def _exit_attributes(worker: Worker, code: int | None) -> dict[str, Any]:
    return {
        semconv.WORKER_RANK: worker.rank,
        semconv.WORKER_LOCAL_RANK: worker.local_rank,
        semconv.WORKER_PID: worker.pid,
        semconv.PROCESS_EXIT_CODE: code,
        semconv.WORKER_SIGNAL: exit_codes.signal_name(code) if code is not None else None,
    }


def _exit_code(descriptor: int) -> int | None:
    try:
        status = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:
        return None  # reaped by torch; or a kernel that has pidfds and cannot wait for them (Linux 5.3)
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
