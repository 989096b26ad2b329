"""From an agent's events to its phases: as our own events tell them, else as torch's events let one infer.

What always holds: phases are in order and none has a negative duration; where an event of ours is missing, what the
next one says of the phase before it is used; what nobody said is ``None``.

Torch alone (1.13 to 2.15) does not tell of ``detect``, ``stop`` and ``exit_barrier``: they are within ``running``
there, as are ``assign_ranks`` and ``start`` before torch 2.4, and ``start`` before torch 2.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history.attributes import number_of, seconds_of, text_of
from torchelastic_otel.history.types import PhaseInterval
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


@dataclass(frozen=True, slots=True)
class _Mark:
    """A phase begins."""

    phase: Phase
    at_ns: int | None
    round: int | None = None
    previous: Phase | None = None
    took_ns: int | None = None


def tells_phases(events: Iterable[ElasticEvent]) -> bool:
    """Whether an agent's phases are told by events of ours."""
    return any(event.name == semconv.AGENT_PHASE_ENTERED for event in events)


def stretches_of(events: Sequence[ElasticEvent]) -> tuple[PhaseInterval, ...]:
    """An agent's phases in order; the last one has no end, unless it is ``ended``."""
    marks = _marks_of_ours(events) if tells_phases(events) else _marks_of_torchs(events)
    return _with_rounds(_stretches(marks))


def phase_named(text: str | None) -> Phase | None:
    """The phase of that name; ``None`` for a name that this version does not know."""
    return Phase(text) if text in Phase._value2member_map_ else None


def _marks_of_ours(events: Iterable[ElasticEvent]) -> list[_Mark]:
    marks = []
    for event in events:
        phase = phase_named(text_of(event, semconv.PHASE))
        if event.name != semconv.AGENT_PHASE_ENTERED or phase is None:
            continue
        marks.append(
            _Mark(
                phase,
                event.time_ns,
                None if phase == Phase.RENDEZVOUS else number_of(event, semconv.RENDEZVOUS_ROUND),
                phase_named(text_of(event, semconv.PHASE_PREVIOUS)),
                seconds_of(event, semconv.PHASE_DURATION),
            )
        )
    return marks


def _marks_of_torchs(events: Iterable[ElasticEvent]) -> list[_Mark]:
    marks: list[_Mark] = []

    def at() -> Phase | None:
        return marks[-1].phase if marks else None

    for event in events:
        round_ = number_of(event, semconv.RENDEZVOUS_ROUND)
        if event.name == semconv.RENDEZVOUS_JOIN_ATTEMPTED:
            if at() != Phase.RENDEZVOUS:
                marks.append(_Mark(Phase.RENDEZVOUS, event.time_ns))
        elif event.name == semconv.RENDEZVOUS_JOINED:
            marks.append(_Mark(Phase.ASSIGN_RANKS, event.time_ns, round_))
        elif event.name == semconv.AGENT_RENDEZVOUS_FINISHED and at() not in (Phase.RENDEZVOUS, Phase.ASSIGN_RANKS):
            # static and etcd record nothing of a rendezvous but that it is over
            took_ns = seconds_of(event, semconv.AGENT_STEP_DURATION)
            began_ns = None if took_ns is None or event.time_ns is None else event.time_ns - took_ns
            marks.append(_Mark(Phase.RENDEZVOUS, began_ns))
        elif event.name == semconv.AGENT_RANKS_ASSIGNED:
            if at() == Phase.RENDEZVOUS:
                took_ns = seconds_of(event, semconv.AGENT_STEP_DURATION)
                began_ns = None if took_ns is None or event.time_ns is None else event.time_ns - took_ns
                marks.append(_Mark(Phase.ASSIGN_RANKS, began_ns, round_))
            marks.append(_Mark(Phase.START, event.time_ns, round_))
        elif event.name == semconv.WORKER_STARTED:
            if marks and (marks[-1].phase, marks[-1].round) == (Phase.RUNNING, round_):
                marks.pop()  # the last worker's start is the end of starting
            marks.append(_Mark(Phase.RUNNING, event.time_ns, round_))
        elif event.name in _WORKERS_ENDED | _AGENT_ENDED and at() != Phase.ENDED:
            if event.name in _WORKERS_ENDED and at() is None:
                marks.append(_Mark(Phase.RUNNING, None, round_))
            marks.append(_Mark(Phase.ENDED, event.time_ns, round_ if event.name in _WORKERS_ENDED else None))
    return _with_running(marks)


def _with_running(marks: list[_Mark]) -> list[_Mark]:
    """Where torch does not tell that workers started, they run from what it told last of their bring-up."""
    told: list[_Mark] = []
    for i, mark in enumerate(marks):
        following = marks[i + 1].phase if i + 1 < len(marks) else None
        if mark.phase in _BRING_UP and following not in (*_BRING_UP, Phase.RUNNING):
            mark = replace(mark, phase=Phase.RUNNING)
        told.append(mark)
    return told


def _stretches(marks: Sequence[_Mark]) -> list[PhaseInterval]:
    stretches: list[PhaseInterval] = []
    for i, mark in enumerate(marks):
        before = marks[i - 1] if i else None
        if mark.previous is not None and (before is None or before.phase != mark.previous):
            # the event of the phase in between did not arrive
            start_ns = None if mark.at_ns is None or mark.took_ns is None else mark.at_ns - max(0, mark.took_ns)
            recovered = PhaseInterval(mark.previous, start_ns, mark.at_ns, mark.took_ns, _round_before(mark, before))
            if stretches and mark.previous not in _NEXT.get(stretches[-1].phase, ()):
                stretches[-1] = replace(stretches[-1], end_ns=None, duration_ns=None)
            elif stretches:
                stretches[-1] = _ended(stretches[-1], start_ns, None)
            stretches.append(recovered)
        elif stretches:
            stretches[-1] = _ended(stretches[-1], mark.at_ns, mark.took_ns)
        stretches.append(PhaseInterval(mark.phase, mark.at_ns, None, None, mark.round))
    if stretches and stretches[-1].phase == Phase.ENDED:
        stretches[-1] = replace(stretches[-1], end_ns=stretches[-1].start_ns, duration_ns=0)
    return stretches


def _round_before(mark: _Mark, before: _Mark | None) -> int | None:
    if mark.previous == Phase.RENDEZVOUS:
        return None
    return mark.round if mark.round is not None else before.round if before is not None else None


def _ended(stretch: PhaseInterval, end_ns: int | None, took_ns: int | None) -> PhaseInterval:
    if end_ns is not None and stretch.start_ns is not None:
        end_ns = max(end_ns, stretch.start_ns)
        took_ns = end_ns - stretch.start_ns if took_ns is None else took_ns
    return replace(stretch, end_ns=end_ns, duration_ns=None if took_ns is None else max(0, took_ns))


def _with_rounds(stretches: Sequence[PhaseInterval]) -> tuple[PhaseInterval, ...]:
    """A rendezvous has the round that it led to; what says no round is in the one before it."""
    told: list[PhaseInterval] = []
    for i, stretch in enumerate(stretches):
        if stretch.phase == Phase.RENDEZVOUS:
            following = stretches[i + 1] if i + 1 < len(stretches) else None
            led = following is not None and following.phase in (Phase.ASSIGN_RANKS, Phase.START, Phase.RUNNING)
            stretch = replace(stretch, round=following.round if led and following is not None else None)
        elif stretch.round is None and told and told[-1].phase != Phase.RENDEZVOUS:
            stretch = replace(stretch, round=told[-1].round)
        told.append(stretch)
    return tuple(told)
