"""An agent's lifecycle: its phases, and how it ended.

Phases come from this package's events if there are any, else they are inferred from torch's events.

Guarantees: phases are in order and none has a negative duration. If an event of this package is missing, what the next
one reports about the phase before it is used. What no event reports is ``None``.

Torch's own events (1.13 to 2.15) do not show ``detect``, ``stop`` and ``exit_barrier``: these are part of ``running``
then, and so are ``assign_ranks`` and ``start`` before torch 2.4, and ``start`` before torch 2.8. Nor do they reveal the
outcome: AGENT SUCCEEDED only means that ``run`` returned, also if the workers failed for good. If a worker hangs in
uninterruptible sleep, its workers are TERMINATED, and no event is FAILED (1.13 to 2.15). So it is derived from the
agent's own end and from its workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history.reports import number_of, seconds_of, text_of
from torchelastic_otel.history.types import Outcome, PhaseInterval
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.phases import Phase

_NEXT: Final = {
    Phase.RENDEZVOUS: {Phase.ASSIGN_RANKS},
    Phase.ASSIGN_RANKS: {Phase.START},
    Phase.START: {Phase.RUNNING},
    Phase.RUNNING: {Phase.DETECT, Phase.STOP, Phase.EXIT_BARRIER},
    Phase.DETECT: {Phase.STOP},
    Phase.STOP: {Phase.RENDEZVOUS},
}
_BRING_UP: Final = (Phase.ASSIGN_RANKS, Phase.START)
_WORKERS_ENDED: Final = frozenset({semconv.WORKER_SUCCEEDED, semconv.WORKER_FAILED, semconv.WORKER_TERMINATED})
_AGENT_ENDED: Final = frozenset({semconv.AGENT_SUCCEEDED, semconv.AGENT_FAILED})
SIGNALLED: Final = "SignalException"
"""What torch's agent raises on a termination signal."""
_LEFT_IN_GOOD_ORDER: Final = "RendezvousGracefulExitError"
_LOST_THE_OTHERS: Final = frozenset({"RendezvousConnectionError", "RendezvousClosedError"})
_JOINED: Final = frozenset({semconv.RENDEZVOUS_JOINED, semconv.WORKER_STARTED})
_OUTCOMES: Final = {
    "succeeded": Outcome.SUCCEEDED,
    "failed": Outcome.FAILED,
    "terminated": Outcome.TERMINATED,
    "error": Outcome.FAILED,
    "left": Outcome.LEFT,
}


@dataclass(frozen=True, slots=True)
class _Transition:
    """A phase begins.

    Attributes:
        previous: The phase before, if reported.
        previous_took_ns: How long that one took, if reported.
    """

    phase: Phase
    at_ns: int | None
    round: int | None = None
    previous: Phase | None = None
    previous_took_ns: int | None = None


def has_phase_events(events: Iterable[ElasticEvent]) -> bool:
    """Whether there are events of this package that report phases."""
    return any(event.name == semconv.AGENT_PHASE_ENTERED for event in events)


def phase_intervals(events: Sequence[ElasticEvent]) -> tuple[PhaseInterval, ...]:
    """An agent's phases in order; the last one has no end, unless it is ``ended``."""
    transitions = _reported(events) if has_phase_events(events) else _inferred(events)
    return _with_rounds(_intervals(transitions))


def phase_named(text: str | None) -> Phase | None:
    """The phase of that name; ``None`` for a name that this version does not know."""
    return Phase(text) if text in Phase._value2member_map_ else None


def _reported(events: Iterable[ElasticEvent]) -> list[_Transition]:
    return [
        _Transition(
            phase,
            event.time_ns,
            None if phase == Phase.RENDEZVOUS else number_of(event, semconv.RENDEZVOUS_ROUND),
            phase_named(text_of(event, semconv.PHASE_PREVIOUS)),
            seconds_of(event, semconv.PHASE_DURATION),
        )
        for event in events
        if event.name == semconv.AGENT_PHASE_ENTERED
        and (phase := phase_named(text_of(event, semconv.PHASE))) is not None
    ]


