"""Which agents belong to one run: run ids repeat (torchrun's default is "none").

What always holds: agents with different nonces are never in one run; where there is no nonce, what the agents say of
each other decides, then the time they share, and that this was so is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.ranges import named
from torchelastic_otel.history.reports import Changed, Lost


@dataclass(slots=True)
class Group:
    """The agents of one run, while they are put together.

    Attributes:
        run_id: The run's id.
        nonce: What the agents agreed on; ``None`` where they did not.
        courses: The agents.
        by_time: Those that are here since they share time with the others.
    """

    run_id: str
    nonce: str | None
    courses: list[AgentHistory] = field(default_factory=list)
    by_time: list[AgentHistory] = field(default_factory=list)


def groups_of(courses: Sequence[AgentHistory]) -> list[Group]:
    """The agents by run; each agent is in one group."""
    groups: dict[tuple[str, str], Group] = {}
    rest: list[AgentHistory] = []
    for course in sorted(courses, key=_order):
        agent = course.agent
        if agent.nonce is None:
            rest.append(course)
        else:
            groups.setdefault((agent.run_id, agent.nonce), Group(agent.run_id, agent.nonce)).courses.append(course)
    found = list(groups.values())
    for course in rest:
        fitting = [group for group in found if _fits(course, group)]
        # who is named by the others comes before who merely lived at the same time
        group = max(fitting, key=lambda group: _affinity(course, group), default=None)
        if group is None:
            group = Group(course.agent.run_id, None)
            found.append(group)
        elif not _affinity(course, group):
            group.by_time.append(course)
        group.courses.append(course)
    return found


def _order(course: AgentHistory) -> tuple[int, str, tuple[str, int]]:
    return course.agent.times[0] or 0, course.agent.node_id or "", course.agent.key


def _fits(course: AgentHistory, group: Group) -> bool:
    return (
        group.run_id == course.agent.run_id
        and any(_share_time(course, other) for other in group.courses)
        and not any(_contradict(course, other) for other in group.courses)
    )


def _affinity(course: AgentHistory, group: Group) -> int:
    node_id = course.agent.node_id
    others = {other.agent.node_id for other in group.courses}
    return sum(node_id in _named_by(other) for other in group.courses) + len(_named_by(course) & others)


def _named_by(course: AgentHistory) -> set[str | None]:
    """The nodes that an agent says are in its run."""
    named: set[str | None] = set()
    for part in course.parts.values():
        named.update(part.participants)
    for report in course.reports:
        if isinstance(report, Lost):
            named.add(report.node_id)
        elif isinstance(report, Changed):
            named.update((*report.joined, *report.left, *report.lost))
    for waiting in course.waits:
        named.update(waiting.participants)
    return named


def _share_time(one: AgentHistory, other: AgentHistory) -> bool:
    start, end = one.agent.times
    others_start, others_end = other.agent.times
    if start is None or end is None or others_start is None or others_end is None:
        return True  # recordings without times: nothing says that they are apart
    return start <= others_end and others_start <= end


def _contradict(one: AgentHistory, other: AgentHistory) -> bool:
    """Whether two agents cannot have been in one round together."""
    if one.agent.node_id is not None and one.agent.node_id == other.agent.node_id:
        return False  # two recordings of one agent
    for round_ in one.parts.keys() & other.parts.keys():
        part, others = one.parts[round_], other.parts[round_]
        if part.group_rank is not None and part.group_rank == others.group_rank:
            return True
        if None not in (part.world_size, others.world_size) and part.world_size != others.world_size:
            return True
        for participants, node_id in (
            (part.participants, other.agent.node_id),
            (others.participants, one.agent.node_id),
        ):
            if participants and node_id is not None and node_id not in participants:
                return True
    return False


def without_repeats(courses: Sequence[AgentHistory]) -> tuple[list[AgentHistory], list[str]]:
    """Each agent once: of two recordings of one agent the fuller one, and a sentence that names those agents."""
    kept: list[AgentHistory] = []
    twice: dict[str, None] = {}
    for course in sorted(courses, key=lambda course: (-len(course.agent.events), course.agent.key)):
        same = next(
            (
                other
                for other in kept
                if course.agent.node_id is not None
                and other.agent.node_id == course.agent.node_id
                and other.agent.origin.id != course.agent.origin.id
                and _share_time(course, other)
            ),
            None,
        )
        if same is None:
            kept.append(course)
        else:
            twice[same.agent.name] = None
    said = [f"two recordings tell of {named(list(twice))}; the one with more events is used"] if twice else []
    return sorted(kept, key=_order), said
