"""The workers of one start: which failed, in what order, why, and how each ended.

Guarantees:

- Each worker's failure and exit are reported once, however often torch polls, and whichever source saw them first.
- One of the failures is reported as the cause on this node, all others as its victims: see
  :func:`~torchelastic_otel.model.failure.decide`. While all that failed waited for others, the report waits until torch
  has stopped the workers, at most two seconds: their stacks then show for whom.
- A worker that raised an exception has failed at that time, also if it ends later or is stopped.
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
from torchelastic_otel.agent.evidence import RaisedException, WorkerEvidence
from torchelastic_otel.agent.inspection import Findings, WorkerInspector
from torchelastic_otel.agent.processes import Observed, ProcessExit, Worker
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model import exit_codes
from torchelastic_otel.model.cause import WORKER_FAILURE, Cause, place_text
from torchelastic_otel.model.event import AttributeValue
from torchelastic_otel.model.failure import (
    HANG,
    OUT_OF_MEMORY,
    UNINTERRUPTIBLE_SLEEP,
    Decision,
    Evidence,
    Place,
    Weight,
    decide,
    may_precede,
    weight_of,
)
from torchelastic_otel.model.inferred_event import ClockReading
from torchelastic_otel.torch_events.error_files import from_error_file
from torchelastic_otel.torch_events.standard_error import from_standard_error, place_of
from torchelastic_otel.units import NS_PER_MS, NS_PER_S

_MAX_MESSAGE: Final = 300
_SIGKILL: Final = 9
FLUSH_TIMEOUT_NS: Final = 40 * NS_PER_MS
"""How long a report may still wait for files while torch's thread waits for the report."""
MAX_HOLD_NS: Final = 2 * NS_PER_S
"""How long the report of failures waits for the stacks of workers that are being stopped."""
STUCK_NS: Final = 10 * NS_PER_S
"""After this time a worker that raised an exception and has not ended is reported."""
_EVIDENCE_INTERVAL_NS: Final = 5 * NS_PER_S


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
        is_read: Whether it was read after the worker had ended.
        stuck_ns: How long ago it raised an exception when it was found not to end, nanoseconds.
        failure_reported: Whether its failure is reported.
        exit_reported: Whether its exit is reported.
    """

    worker: Worker
    exit: tuple[int, Observed] | None = None
    failure: tuple[int | None, Observed] | None = None
    hangs: bool = False
    findings: Findings | None = None
    reading: int = 0
    is_read: bool = False
    stuck_ns: int | None = None
    failure_reported: bool = False
    exit_reported: bool = False


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failure, ready to be reported; or a worker that was outside a collective when it was stopped."""

    worker: Worker
    code: int | None
    observed: Observed
    kind: str
    error: Mapping[str, AttributeValue] = field(default_factory=dict)
    error_file: str | None = None
    explanation: str | None = None
    stderr: str | None = None
    place: Place | None = None
    stack: str | None = None

    @property
    def weight(self) -> Weight:
        """How it weighs as a cause."""
        of = self.error.get
        error_type, message = of(semconv.ERROR_TYPE), of(semconv.EXCEPTION_MESSAGE)
        return weight_of(self.kind, str(error_type) if error_type else None, str(message or ""), self.stderr)

    @property
    def at_ns(self) -> int:
        """By the monotonic clock."""
        return self.observed.at.monotonic_ns

    @property
    def error_ns(self) -> int:
        """By how much it may have been earlier."""
        return self.observed.error_ns

    @property
    def rank(self) -> int | None:
        """The worker's global rank."""
        return self.worker.rank

    def attributes(self) -> dict[str, Any]:
        """As attributes of an event."""
        return {
            **_exit_attributes(self.worker, self.code),
            semconv.FAILURE_KIND: self.kind,
            **self.observed.attributes(),
            **({} if self.error_file else self.error),
            **_place_attributes(self.place),
            **({semconv.CODE_STACKTRACE: self.stack} if self.stack else {}),
            **({semconv.FAILURE_EXPLANATION: self.explanation} if self.explanation else {}),
            **({semconv.WORKER_STDERR: self.stderr} if self.stderr else {}),
        }

    def cause(self, *, ambiguous: bool = False) -> Cause:
        """As a cause, without the node's name."""
        message, signal = self.error.get(semconv.EXCEPTION_MESSAGE), _signal(self.code)
        place = self.place or Place("", "", 0)
        return Cause(
            WORKER_FAILURE,
            self.observed.at.wall_ns,
            self.observed.error_ns,
            rank=self.worker.rank,
            local_rank=self.worker.local_rank,
            pid=self.worker.pid,
            exit_code=self.code,
            signal=signal,
            error_type=str(self.error.get(semconv.ERROR_TYPE) or signal or "exit"),
            message=str(message)[:_MAX_MESSAGE] if message else None,
            ambiguous=ambiguous,
            failure_kind=self.kind,
            function=place.function or None,
            file=place.file or None,
            line=place.line or None,
            waited=self.weight == Weight.WAITED,
        )


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
        propose: Takes a cause, without the node's name.
        propose_culprits: Takes the workers that were outside a collective when they were stopped.
        thread: The event loop.
        clock: Both clocks.
        inspector: Reads what workers leave behind.
        round_: The round that they were started in.
        is_alone: Whether no other node takes part.
    """

    def __init__(
        self,
        workers: Iterable[Worker],
        emit: Callable[[str, Mapping[str, Any], ClockReading, str | None], object],
        on_detected: Callable[[ClockReading], object],
        propose: Callable[[Cause], object],
        propose_culprits: Callable[[Sequence[Cause]], object],
        thread: EventLoopThread,
        clock: Callable[[], ClockReading],
        inspector: WorkerInspector,
        round_: int | None = None,
        *,
        is_alone: bool = True,
    ) -> None:
        self.round = round_
        self._is_alone = is_alone
        self.workers: Mapping[int, Worker] = {worker.local_rank: worker for worker in workers}
        self._stop_ns: int | None = None
        self._emit = emit
        self._on_detected = on_detected
        self._propose = propose
        self._propose_culprits = propose_culprits
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
        self._is_closed = False
        self._held_since_ns: int | None = None
        self._has_cause = False
        self._culprits_proposed = False
        self._flushing: list[Callable[[], object]] = []

    def watch(self, since: ClockReading) -> None:
        """They run since then: none can have failed before."""
        self._last_poll = since
        self._thread.call_soon(lambda: self._inspector.on_started(self.workers))
        self._thread.call_soon(lambda: self._thread.call_later(_EVIDENCE_INTERVAL_NS, self._poll_evidence))
        self._exits.watch({rank: worker.pid for rank, worker in self.workers.items()}, since.monotonic_ns)

    # --- from torch's thread

    @property
    def stopping(self) -> bool:
        """Whether the agent stops them: a worker that ends from then on has not failed."""
        return self._stop_ns is not None

    def begin_stop(self) -> None:
        """The agent stops them from now on."""
        self._stop_ns = self._clock().monotonic_ns

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
        self._is_closed = True
        self._advance()

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
        self._inspect_running()
        self._advance()

    def _inspect_running(self) -> None:
        """Something failed: another worker may have raised an exception before, and not have ended yet."""
        for state in self._states.values():
            if state.failure is None and state.exit is None and not state.reading:
                self._inspect(state, ended=False)

    def _inspect(self, state: _State, *, ended: bool = True) -> None:
        if not state.is_read:
            state.is_read = ended
            state.reading += 1
            self._inspector.inspect(state.worker, lambda findings: self._on_inspected(state, findings), ended=ended)

    def _on_inspected(self, state: _State, findings: Findings) -> None:
        state.reading -= 1
        if state.is_read or findings.evidence is not None:
            state.findings = findings
        raised = findings.evidence.exception if findings.evidence is not None else None
        stop_ns = self._stop_ns
        if state.failure is None and raised is not None and not raised.late:
            is_own = stop_ns is None or raised.at.monotonic_ns < stop_ns
            if is_own:  # what it raises when it is stopped is no failure
                state.failure = state.exit[0] if state.exit else None, Observed(raised.at, "evidence")
                self._inspect_running()
        self._advance()

    def _poll_evidence(self) -> None:
        """Look for workers that raised an exception and do not end."""
        if self._is_closed or self.stopping:
            return
        self._thread.call_later(_EVIDENCE_INTERVAL_NS, self._poll_evidence)
        for state in self._states.values():
            if state.exit is None and state.failure is None and state.worker.evidence and not state.reading:
                self._look_for_stuck(state)

    def _look_for_stuck(self, state: _State) -> None:
        def on_inspected(findings: Findings) -> None:
            raised = findings.evidence.exception if findings.evidence is not None else None
            if raised is not None and state.failure is None and state.exit is None:
                age_ns = self._clock().monotonic_ns - raised.at.monotonic_ns
                if age_ns >= STUCK_NS:
                    state.findings = findings
                    state.stuck_ns = age_ns
                    state.failure = None, Observed(raised.at, "evidence")
                    self._advance()

        self._inspector.inspect(state.worker, on_inspected, ended=False)

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
        states = self._states.values()
        for state in states:
            if state.exit is not None and not state.exit_reported and (not state.reading or self._due):
                state.exit_reported = True
                self._report_exit(state, *state.exit)
        is_read = self._due or not any(state.reading for state in states)
        if is_read:
            self._report_failures()
        if is_read:
            flushing, self._flushing = self._flushing, []
            for done in flushing:
                done()

    def _report_exit(self, state: _State, code: int, observed: Observed) -> None:
        attributes = {**_exit_attributes(state.worker, code), **observed.attributes()}
        evidence = state.findings.evidence if state.findings is not None else None
        if evidence is not None and evidence.stop is not None and state.failure is None:
            attributes |= _place_attributes(evidence.stop.place)
            attributes[semconv.CODE_STACKTRACE] = evidence.stop.text
            attributes[semconv.WORKER_IN_COLLECTIVE] = evidence.stop.in_collective
        self._emit(semconv.WORKER_EXITED, attributes, observed.at, None)

    def _report_failures(self) -> None:
        failed = [state for state in self._states.values() if state.failure is not None]
        culprits = [hang for state in self._states.values() if (hang := _hang(state)) is not None]
        new = [state for state in failed if not state.failure_reported]
        if not failed:
            if self._flushing and culprits and not self._culprits_proposed:
                self._culprits_proposed = True
                self._propose_culprits([culprit.cause() for culprit in culprits])
            return
        culprits_are_new = any(not self._states[each.worker.local_rank].failure_reported for each in culprits)
        if not new and not culprits_are_new:
            return
        failures = {state.worker.local_rank: _failure(state) for state in failed}
        decision = decide([*failures.values(), *culprits])
        if self._must_wait(decision.evidence):
            return
        causes = () if self._has_cause else decision.causes
        if decision.evidence == Evidence.ALL_WAITED and not self._is_alone:
            causes = ()  # the cause is likely on another node
        self._has_cause = self._has_cause or bool(causes)
        in_order = sorted(failures.values(), key=lambda failure: failure.at_ns)
        for failure in in_order:
            state = self._states[failure.worker.local_rank]
            if not state.failure_reported:
                state.failure_reported = True
                overlaps = any(
                    other is not failure and _overlap(other.observed, failure.observed) for other in failures.values()
                )
                self._report_failure(failure, decision, is_cause=failure in causes, ambiguous=overlaps)
        if decision.evidence == Evidence.STACK_AT_STOP:
            self._propose(in_order[0].cause())
            self._propose_culprits([culprit.cause() for culprit in culprits])
            self._report_culprits(culprits, decision)
        elif new and decision.causes:
            self._propose(decision.causes[0].cause(ambiguous=decision.ambiguous))

    def _must_wait(self, evidence: Evidence | None) -> bool:
        """Whether stacks of workers that are being stopped may show for whom the others waited."""
        if self._due or self._is_closed or evidence not in (Evidence.ALL_WAITED, Evidence.STACK_AT_STOP):
            return False
        if all(state.exit is not None for state in self._states.values()):
            return False
        now_ns = self._clock().monotonic_ns
        if self._held_since_ns is None:
            self._held_since_ns = now_ns
            self._thread.call_later(MAX_HOLD_NS, self._advance)
        return now_ns - self._held_since_ns < MAX_HOLD_NS

    def _report_failure(
        self, failure: _Failure, decision: Decision[_Failure], *, is_cause: bool, ambiguous: bool
    ) -> None:
        attributes = {
            **failure.attributes(),
            semconv.FAILURE_ROLE: "cause" if is_cause else "victim",
            semconv.FAILURE_AMBIGUOUS: ambiguous or None,
        }
        if is_cause and decision.evidence is not None:
            attributes[semconv.FAILURE_EVIDENCE] = decision.evidence.value
        self._emit(semconv.WORKER_FAILED, attributes, failure.observed.at, failure.error_file)

    def report_hang(self) -> None:
        """Report the workers that all others waited for, which other agents have found; on the event loop."""
        culprits = [hang for state in self._states.values() if (hang := _hang(state)) is not None]
        self._report_culprits(culprits, Decision(tuple(culprits), Evidence.STACK_AT_STOP))

    def _report_culprits(self, culprits: Sequence[_Failure], decision: Decision[_Failure]) -> None:
        for culprit in culprits:
            state = self._states[culprit.worker.local_rank]
            if not state.failure_reported:
                state.failure_reported = True
                self._report_failure(culprit, decision, is_cause=True, ambiguous=False)


def _hang(state: _State) -> _Failure | None:
    """A worker that was outside a collective when it was stopped."""
    evidence = state.findings.evidence if state.findings is not None else None
    if state.failure is not None or state.exit is None or evidence is None or evidence.stop is None:
        return None
    code, observed = state.exit
    stop = evidence.stop
    if stop.in_collective is not False or code >= 0:
        return None
    where = f" in {place_text(stop.place.function, stop.place.file, stop.place.line)}" if stop.place else ""
    return _Failure(
        state.worker,
        code,
        observed,
        HANG,
        {semconv.ERROR_TYPE: HANG},
        explanation=f"the others waited for it; it was{where} when it was stopped",
        place=stop.place,
        stack=stop.text,
    )


def _failure(state: _State) -> _Failure:
    """The failure of a worker, with what it left behind."""
    assert state.failure is not None
    code, observed = state.failure
    findings = state.findings or Findings()
    if state.hangs:
        hang = {semconv.ERROR_TYPE: UNINTERRUPTIBLE_SLEEP}
        return _Failure(state.worker, code, observed, UNINTERRUPTIBLE_SLEEP, hang)
    if observed.source == "poll" and findings.error_file_ns is not None:
        age_ns = observed.at.wall_ns - findings.error_file_ns
        if 0 <= age_ns <= observed.error_ns:
            at = ClockReading(observed.at.wall_ns - age_ns, observed.at.monotonic_ns - age_ns)
            observed = Observed(at, "error_file")
    kind = "signal" if code is not None and code < 0 else "exit"
    explanations = [exit_codes.explanation(code)]
    evidence = findings.evidence or WorkerEvidence()
    error: Mapping[str, AttributeValue] = {}
    error_file, place, stack = None, None, None
    if (raised := evidence.exception) is not None:
        kind, error, place = "exception", _raised_attributes(raised), raised.place
        if not raised.late:
            observed = Observed(raised.at, "evidence")
        if state.stuck_ns is not None:
            text = f"it raised the exception {state.stuck_ns / NS_PER_S:.0f} s ago and has not ended"
            now = evidence.stuck.place if evidence.stuck is not None else None
            explanations.append(text + (f": it is in {place_text(now.function, now.file, now.line)}" if now else ""))
        elif state.exit is not None and (rest_ns := state.exit[1].at.monotonic_ns - raised.at.monotonic_ns) >= NS_PER_S:
            explanations.append(f"its process ended {rest_ns / NS_PER_S:.1f} s after the exception")
    elif findings.error_file:
        kind, error_file, error = "exception", findings.error_file, from_error_file(findings.error_file)
    elif evidence.fatal is not None and code is not None and code < 0:
        place, stack = evidence.fatal.place, evidence.fatal.text
    elif evidence.exit is not None and code == evidence.exit.code:
        place = evidence.exit.place
        error = {semconv.EXCEPTION_MESSAGE: evidence.exit.text} if evidence.exit.text else {}
    elif findings.standard_error and code != -_SIGKILL:
        error = from_standard_error(findings.standard_error)
        kind = "exception" if error else kind
    if place is None and isinstance(trace := error.get(semconv.EXCEPTION_STACKTRACE), str):
        found = place_of(trace)
        place = Place(*found) if found is not None else None
    number = None if code is None else -code if code < 0 else exit_codes.wrapped_signal(code)
    if findings.memory is not None:
        if number == _SIGKILL and findings.memory.kills:
            kind = OUT_OF_MEMORY
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
        None if error or stack else findings.standard_error,
        place,
        stack,
    )


def _overlap(one: Observed, other: Observed) -> bool:
    """Whether the order of the two is uncertain."""
    first, second = one.at.monotonic_ns, other.at.monotonic_ns
    return may_precede(second, other.error_ns, first) and may_precede(first, one.error_ns, second)


def _raised_attributes(raised: RaisedException) -> dict[str, AttributeValue]:
    return {
        semconv.EXCEPTION_TYPE: raised.type,
        semconv.ERROR_TYPE: raised.type.rpartition(".")[2],
        **({semconv.EXCEPTION_MESSAGE: raised.message} if raised.message else {}),
        semconv.EXCEPTION_STACKTRACE: raised.stack,
    }


def _place_attributes(place: Place | None) -> dict[str, Any]:
    if place is None:
        return {}
    return {
        semconv.CODE_FUNCTION_NAME: place.function,
        semconv.CODE_FILE_PATH: place.file,
        semconv.CODE_LINE_NUMBER: place.line,
    }


def _exit_attributes(worker: Worker, code: int | None) -> dict[str, Any]:
    return {
        semconv.WORKER_RANK: worker.rank,
        semconv.WORKER_LOCAL_RANK: worker.local_rank,
        semconv.WORKER_PID: worker.pid,
        semconv.PROCESS_EXIT_CODE: code,
        semconv.WORKER_SIGNAL: _signal(code),
    }


def _signal(code: int | None) -> str | None:
    return exit_codes.signal_name(code) if code is not None else None


def _exit_code(descriptor: int) -> int | None:
    try:
        status = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:
        return None  # reaped by torch; or a kernel that has pidfds and cannot wait for them (Linux 5.3)
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
