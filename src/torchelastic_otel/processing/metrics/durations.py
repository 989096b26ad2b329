"""Where an agent's time went, folded over the phases that it entered: its own, and its share of the whole job's.

What always holds:

- The states sum to the time since the first phase, up to the moment asked for, and none of them ever falls.
- That a worker had failed is learned late: ``detect`` begins in the past. What had been told as ``running`` by then
  stays told, and is paid back out of the time that runs next, so that the sum is right at each moment and each state
  in the end.
- One round's time is counted for the job by the one agent that speaks for all in that round: from the moment it began
  to be brought up to the moment its workers ran no more. Who that is comes to be known later; until then time waits
  unclaimed.
- All moments are of one monotonic clock, nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from torchelastic_otel.model.phases import Phase
from torchelastic_otel.processing.metrics.catalogue import TIME_STATES

_OF_A_ROUND: Final = frozenset({Phase.RUNNING, Phase.EXIT_BARRIER})
"""Phases in which the round is up; after them a bring-up begins, unless the agent ends."""
_TOWARDS_A_ROUND: Final = frozenset({Phase.DETECT, Phase.STOP, Phase.RENDEZVOUS})

_BEFORE_RUNNING: Final = frozenset({Phase.RENDEZVOUS, Phase.ASSIGN_RANKS, Phase.START})


@dataclass(frozen=True, slots=True)
class StateDurations:
    """See the header of this file.

    Attributes:
        phase: The phase that the agent is at; ``None`` before the first one and after the end.
        began_ns: When it began.
        since_ns: Up to when its time is counted.
        owed_ns: Time that was told as running and was none.
        agent: Nanoseconds by state, of this agent.
        job: Nanoseconds by state, of the job, as far as this agent speaks for it.
        unclaimed: What would be the job's if this agent spoke for the round, since it began to be brought up.
        round_before: The same of the round before, until the next one is joined.
        speaks: Whether this agent speaks for the round that it is in.
        spoke: Whether it spoke for the round before the one that is being brought up.
        rounds: How many rounds of this agent came to run workers.
    """

    phase: Phase | None = None
    began_ns: int = 0
    since_ns: int = 0
    owed_ns: int = 0
    agent: Mapping[str, int] = field(default_factory=dict)
    job: Mapping[str, int] = field(default_factory=dict)
    unclaimed: Mapping[str, int] = field(default_factory=dict)
    round_before: Mapping[str, int] = field(default_factory=dict)
    speaks: bool = False
    spoke: bool = False
    rounds: int = 0


def advance(times: StateDurations, now_ns: int) -> StateDurations:
    """The open phase counted up to a moment."""
    if times.phase is None or now_ns <= times.since_ns:
        return times
    state, passed_ns = TIME_STATES[times.phase], now_ns - times.since_ns
    owed_ns = min(times.owed_ns, passed_ns) if times.phase is Phase.RUNNING else 0
    passed = {state: passed_ns - owed_ns}
    if owed_ns:
        passed[TIME_STATES[Phase.DETECT]] = owed_ns
    times = replace(times, since_ns=now_ns, owed_ns=times.owed_ns - owed_ns, agent=_sum(times.agent, passed))
    if times.speaks:
        return replace(times, job=_sum(times.job, passed))
    return replace(times, unclaimed=_sum(times.unclaimed, passed))


def enter(times: StateDurations, phase: Phase, began_ns: int) -> StateDurations:
    """The agent has entered a phase; ``began_ns`` may be before what is already counted."""
    before = times.phase
    if before is None:
        times = replace(times, since_ns=max(times.since_ns, began_ns))
    began_ns = max(began_ns, times.began_ns)
    if before is Phase.RUNNING and phase is Phase.DETECT and began_ns < times.since_ns:
        times = replace(times, owed_ns=times.owed_ns + times.since_ns - began_ns)
    times = advance(times, began_ns)
    if before in _OF_A_ROUND and phase in _TOWARDS_A_ROUND:
        unclaimed = {} if times.speaks else times.unclaimed
        times = replace(times, spoke=times.speaks, speaks=False, round_before=unclaimed, unclaimed={})
    elif phase is Phase.ASSIGN_RANKS:
        times = replace(times, spoke=False, round_before={})
    elif phase is Phase.RUNNING:
        times = replace(times, rounds=times.rounds + 1)
    elif phase is Phase.ENDED:
        if times.spoke:  # no other round came of it
            times = _claim(times, times.unclaimed)
        return replace(times, phase=None, began_ns=began_ns, owed_ns=0, speaks=False, spoke=False)
    return replace(times, phase=phase, began_ns=began_ns)


def speak(times: StateDurations, *, first_round: bool, bring_up_ns: int | None = None) -> StateDurations:
    """This agent speaks for the round that it is in, or was in last.

    Args:
        times: The times so far.
        first_round: Whether it is the job's first round.
        bring_up_ns: How long the round was brought up, nanoseconds, where that is known.
    """
    if times.phase in _TOWARDS_A_ROUND and times.rounds:
        # learned when that round was over
        return replace(times, job=_sum(times.job, times.round_before), round_before={}, spoke=True)
    unclaimed = dict(times.unclaimed)
    if not first_round and times.rounds <= (0 if times.phase in _BEFORE_RUNNING else 1):
        # this agent came when the job ran already: what it waited then was others' running time
        waited, starting = unclaimed.pop(TIME_STATES[Phase.RENDEZVOUS], 0), unclaimed.get(TIME_STATES[Phase.START], 0)
        unclaimed[TIME_STATES[Phase.RENDEZVOUS]] = min(waited, max(0, (bring_up_ns or 0) - starting))
    # a round before is kept only where no other was joined: then its time is learned of after the end
    return replace(_claim(times, _sum(times.round_before, unclaimed)), round_before={}, speaks=times.phase is not None)


def stop_speaking(times: StateDurations) -> StateDurations:
    """Another agent speaks for the round."""
    return replace(times, speaks=False)


def begin_again(times: StateDurations, now_ns: int) -> StateDurations:
    """Another agent begins in the same process; what was counted stays."""
    times = advance(times, now_ns)
    return StateDurations(since_ns=times.since_ns, agent=times.agent, job=times.job)


def _claim(times: StateDurations, unclaimed: Mapping[str, int]) -> StateDurations:
    return replace(times, job=_sum(times.job, unclaimed), unclaimed={})


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    return {**one, **{state: one.get(state, 0) + ns for state, ns in other.items()}}
