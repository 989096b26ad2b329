"""Where the time of a whole job went: at any moment it is where the least advanced of its nodes is.

What always holds: no moment is counted twice, so that all states together are at most the wall time; what is missing
is time of which nobody told anything. Training ends with the round's first failure anywhere: a node that goes on has
not noticed yet. The share of training is an upper bound: time of which nobody told anything may have been training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.lost_nodes import LostNode
from torchelastic_otel.history.types import Outcome, PhaseInterval, Round, State
from torchelastic_otel.model.phases import Phase

_ORDER: Final = (
    State.DETECTING,
    State.STOPPING,
    State.RENDEZVOUS,
    State.STARTING,
    State.TRAINING,
    State.EXIT_BARRIER,
)
_NEWCOMER: Final = len(_ORDER)
"""A node that waits to be let in: it holds up nobody, and counts where there is nobody else."""
_STATES: Final = {
    Phase.ASSIGN_RANKS: State.STARTING,
    Phase.START: State.STARTING,
    Phase.DETECT: State.DETECTING,
    Phase.STOP: State.STOPPING,
    Phase.EXIT_BARRIER: State.EXIT_BARRIER,
}
_Interval = tuple[int, int, int]


def times_of(
    courses: Sequence[AgentHistory], rounds: Sequence[Round], losses: Mapping[tuple[str, int], LostNode]
) -> dict[State, int]:
    """How long the job was at each state, nanoseconds."""
    by_number = {round_.round: round_ for round_ in rounds}
    steps: list[tuple[int, int, int]] = []
    for course in courses:
        for start_ns, end_ns, state in _intervals(course, rounds, by_number, losses):
            if start_ns < end_ns:
                steps += [(start_ns, state, 1), (end_ns, state, -1)]
    steps.sort()
    time = dict.fromkeys(State, 0)
    counts = [0] * (_NEWCOMER + 1)
    for i, (at_ns, state, change) in enumerate(steps):
        counts[state] += change
        until_ns = steps[i + 1][0] if i + 1 < len(steps) else at_ns
        holding = next((index for index, count in enumerate(counts) if count), None)
        if holding is not None:
            time[State.RENDEZVOUS if holding == _NEWCOMER else _ORDER[holding]] += until_ns - at_ns
    return time


def training_ratio(time: Mapping[State, int], wall_ns: int | None) -> float | None:
    """The most that training can be of the wall time; from 0 to 1."""
    if not wall_ns:
        return None
    untold_ns = max(0, wall_ns - sum(time.values()))
    return (time[State.TRAINING] + untold_ns) / wall_ns


def unheard(courses: Sequence[AgentHistory], losses: Mapping[tuple[str, int], LostNode]) -> list[AgentHistory]:
    """Agents of which nobody knows how long they went on: their events stop without an end, and so does the story.

    One that the others went on without, or whose heartbeats are here, its own or as a peer told, is none of them.
    """
    last = max((course.last_round for course in courses if course.last_round is not None), default=None)
    return [
        course
        for course in courses
        if course.is_open
        and (course.backend == "static" or course.last_round == last)
        and not _is_heard(course, losses)
    ]


def _is_heard(course: AgentHistory, losses: Mapping[tuple[str, int], LostNode]) -> bool:
    loss = losses.get((course.agent.node_id or "", course.last_round if course.last_round is not None else -1))
    return course.beats or (loss is not None and loss.heard_ns is not None)


def _intervals(
    course: AgentHistory,
    rounds: Sequence[Round],
    by_number: Mapping[int, Round],
    losses: Mapping[tuple[str, int], LostNode],
) -> Iterator[_Interval]:
    first_round = rounds[0].round if rounds else None
    numbers = [round_.round for round_ in rounds]
    for i, stretch in enumerate(course.stretches):
        start_ns = stretch.start_ns
        end_ns = stretch.end_ns if stretch.end_ns is not None else _last_word(course, i, stretch, losses)
        if start_ns is None or end_ns is None or stretch.phase == Phase.ENDED:
            continue
        if stretch.phase == Phase.RENDEZVOUS:
            before = [number for number in course.parts if stretch.round is None or number < stretch.round]
            previous = max((number for number in numbers if number < (stretch.round or 0)), default=None)
            known = (
                stretch.round == first_round
                or not numbers
                or (bool(before) if stretch.round is None else previous in before)
            )
            yield start_ns, end_ns, _ORDER.index(State.RENDEZVOUS) if known else _NEWCOMER
        elif stretch.phase == Phase.RUNNING:
            yield from _running(start_ns, end_ns, by_number.get(stretch.round) if stretch.round is not None else None)
        else:
            yield start_ns, end_ns, _ORDER.index(_STATES[stretch.phase])


def _last_word(
    course: AgentHistory, i: int, stretch: PhaseInterval, losses: Mapping[tuple[str, int], LostNode]
) -> int | None:
    """The end of a phase that nobody told the end of: where the agent was last heard of, if it was its last one."""
    if i + 1 < len(course.stretches):
        return None
    loss = losses.get((course.agent.node_id or "", stretch.round if stretch.round is not None else -1))
    if loss is not None and loss.heard_ns is not None:
        return loss.heard_ns
    return course.end.at_ns if course.end.outcome != Outcome.UNKNOWN else course.agent.times[1]


def _running(start_ns: int, end_ns: int, round_: Round | None) -> Iterator[_Interval]:
    training_ns, failed_ns = start_ns, end_ns
    if round_ is not None:
        if round_.training_ns is not None:
            training_ns = min(max(start_ns, round_.training_ns), end_ns)
        if round_.first_failure is not None and round_.first_failure.at_ns is not None:
            failed_ns = min(max(start_ns, round_.first_failure.at_ns), end_ns)
    yield start_ns, min(training_ns, failed_ns), _ORDER.index(State.STARTING)
    yield training_ns, failed_ns, _ORDER.index(State.TRAINING)
    yield failed_ns, end_ns, _ORDER.index(State.DETECTING)
