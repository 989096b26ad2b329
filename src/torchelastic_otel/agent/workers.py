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
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.agent.inspection import Findings, WorkerInspector
from torchelastic_otel.agent.processes import Observed, ProcessExit, Worker
from torchelastic_otel.agent.worker_failure import (
    ObservedFailure,
    WorkerState,
    exit_attributes,
    failure_of,
    hang_of,
    overlap,
    place_attributes,
)
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.cause import Cause
from torchelastic_otel.model.failure import Evidence, decide
from torchelastic_otel.model.inferred_event import ClockReading
from torchelastic_otel.units import NS_PER_MS, NS_PER_S

FLUSH_TIMEOUT_NS: Final = 40 * NS_PER_MS
"""How long a report may still wait for files while torch's thread waits for the report."""
MAX_HOLD_NS: Final = 2 * NS_PER_S
"""How long the report of failures waits for the stacks of workers that are being stopped."""
STUCK_NS: Final = 10 * NS_PER_S
"""After this time a worker that raised an exception and has not ended is reported."""
_EVIDENCE_INTERVAL_NS: Final = 5 * NS_PER_S


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
        self._states = {rank: WorkerState(worker) for rank, worker in self.workers.items()}
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

    def _on_ended(self, state: WorkerState, code: int, observed: Observed) -> None:
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

    def _inspect(self, state: WorkerState, *, ended: bool = True) -> None:
        if not state.is_read:
            state.is_read = ended
            state.reading += 1
            self._inspector.inspect(state.worker, lambda findings: self._on_inspected(state, findings), ended=ended)

    def _on_inspected(self, state: WorkerState, findings: Findings) -> None:
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

    def _look_for_stuck(self, state: WorkerState) -> None:
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
            flushing, self._flushing = self._flushing, []
            for done in flushing:
                done()

    def _report_exit(self, state: WorkerState, code: int, observed: Observed) -> None:
        attributes = {**exit_attributes(state.worker, code), **observed.attributes()}
        evidence = state.findings.evidence if state.findings is not None else None
        if evidence is not None and evidence.stop is not None and state.failure is None:
            attributes |= place_attributes(evidence.stop.place)
            attributes[semconv.CODE_STACKTRACE] = evidence.stop.text
            attributes[semconv.WORKER_IN_COLLECTIVE] = evidence.stop.in_collective
        self._emit(semconv.WORKER_EXITED, attributes, observed.at, None)

    def _report_failures(self) -> None:
        failed = [state for state in self._states.values() if state.failure is not None]
        culprits = self._culprits()
        new = [state for state in failed if not state.failure_reported]
        if not failed:
            if self._flushing and culprits and not self._culprits_proposed:
                self._culprits_proposed = True
                self._propose_culprits([culprit.cause() for culprit in culprits])
            return
        culprits_are_new = any(not self._states[each.worker.local_rank].failure_reported for each in culprits)
        if not new and not culprits_are_new:
            return
        failures = sorted((failure_of(state) for state in failed), key=lambda failure: failure.at_ns)
        decision = decide([*failures, *culprits])
        if self._must_wait(decision.evidence):
            return
        causes = () if self._has_cause else decision.causes
        if decision.evidence == Evidence.ALL_WAITED and not self._is_alone:
            causes = ()  # the cause is likely on another node
        self._has_cause = self._has_cause or bool(causes)
        for failure in failures:
            state = self._states[failure.worker.local_rank]
            if not state.failure_reported:
                state.failure_reported = True
                overlaps = any(other is not failure and overlap(other.observed, failure.observed) for other in failures)
                self._report_failure(failure, decision.evidence if failure in causes else None, ambiguous=overlaps)
        if decision.evidence == Evidence.STACK_AT_STOP:
            self._propose(failures[0].cause())
            self._propose_culprits([culprit.cause() for culprit in culprits])
            self.report_hang()
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

    def _report_failure(self, failure: ObservedFailure, evidence: Evidence | None, *, ambiguous: bool = False) -> None:
        """Report a failure; it is the cause if some evidence decided that."""
        attributes = {
            **failure.attributes(),
            semconv.FAILURE_ROLE: "victim" if evidence is None else "cause",
            semconv.FAILURE_AMBIGUOUS: ambiguous or None,
            **({} if evidence is None else {semconv.FAILURE_EVIDENCE: evidence.value}),
        }
        self._emit(semconv.WORKER_FAILED, attributes, failure.observed.at, failure.error_file)

    def report_hang(self) -> None:
        """Report the workers that all others waited for, which other agents have found; on the event loop."""
        for culprit in self._culprits():
            state = self._states[culprit.worker.local_rank]
            if not state.failure_reported:
                state.failure_reported = True
                self._report_failure(culprit, Evidence.STACK_AT_STOP)

    def _culprits(self) -> list[ObservedFailure]:
        return [hang for state in self._states.values() if (hang := hang_of(state)) is not None]


def _exit_code(descriptor: int) -> int | None:
    try:
        status = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:
        return None  # reaped by torch; or a kernel that has pidfds and cannot wait for them (Linux 5.3)
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
