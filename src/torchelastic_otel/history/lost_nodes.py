"""Which nodes were lost, in which round, and when they were last heard of.

What always holds: a node that says itself that it ended well, or went as it was told, was not lost, whatever others
hold; what was concluded from a stream that stops is marked so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.reports import Changed, Lost
from torchelastic_otel.history.types import Outcome

_IN_GOOD_ORDER = (Outcome.SUCCEEDED, Outcome.TERMINATED, Outcome.LEFT)


@dataclass(frozen=True, slots=True)
class LostNode:
    """One node that was lost.

    Attributes:
        node_id: Who.
        round: In which round.
        group_rank: Its rank in it, where a peer said so.
        heard_ns: When it was last heard of; ``None`` where nobody's heartbeats of it are here: the last event of an
            agent that trains may be hours before it was lost.
        source: heartbeat, membership, stream (its events stop, and its process is gone or the others went on).
    """

    node_id: str
    round: int
    group_rank: int | None
    heard_ns: int | None
    source: str


def lost_nodes(courses: Sequence[AgentHistory]) -> dict[tuple[str, int], LostNode]:
    """The nodes that were lost, by node id and round."""
    own = {course.agent.node_id: course for course in courses if course.agent.node_id is not None}
    rounds = sorted({round_ for course in courses for round_ in course.parts})
    losses: dict[tuple[str, int], LostNode] = {}
    for course in courses:
        for report in course.reports:
            if isinstance(report, Lost):
                round_ = report.round if report.round is not None else _before(course, own.get(report.node_id), rounds)
                if round_ is not None:
                    _add(losses, LostNode(report.node_id, round_, report.group_rank, report.heartbeat_ns, "heartbeat"))
            elif isinstance(report, Changed) and report.round is not None:
                before = max((round_ for round_ in rounds if round_ < report.round), default=None)
                for node_id in report.lost if before is not None else ():
                    _add(losses, LostNode(node_id, before or 0, None, None, "membership"))
    for course in courses:
        _add_if_silent(losses, course, rounds)
    return {key: _with_own_word(loss, own) for key, loss in losses.items() if not _is_well(loss, own)}


def _before(newcomer: AgentHistory, lost: AgentHistory | None, rounds: Sequence[int]) -> int | None:
    """The round that a node was lost in, where one tells of it that was in none yet."""
    if lost is not None and lost.last_round is not None:
        return lost.last_round
    first = min(newcomer.parts, default=None)
    return max((round_ for round_ in rounds if first is None or round_ < first), default=None)


def _add(losses: dict[tuple[str, int], LostNode], loss: LostNode) -> None:
    key = loss.node_id, loss.round
    before = losses.get(key)
    if before is None:
        losses[key] = loss
        return
    heard = [heard_ns for heard_ns in (before.heard_ns, loss.heard_ns) if heard_ns is not None]
    ranks = [rank for rank in (before.group_rank, loss.group_rank) if rank is not None]
    losses[key] = LostNode(
        *key,
        min(ranks) if ranks else None,
        max(heard) if heard else None,
        "heartbeat" if "heartbeat" in (before.source, loss.source) else before.source,
    )


def _add_if_silent(losses: dict[tuple[str, int], LostNode], course: AgentHistory, rounds: Sequence[int]) -> None:
    """An agent whose events stop: lost where its process is gone, or where the others went on without it."""
    last, node_id = course.last_round, course.agent.node_id
    if node_id is None or last is None or not course.is_open:
        return
    went_on = any(round_ > last for round_ in rounds) and course.agent.alive is not True
    if course.agent.alive is False or went_on:
        _add(losses, LostNode(node_id, last, course.parts[last].group_rank, None, "stream"))


def _is_well(loss: LostNode, own: Mapping[str, AgentHistory]) -> bool:
    course = own.get(loss.node_id)
    return course is not None and course.end.outcome in _IN_GOOD_ORDER and course.last_round == loss.round


def _with_own_word(loss: LostNode, own: Mapping[str, AgentHistory]) -> LostNode:
    course = own.get(loss.node_id)
    if course is None or course.last_round != loss.round:
        return loss
    own_ns = course.agent.times[1] if course.beats or loss.heard_ns is not None else None
    heard = [heard_ns for heard_ns in (loss.heard_ns, own_ns) if heard_ns is not None]
    rank = loss.group_rank if loss.group_rank is not None else course.parts[loss.round].group_rank
    return LostNode(loss.node_id, loss.round, rank, max(heard) if heard else None, loss.source)