def _inferred(events: Iterable[ElasticEvent]) -> list[_Transition]:
    found: list[_Transition] = []
    for event in events:
        current = found[-1].phase if found else None
        round_ = number_of(event, semconv.RENDEZVOUS_ROUND)
        took_ns = seconds_of(event, semconv.AGENT_STEP_DURATION)
        began_ns = None if took_ns is None or event.time_ns is None else event.time_ns - took_ns
        if event.name == semconv.RENDEZVOUS_JOIN_ATTEMPTED:
            if current != Phase.RENDEZVOUS:
                found.append(_Transition(Phase.RENDEZVOUS, event.time_ns))
        elif event.name == semconv.RENDEZVOUS_JOINED:
            found.append(_Transition(Phase.ASSIGN_RANKS, event.time_ns, round_))
        elif event.name == semconv.AGENT_RENDEZVOUS_FINISHED:
            # static and etcd record no other event of a rendezvous
            if current not in (Phase.RENDEZVOUS, Phase.ASSIGN_RANKS):
                found.append(_Transition(Phase.RENDEZVOUS, began_ns))
        elif event.name == semconv.AGENT_RANKS_ASSIGNED:
            if current == Phase.RENDEZVOUS:
                found.append(_Transition(Phase.ASSIGN_RANKS, began_ns, round_))
            found.append(_Transition(Phase.START, event.time_ns, round_))
        elif event.name == semconv.WORKER_STARTED:
            if found and (found[-1].phase, found[-1].round) == (Phase.RUNNING, round_):
                found.pop()  # starting ends with the last worker's start
            found.append(_Transition(Phase.RUNNING, event.time_ns, round_))
        elif event.name in _WORKERS_ENDED | _AGENT_ENDED and current != Phase.ENDED:
            if event.name in _WORKERS_ENDED and current is None:
                found.append(_Transition(Phase.RUNNING, None, round_))
            found.append(_Transition(Phase.ENDED, event.time_ns, round_ if event.name in _WORKERS_ENDED else None))
    # if torch does not report the start of workers, they run from the last event of their bring-up on
    following = [*(transition.phase for transition in found[1:]), None]
    return [
        replace(transition, phase=Phase.RUNNING)
        if transition.phase in _BRING_UP and after not in (*_BRING_UP, Phase.RUNNING)
        else transition
        for transition, after in zip(found, following, strict=False)
    ]


def _intervals(transitions: Sequence[_Transition]) -> list[PhaseInterval]:
    intervals: list[PhaseInterval] = []
    for i, transition in enumerate(transitions):
        before = transitions[i - 1] if i else None
        at_ns, took_ns, previous = transition.at_ns, transition.previous_took_ns, transition.previous
        if previous is not None and (before is None or before.phase != previous):
            # the event of the phase in between is missing
            start_ns = None if at_ns is None or took_ns is None else at_ns - max(0, took_ns)
            if intervals and previous not in _NEXT.get(intervals[-1].phase, ()):
                intervals[-1] = replace(intervals[-1], end_ns=None, duration_ns=None)
            elif intervals:
                intervals[-1] = _ended(intervals[-1], start_ns, None)
            intervals.append(PhaseInterval(previous, start_ns, at_ns, took_ns, _round_before(transition, before)))
        elif intervals:
            intervals[-1] = _ended(intervals[-1], at_ns, took_ns)
        intervals.append(PhaseInterval(transition.phase, at_ns, None, None, transition.round))
    if intervals and intervals[-1].phase == Phase.ENDED:
        intervals[-1] = replace(intervals[-1], end_ns=intervals[-1].start_ns, duration_ns=0)
    return intervals


def _round_before(transition: _Transition, before: _Transition | None) -> int | None:
    if transition.previous == Phase.RENDEZVOUS:
        return None
    return transition.round if transition.round is not None else before.round if before is not None else None


def _ended(interval: PhaseInterval, end_ns: int | None, took_ns: int | None) -> PhaseInterval:
    if end_ns is not None and interval.start_ns is not None:
        end_ns = max(end_ns, interval.start_ns)
        took_ns = end_ns - interval.start_ns if took_ns is None else took_ns
    return replace(interval, end_ns=end_ns, duration_ns=None if took_ns is None else max(0, took_ns))


def _with_rounds(intervals: Sequence[PhaseInterval]) -> tuple[PhaseInterval, ...]:
    """A rendezvous gets the round that it formed; other phases without a round get that of the phase before."""
    result: list[PhaseInterval] = []
    for i, interval in enumerate(intervals):
        if interval.phase == Phase.RENDEZVOUS:
            following = intervals[i + 1] if i + 1 < len(intervals) else None
            formed = following is not None and following.phase in (Phase.ASSIGN_RANKS, Phase.START, Phase.RUNNING)
            interval = replace(interval, round=following.round if formed and following is not None else None)
        elif interval.round is None and result and result[-1].phase != Phase.RENDEZVOUS:
            interval = replace(interval, round=result[-1].round)
        result.append(interval)
    return tuple(result)


