"""The time of an agent by state, reduced from the phases that it entered: its own, and its share of the job's.

Guarantees:

- The states sum to the time since the first phase, up to any moment, and none of them ever decreases.
- A worker's failure is noticed late: ``detect`` begins in the past. What was counted as ``running`` by then stays
  counted, and the next running time is counted as ``detect`` instead, so that the sum is right at each moment and each
  state in the end.
- The time of a round is counted for the job by the one agent that reports for the job in that round, from the start of
  its bring-up until its workers stop. The reporter is known late; until then the time is unassigned.
- All times are readings of one monotonic clock, nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.serialization import stored_as
from torchelastic_otel.processing.metrics.catalogue import TIME_STATES

_ROUND_UP: Final = frozenset({Phase.RUNNING, Phase.EXIT_BARRIER})
"""Phases in which the round is up; after them a bring-up begins, unless the agent ends."""
_BRING_UP: Final = frozenset({Phase.DETECT, Phase.STOP, Phase.RENDEZVOUS})

_BEFORE_RUNNING: Final = frozenset({Phase.RENDEZVOUS, Phase.ASSIGN_RANKS, Phase.START})


@dataclass(frozen=True, slots=True)
class StateDurations:
    """See the header of this file.

    Attributes:
        phase: The phase that the agent is at; ``None`` before the first one and after the end.
        began_ns: When it began.
        counted_until_ns: Up to when its time is counted.
        overcounted_ns: Time that was counted as running and was not.
        agent: Nanoseconds by state, of this agent.
        job: Nanoseconds by state, of the job, as far as this agent is its reporter.
        unassigned: What would be the job's if this agent was the job reporter of the round, since its bring-up began.
        previous_round: The same of the round before, until the next one is joined.
        is_reporter: Whether this agent is the job reporter of the round that it is in.
        was_reporter: Whether it was the job reporter of the round before the one that is being brought up.
        rounds: How many rounds of this agent came to run workers.
    """

    phase: Phase | None = None
    began_ns: int = 0
    counted_until_ns: int = field(default=0, metadata=stored_as("since_ns"))
    overcounted_ns: int = field(default=0, metadata=stored_as("owed_ns"))
    agent: Mapping[str, int] = field(default_factory=dict)
    job: Mapping[str, int] = field(default_factory=dict)
    unassigned: Mapping[str, int] = field(default_factory=dict, metadata=stored_as("unclaimed"))
    previous_round: Mapping[str, int] = field(default_factory=dict, metadata=stored_as("round_before"))
    is_reporter: bool = field(default=False, metadata=stored_as("speaks"))
    was_reporter: bool = field(default=False, metadata=stored_as("spoke"))
    rounds: int = 0


def advance(durations: StateDurations, now_ns: int) -> StateDurations:
    """The open phase counted up to a moment."""
    if durations.phase is None or now_ns <= durations.counted_until_ns:
        return durations
    state, passed_ns = TIME_STATES[durations.phase], now_ns - durations.counted_until_ns
    overcounted_ns = min(durations.overcounted_ns, passed_ns) if durations.phase is Phase.RUNNING else 0
    passed = {state: passed_ns - overcounted_ns}
    if overcounted_ns:
        passed[TIME_STATES[Phase.DETECT]] = overcounted_ns
    durations = replace(
        durations,
        counted_until_ns=now_ns,
        overcounted_ns=durations.overcounted_ns - overcounted_ns,
        agent=_sum(durations.agent, passed),
    )
    if durations.is_reporter:
        return replace(durations, job=_sum(durations.job, passed))
    return replace(durations, unassigned=_sum(durations.unassigned, passed))


def enter_phase(durations: StateDurations, phase: Phase, began_ns: int) -> StateDurations:
    """The agent has entered a phase; ``began_ns`` may be before what is already counted."""
    before = durations.phase
    if before is None:
        durations = replace(durations, counted_until_ns=max(durations.counted_until_ns, began_ns))
    began_ns = max(began_ns, durations.began_ns)
    if before is Phase.RUNNING and phase is Phase.DETECT and began_ns < durations.counted_until_ns:
        durations = replace(durations, overcounted_ns=durations.overcounted_ns + durations.counted_until_ns - began_ns)
    durations = advance(durations, began_ns)
    if before in _ROUND_UP and phase in _BRING_UP:
        unassigned = {} if durations.is_reporter else durations.unassigned
        durations = replace(
            durations, was_reporter=durations.is_reporter, is_reporter=False, previous_round=unassigned, unassigned={}
        )
    elif phase is Phase.ASSIGN_RANKS:
        durations = replace(durations, was_reporter=False, previous_round={})
    elif phase is Phase.RUNNING:
        durations = replace(durations, rounds=durations.rounds + 1)
    elif phase is Phase.ENDED:
        if durations.was_reporter:  # no other round came of it
            durations = _assign(durations, durations.unassigned)
        return replace(
            durations, phase=None, began_ns=began_ns, overcounted_ns=0, is_reporter=False, was_reporter=False
        )
    return replace(durations, phase=phase, began_ns=began_ns)


def become_reporter(durations: StateDurations, *, first_round: bool, bring_up_ns: int | None = None) -> StateDurations:
    """This agent is the job reporter of the round that it is in, or was in last.

    Args:
        durations: The durations so far.
        first_round: Whether it is the job's first round.
        bring_up_ns: How long the round was brought up, nanoseconds, where that is known.
    """
    if durations.phase in _BRING_UP and durations.rounds:
        # learned when that round was over
        return replace(
            durations, job=_sum(durations.job, durations.previous_round), previous_round={}, was_reporter=True
        )
    unassigned = dict(durations.unassigned)
    if not first_round and durations.rounds <= (0 if durations.phase in _BEFORE_RUNNING else 1):
        # this agent came when the job ran already: what it waited then was others' running time
        waited, starting = unassigned.pop(TIME_STATES[Phase.RENDEZVOUS], 0), unassigned.get(TIME_STATES[Phase.START], 0)
        unassigned[TIME_STATES[Phase.RENDEZVOUS]] = min(waited, max(0, (bring_up_ns or 0) - starting))
    # a round before is kept only where no other was joined: then its time is learned of after the end
    return replace(
        _assign(durations, _sum(durations.previous_round, unassigned)),
        previous_round={},
        is_reporter=durations.phase is not None,
    )


def resign_reporter(durations: StateDurations) -> StateDurations:
    """Another agent is the job reporter of the round."""
    return replace(durations, is_reporter=False)


def start_agent(durations: StateDurations, now_ns: int) -> StateDurations:
    """Another agent begins in the same process; what was counted stays."""
    durations = advance(durations, now_ns)
    return StateDurations(counted_until_ns=durations.counted_until_ns, agent=durations.agent, job=durations.job)


def _assign(durations: StateDurations, unassigned: Mapping[str, int]) -> StateDurations:
    return replace(durations, job=_sum(durations.job, unassigned), unassigned={})


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    return {**one, **{state: one.get(state, 0) + ns for state, ns in other.items()}}
