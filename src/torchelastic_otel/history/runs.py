"""One run, of the courses of its agents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torchelastic_otel import semconv
from torchelastic_otel.history import caveats
from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.lost_nodes import LostNode, lost_nodes
from torchelastic_otel.history.rounds import rounds_of
from torchelastic_otel.history.times import times_of, training_ratio, unheard
from torchelastic_otel.history.types import Member, Outcome, Round, Run
from torchelastic_otel.model.node_id import address_of


def run_of(
    run_id: str,
    nonce: str | None,
    courses: Sequence[AgentHistory],
    by_time: Sequence[AgentHistory],
    notes: Iterable[str],
) -> Run:
    """The run.

    Args:
        run_id: What the user called it.
        nonce: What tells it from others of that name.
        courses: Its agents, each once.
        by_time: Those of them that are here only since they lived at the same time as the others.
        notes: What is known to be missing.
    """
    losses = lost_nodes(courses)
    rounds = _numbered(rounds_of(courses, losses))
    outcome = _outcome(courses, rounds)
    starts = [first for course in courses if (first := course.agent.times[0]) is not None]
    # what an event says of the phase before it may reach back behind the first event
    starts += [stretch.start_ns for course in courses for stretch in course.stretches if stretch.start_ns is not None]
    # a spare may outlive the job that it stood by
    lasts = [last for course in _partakers(courses) if (last := course.agent.times[1]) is not None]
    # a peer may report a later heartbeat of a lost node than the last event of the node that is here
    partakers = {course.agent.node_id for course in _partakers(courses)}
    lasts += [loss.heard_ns for loss in losses.values() if loss.node_id in partakers and loss.heard_ns is not None]
    started_ns, last_ns = min(starts, default=None), max(lasts, default=None)
    time = times_of(_partakers(courses), rounds, losses)
    wall_ns = last_ns - started_ns if started_ns is not None and last_ns is not None else None
    silent = unheard(_partakers(courses), losses)
    run = Run(
        run_id=run_id,
        nonce=nonce,
        outcome=outcome,
        started_ns=started_ns,
        ended_ns=last_ns if outcome in (Outcome.SUCCEEDED, Outcome.FAILED) else None,
        last_ns=last_ns,
        backend=next((course.backend for course in courses if course.backend), None),
        restarts=max((round_.restart.index or 0 for round_ in rounds if round_.restart is not None), default=0),
        nodes=_members(courses, rounds, losses),
        time=time,
        wall_ns=wall_ns,
        training_ratio=None if outcome == Outcome.UNKNOWN or silent else training_ratio(time, wall_ns),
        rounds=rounds,
        agents=tuple(course.agent for course in courses),
    )
    return replace(
        run,
        inferred=caveats.inferred(run, courses, by_time, losses),
        unknown=caveats.unknown(run, courses, silent, notes),
    )


def _partakers(courses: Sequence[AgentHistory]) -> Sequence[AgentHistory]:
    return [course for course in courses if course.parts] or courses


def _numbered(rounds: Sequence[Round]) -> tuple[Round, ...]:
    """Restarts are counted where nobody told their index."""
    told, index = [], 0
    for round_ in rounds:
        if round_.restart is not None:
            index = round_.restart.index if round_.restart.index is not None else index + 1
            round_ = replace(round_, restart=replace(round_.restart, index=index))
        told.append(round_)
    return tuple(told)


def _outcome(courses: Sequence[AgentHistory], rounds: Sequence[Round]) -> Outcome:
    """A run has failed if any node failed; what stood by, waited or was lost on the way is no failure of the run's."""
    partakers = _partakers(courses)
    ends = [course.end for course in partakers]
    if any(course.agent.alive is True and course.end.at_ns is None for course in partakers):
        return Outcome.RUNNING
    spares = not rounds and all(course.stood_by_ns is not None or course.waited_ns is not None for course in partakers)
    if spares:
        return Outcome.UNKNOWN  # who only stood by, or waited for a place, does not know how the job went
    if any(end.outcome == Outcome.FAILED for end in ends):
        return Outcome.FAILED
    over = any(end.outcome == Outcome.TERMINATED for end in ends) or any(c.agent.alive is False for c in partakers)
    if not rounds:
        return Outcome.FAILED if over else Outcome.UNKNOWN
    last = rounds[-1].outcome
    if last == Outcome.FAILED and not over:
        return Outcome.UNKNOWN  # a round that failed is no end yet: what followed is not here
    return last if last in _OF_RUNS else Outcome.UNKNOWN


_OF_RUNS = (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.RUNNING, Outcome.UNKNOWN)


def _members(
    courses: Sequence[AgentHistory], rounds: Sequence[Round], losses: Mapping[tuple[str, int], LostNode]
) -> tuple[Member, ...]:
    members = [_member(course, losses) for course in courses]
    known = {member.node_id for member in members}
    taken: dict[str, list[int]] = {}
    for round_ in rounds:
        for node in round_.nodes:
            if node.node_id is not None and node.node_id not in known:
                taken.setdefault(node.node_id, []).append(round_.round)
    lost = {node_id for node_id, _ in losses}
    members += [
        Member(
            address_of(node_id),
            node_id,
            outcome=Outcome.LOST if node_id in lost else Outcome.UNKNOWN,
            rounds=tuple(numbers),
            told=False,
        )
        for node_id, numbers in sorted(taken.items())
    ]
    ranks = {node.node_id: node.group_rank for round_ in reversed(rounds) for node in round_.nodes}

    def order(member: Member) -> tuple[int, int, str, int]:
        rank = ranks.get(member.node_id)
        first = min(member.rounds, default=1 << 31)
        return first, rank if rank is not None else 1 << 31, member.node_id or "", member.first_ns or 0

    return tuple(sorted(members, key=order))


def _member(course: AgentHistory, losses: Mapping[tuple[str, int], LostNode]) -> Member:
    agent, end = course.agent, course.end
    first_ns, last_ns = agent.times
    outcome = end.outcome
    if outcome == Outcome.UNKNOWN and agent.alive is True:
        outcome = Outcome.RUNNING
    elif outcome == Outcome.UNKNOWN and (course.is_gone or (agent.node_id, course.last_round) in losses):
        outcome = Outcome.LOST
    counts = [part.restart_count for part in course.parts.values() if part.restart_count is not None]
    names = [event.name for event in agent.events]
    return Member(
        host=agent.origin.host_name,
        node_id=agent.node_id,
        pid=agent.origin.pid or None,
        outcome=outcome,
        error_type=end.error_type,
        message=end.message,
        first_ns=first_ns,
        last_ns=last_ns,
        rounds=tuple(course.parts),
        restarts=max(counts, default=None),
        waited_ns=course.waited_ns if not course.parts or min(course.parts) > 0 else None,
        stood_by_ns=course.stood_by_ns,
        promoted_round=min(course.parts, default=None) if course.stood_by_ns is not None else None,
        beats=names.count(semconv.RENDEZVOUS_KEEP_ALIVE_SENT),
        stale=names.count(semconv.RENDEZVOUS_STATE_STALE),
    )