@dataclass(frozen=True, slots=True)
class AgentOutcome:
    """How an agent ended.

    Attributes:
        outcome: ``unknown`` if its events stop without an end.
        leaving_ns: When it received a termination signal.
        why_unknown: Why the outcome is unknown although there is an end; else empty.
    """

    outcome: Outcome
    at_ns: int | None = None
    error_type: str | None = None
    message: str | None = None
    leaving_ns: int | None = None
    why_unknown: str = ""

    @property
    def lost_the_others(self) -> bool:
        """Whether it failed because it lost the other agents; then it cannot know why."""
        return self.error_type in _LOST_THE_OTHERS


def agent_outcome(events: Sequence[ElasticEvent], last_round: int | None, failed: bool) -> AgentOutcome:
    """How an agent ended.

    A failure that no restart followed is its outcome, whatever its ``run`` returned; but an agent that has waited in
    the exit barrier had succeeded.

    Args:
        events: Its events.
        last_round: The last round that it took part in.
        failed: Whether its workers failed in that round and no restart followed.
    """
    own = at_ns = error = message = leaving_ns = torchs = None
    signalled = beyond = False  # beyond: in a later round than the last one known, or in the exit barrier
    workers: set[str] = set()
    joined = max((i for i, event in enumerate(events) if event.name in _JOINED), default=-1)
    for i, event in enumerate(events):
        if event.name == semconv.AGENT_PHASE_ENTERED and text_of(event, semconv.PHASE) == Phase.ENDED.value:
            own, at_ns = text_of(event, semconv.AGENT_OUTCOME), event.time_ns
            beyond = text_of(event, semconv.PHASE_PREVIOUS) == Phase.EXIT_BARRIER.value
            error, message = _error_of(event, error, message)
        elif event.name == semconv.AGENT_LEAVING:
            signalled = signalled or text_of(event, semconv.WORKER_SIGNAL) is not None
            leaving_ns = leaving_ns if leaving_ns is not None else event.time_ns
        elif event.name in (semconv.AGENT_FAILED, semconv.AGENT_SUCCEEDED):
            torchs = event.name
            # its last round may have no other event here
            beyond = beyond or (
                last_round is not None and number_of(event, semconv.RENDEZVOUS_ROUND) not in (None, last_round)
            )
            at_ns = at_ns if own is not None else event.time_ns
            if event.name == semconv.AGENT_FAILED:
                error, message = _error_of(event, error, message)
        elif event.name == semconv.RENDEZVOUS_FAILED and i > joined:
            error, message = _error_of(event, error, message)
            at_ns = at_ns if at_ns is not None else event.time_ns
        elif event.name in (semconv.WORKER_SUCCEEDED, semconv.WORKER_TERMINATED) or (
            event.name == semconv.WORKER_FAILED and event.attributes.get(semconv.INFERRED) is not True
        ):
            workers.add(event.name)
    outcome, why = _outcome(own, torchs, error, workers, failed and not beyond)
    if outcome == Outcome.UNKNOWN and signalled:
        outcome = Outcome.TERMINATED
    if outcome == Outcome.SUCCEEDED:
        error = message = None  # only a call of its shutdown failed
    return AgentOutcome(outcome, at_ns, error, message, leaving_ns, why)


def _outcome(
    own: str | None, torchs: str | None, error: str | None, workers: set[str], failed: bool
) -> tuple[Outcome, str]:
    if own in _OUTCOMES and own != "succeeded":
        return _OUTCOMES[own], ""
    if semconv.WORKER_FAILED in workers or semconv.WORKER_TERMINATED in workers:
        return Outcome.FAILED, ""
    if own == "succeeded":
        return (Outcome.FAILED if failed else Outcome.SUCCEEDED), ""
    if torchs == semconv.AGENT_FAILED or (error is not None and torchs is None):
        if error == SIGNALLED:
            return Outcome.TERMINATED, ""
        return (Outcome.LEFT if error == _LEFT_IN_GOOD_ORDER else Outcome.FAILED), ""
    if semconv.WORKER_SUCCEEDED in workers:
        return Outcome.SUCCEEDED, ""
    if torchs == semconv.AGENT_SUCCEEDED:
        return (Outcome.FAILED, "") if failed else (Outcome.UNKNOWN, "no event reports the end of the workers")
    return Outcome.UNKNOWN, ""


def _error_of(event: ElasticEvent, error: str | None, message: str | None) -> tuple[str | None, str | None]:
    type_ = text_of(event, semconv.ERROR_TYPE)
    if type_ is None:
        return error, message
    return type_, text_of(event, semconv.EXCEPTION_MESSAGE) or (message if type_ == error else None)
