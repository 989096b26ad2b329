"""The failure of one worker, from when it was seen and what the worker left behind.

Guarantees: the exception that the worker noted itself goes before torch's error file, that before the stack of a crash,
the call of ``sys.exit`` and the end of the standard error; what is missing is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.agent.evidence import RaisedException, WorkerEvidence
from torchelastic_otel.agent.inspection import Findings
from torchelastic_otel.agent.memory_events import MemoryKill
from torchelastic_otel.agent.processes import Observed, Worker
from torchelastic_otel.model import exit_codes
from torchelastic_otel.model.cause import WORKER_FAILURE, Cause, place_text
from torchelastic_otel.model.event import AttributeValue
from torchelastic_otel.model.failure import (
    HANG,
    OUT_OF_MEMORY,
    UNINTERRUPTIBLE_SLEEP,
    Place,
    Weight,
    may_precede,
    weight_of,
)
from torchelastic_otel.model.inferred_event import ClockReading
from torchelastic_otel.torch_events.error_files import from_error_file
from torchelastic_otel.torch_events.standard_error import from_standard_error, place_of
from torchelastic_otel.units import NS_PER_S

_MAX_MESSAGE: Final = 300
_SIGKILL: Final = 9


@dataclass(slots=True)
class WorkerState:
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
class ObservedFailure:
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
            **exit_attributes(self.worker, self.code),
            semconv.FAILURE_KIND: self.kind,
            **self.observed.attributes(),
            **({} if self.error_file else self.error),
            **place_attributes(self.place),
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


def hang_of(state: WorkerState) -> ObservedFailure | None:
    """A worker that was outside a collective when it was stopped."""
    evidence = state.findings.evidence if state.findings is not None else None
    if state.failure is not None or state.exit is None or evidence is None or evidence.stop is None:
        return None
    code, observed = state.exit
    stop = evidence.stop
    if stop.in_collective is not False or code >= 0:
        return None
    where = f" in {place_text(stop.place.function, stop.place.file, stop.place.line)}" if stop.place else ""
    return ObservedFailure(
        state.worker,
        code,
        observed,
        HANG,
        {semconv.ERROR_TYPE: HANG},
        explanation=f"the others waited for it; it was{where} when it was stopped",
        place=stop.place,
        stack=stop.text,
    )


def failure_of(state: WorkerState) -> ObservedFailure:
    """The failure of a worker, with what it left behind."""
    assert state.failure is not None
    code, observed = state.failure
    findings = state.findings or Findings()
    if state.hangs:
        hang = {semconv.ERROR_TYPE: UNINTERRUPTIBLE_SLEEP}
        return ObservedFailure(state.worker, code, observed, UNINTERRUPTIBLE_SLEEP, hang)
    if observed.source == "poll" and findings.error_file_ns is not None:
        age_ns = observed.at.wall_ns - findings.error_file_ns
        if 0 <= age_ns <= observed.error_ns:
            at = ClockReading(observed.at.wall_ns - age_ns, observed.at.monotonic_ns - age_ns)
            observed = Observed(at, "error_file")
    left = _left_by(code, findings)
    error, evidence = left.error, findings.evidence or WorkerEvidence()
    explanations = [exit_codes.explanation(code)]
    if (raised := evidence.exception) is not None:
        if not raised.late:
            observed = Observed(raised.at, "evidence")
        explanations.append(_end_after(raised, state))
    place = left.place
    if place is None and isinstance(trace := error.get(semconv.EXCEPTION_STACKTRACE), str):
        place = place_of(trace)
    kind, memory = _memory_kill(code, findings.memory)
    explanations.append(memory)
    return ObservedFailure(
        state.worker,
        code,
        observed,
        kind or left.kind,
        error,
        left.error_file,
        "; ".join(each for each in explanations if each) or None,
        None if error or left.stack else findings.standard_error,
        place,
        left.stack,
    )


@dataclass(frozen=True, slots=True)
class _Left:
    """The best of what a worker left behind about its end."""

    kind: str
    error: Mapping[str, AttributeValue] = field(default_factory=dict)
    error_file: str | None = None
    place: Place | None = None
    stack: str | None = None


def _left_by(code: int | None, findings: Findings) -> _Left:
    evidence = findings.evidence or WorkerEvidence()
    kind = "signal" if code is not None and code < 0 else "exit"
    if evidence.exception is not None:
        return _Left("exception", _raised_attributes(evidence.exception), place=evidence.exception.place)
    if findings.error_file:
        return _Left("exception", from_error_file(findings.error_file), findings.error_file)
    if evidence.fatal is not None and kind == "signal":
        return _Left(kind, place=evidence.fatal.place, stack=evidence.fatal.text)
    if evidence.exit is not None and code == evidence.exit.code:
        text = evidence.exit.text
        return _Left(kind, {semconv.EXCEPTION_MESSAGE: text} if text else {}, place=evidence.exit.place)
    if findings.standard_error and code != -_SIGKILL and (error := from_standard_error(findings.standard_error)):
        return _Left("exception", error)
    return _Left(kind)


def _end_after(raised: RaisedException, state: WorkerState) -> str | None:
    """What a person should know of the time between an exception and the end of its process."""
    if state.stuck_ns is not None:
        evidence = state.findings.evidence if state.findings is not None else None
        now = evidence.stuck.place if evidence is not None and evidence.stuck is not None else None
        text = f"it raised the exception {state.stuck_ns / NS_PER_S:.0f} s ago and has not ended"
        return text + (f": it is in {place_text(now.function, now.file, now.line)}" if now else "")
    rest_ns = 0 if state.exit is None else state.exit[1].at.monotonic_ns - raised.at.monotonic_ns
    return f"its process ended {rest_ns / NS_PER_S:.1f} s after the exception" if rest_ns >= NS_PER_S else None


def _memory_kill(code: int | None, memory: MemoryKill | None) -> tuple[str | None, str | None]:
    """The kind of failure, if the kernel killed the worker for lack of memory, and an explanation."""
    if memory is None:
        return None, None
    number = None if code is None else -code if code < 0 else exit_codes.wrapped_signal(code)
    if number == _SIGKILL and memory.kills:
        return OUT_OF_MEMORY, f"the kernel killed it: {memory.reason}"
    if number == _SIGKILL:
        return None, f"the kernel likely killed it for lack of memory: {memory.reason}"
    return None, f"the kernel killed a process of its group: {memory.reason}" if memory.kills else None


def overlap(one: Observed, other: Observed) -> bool:
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


def place_attributes(place: Place | None) -> dict[str, Any]:
    """A place in the program as attributes; empty if it is unknown."""
    if place is None:
        return {}
    return {
        semconv.CODE_FUNCTION_NAME: place.function,
        semconv.CODE_FILE_PATH: place.file,
        semconv.CODE_LINE_NUMBER: place.line,
    }


def exit_attributes(worker: Worker, code: int | None) -> dict[str, Any]:
    """A worker and its exit code as attributes."""
    return {
        semconv.WORKER_RANK: worker.rank,
        semconv.WORKER_LOCAL_RANK: worker.local_rank,
        semconv.WORKER_PID: worker.pid,
        semconv.PROCESS_EXIT_CODE: code,
        semconv.WORKER_SIGNAL: _signal(code),
    }


def _signal(code: int | None) -> str | None:
    return exit_codes.signal_name(code) if code is not None else None
