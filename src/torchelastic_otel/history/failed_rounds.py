"""Rendezvous that formed no round, and who was waited for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.causes import agents_error
from torchelastic_otel.history.types import LeftReason, Missing, Node, Outcome, Round
from torchelastic_otel.model.phases import Phase

LEFT: Final[Mapping[Outcome, LeftReason]] = {
    Outcome.SUCCEEDED: LeftReason.SUCCEEDED,
    Outcome.TERMINATED: LeftReason.TERMINATED,
    Outcome.LEFT: LeftReason.LEFT,
}
"""Why a node left the round in which it ended."""


def failed_round(rounds: Sequence[Round], courses: Sequence[AgentHistory]) -> Round | None:
    """The rendezvous behind the last round, where nodes were participants of one that was never formed."""
    last = rounds[-1].round if rounds else -1
    trying = [course for course in courses if course.arrivals and max(course.arrivals) > last]
    if not rounds:
        trying = [course for course in courses if course.stretches and course.stood_by_ns is None]
    if not trying:
        return None
    number = max((max(course.arrivals) for course in trying if course.arrivals), default=last + 1)
    nodes = tuple(
        Node(
            course.agent.origin.host_name,
            course.agent.node_id,
            None,
            joined_ns=next((s.start_ns for s in course.stretches[-2:] if s.phase == Phase.RENDEZVOUS), None),
            left_ns=course.end.at_ns,
            left_reason=_why_left(course),
            phases=tuple(s for s in course.stretches[-2:] if s.phase == Phase.RENDEZVOUS),
        )
        for course in trying
    )
    began = [stretch.start_ns for node in nodes for stretch in node.phases if stretch.start_ns is not None]
    ended = [node.left_ns for node in nodes if node.left_ns is not None]
    alive = any(course.agent.alive is True and course.end.at_ns is None for course in trying)
    over = any(course.end.outcome in (Outcome.FAILED, Outcome.TERMINATED) for course in trying)
    over = over or any(course.agent.alive is False for course in trying)
    return Round(
        number,
        Outcome.RUNNING if alive else Outcome.FAILED if over else Outcome.UNKNOWN,
        started_ns=min(began, default=None),
        ended_ns=None if alive or not ended else max(ended),
        nodes=nodes,
        first_failure=agents_error(trying),
    )


def _why_left(course: AgentHistory) -> LeftReason | None:
    if course.end.at_ns is None:
        return LeftReason.LOST if course.is_gone else None
    return LEFT.get(course.end.outcome, LeftReason.ERROR)


def with_missing(rounds: Sequence[Round], courses: Sequence[AgentHistory]) -> list[Round]:
    """The rounds with who was waited for and did not come."""
    told = []
    for i, round_ in enumerate(rounds):
        before = rounds[i - 1] if i else None
        there = {node.node_id for node in round_.nodes}
        lost = set(before.lost) if before is not None else set()
        missing = [
            Missing(node.host, node.node_id, node.group_rank)
            for node in (before.nodes if before is not None else ())
            if node.node_id not in there and (node.node_id in lost or round_.world_size is None)
        ]
        count = len(missing)
        if round_.world_size is None:
            waits = [w for course in courses for w in course.waits if w.after == (before.round if before else None)]
            longest = max(waits, key=lambda waiting: waiting.waited_ns, default=None)
            if longest is not None:
                missing = missing or list(longest.missing)
                count = max(len(missing), longest.count or 0)
        told.append(replace(round_, missing=tuple(missing), missing_count=count))
    return told
