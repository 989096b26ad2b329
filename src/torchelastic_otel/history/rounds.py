"""The rounds of a run: the parts of all its agents put together.

What always holds: a round has every node that anybody names, also one whose own events are not here; a round that was
never formed is told, too; a number of a round comes once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torchelastic_otel.history import restarts
from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.causes import RoundFailures, round_failures
from torchelastic_otel.history.failed_rounds import LEFT, failed_round, with_missing
from torchelastic_otel.history.lost_nodes import LostNode
from torchelastic_otel.history.participation import RoundParticipation
from torchelastic_otel.history.reports import Begun, Changed, RestartReport
from torchelastic_otel.history.types import LeftReason, Node, Outcome, Round
from torchelastic_otel.model.node_id import address_of
from torchelastic_otel.model.phases import Phase

_GOES_ON = (LeftReason.WORKER_FAILURE, LeftReason.MEMBERSHIP_CHANGE, None)
_ENDING = (LeftReason.LOST, LeftReason.SUCCEEDED, LeftReason.ERROR)


def rounds_of(courses: Sequence[AgentHistory], losses: Mapping[tuple[str, int], LostNode]) -> tuple[Round, ...]:
    """The rounds in order."""
    numbers = sorted({round_ for course in courses for round_ in course.parts})
    rounds: list[Round] = []
    for i, number in enumerate(numbers):
        before = rounds[-1] if rounds else None
        following = numbers[i + 1] if i + 1 < len(numbers) else None
        rounds.append(_round(number, before, following, courses, losses))
    never_formed = failed_round(rounds, courses)
    if never_formed is not None:
        rounds.append(never_formed)
    return tuple(with_missing(rounds, courses))


def _round(
    number: int,
    before: Round | None,
    following: int | None,
    courses: Sequence[AgentHistory],
    losses: Mapping[tuple[str, int], LostNode],
) -> Round:
    here = [course for course in courses if number in course.parts]
    told = [report for course in here for report in course.reports if _is_of(report, number)]
    lost = [loss for loss in losses.values() if loss.round == number]
    later = [
        report
        for course in courses
        for report in course.reports
        if isinstance(report, RestartReport) and following is not None and report.round == following
    ]
    verdict = round_failures(number, here, lost, later)
    begun = next((report for report in told if isinstance(report, Begun)), None)
    started_ns = _started(number, before, here, begun)
    nodes = _nodes(number, here, lost, started_ns)
    names = {node.node_id for node in before.nodes} if before is not None else set()
    # the end of the last round is no leaving of it
    staying = (*_GOES_ON, LeftReason.LOST) if following is not None else (*_GOES_ON, *_ENDING)
    left = tuple(node.node_id for node in nodes if node.node_id and node.left_reason not in staying)
    whole = Round(
        round=number,
        outcome=Outcome.UNKNOWN,
        world_size=max((p for course in here if (p := course.parts[number].world_size) is not None), default=None),
        started_ns=started_ns,
        running_ns=max((node.running_ns for node in nodes if node.running_ns is not None), default=None),
        training_ns=_training(here, number),
        ended_ns=None,
        trace_id=_trace(number, here, begun),
        nodes=nodes,
        last_joiner=_last_joiner(number, here, nodes, told),
        first_failure=verdict.cause,
        victims=verdict.victims,
        joined=tuple(node.node_id for node in nodes if node.node_id and node.node_id not in names),
        left=tuple(name for name in left if _is_gone(name, number, courses)),
        lost=tuple(sorted(loss.node_id for loss in lost)),
    )
    ended = [node.left_ns for node in nodes if node.left_ns is not None]
    still_in = any(node.told and node.left_reason is None for node in nodes) and following is None
    whole = replace(whole, ended_ns=max(ended) if ended and not still_in else None)
    whole = replace(whole, outcome=_outcome(whole, following, verdict, here, courses))
    if following is not None:
        whole = replace(whole, restart=restarts.restart_after(whole, following, here, courses, verdict))
        if whole.outcome == Outcome.UNKNOWN and whole.restart is not None:
            failed = whole.restart.reason in ("worker_failure", "node_lost")
            interrupted = whole.restart.reason in ("membership_change", "node_left")
            outcome = Outcome.FAILED if failed else Outcome.INTERRUPTED if interrupted else Outcome.UNKNOWN
            whole = replace(whole, outcome=outcome)
    return whole


def _is_of(report: object, number: int) -> bool:
    return isinstance(report, (Begun, Changed, RestartReport)) and report.round == number


def _is_gone(node_id: str, number: int, courses: Iterable[AgentHistory]) -> bool:
    return not any(course.agent.node_id == node_id and (course.last_round or 0) > number for course in courses)


def _nodes(
    number: int, here: Sequence[AgentHistory], lost: Sequence[LostNode], started_ns: int | None
) -> tuple[Node, ...]:
    gone = {loss.node_id: loss for loss in lost}
    nodes = [_node(course, course.parts[number], gone.get(course.agent.node_id or ""), started_ns) for course in here]
    known = {node.node_id for node in nodes}
    ranks = {node_id: rank for course in here for rank, node_id in enumerate(course.parts[number].participants)}
    ranks |= {
        loss.node_id: loss.group_rank for loss in lost if loss.group_rank is not None and loss.node_id not in ranks
    }
    for node_id in sorted({*ranks, *gone} - known):
        loss = gone.get(node_id)
        reason = LeftReason.LOST if loss is not None else None
        heard_ns = loss.heard_ns if loss is not None else None
        nodes.append(
            Node(address_of(node_id), node_id, ranks.get(node_id), left_ns=heard_ns, left_reason=reason, told=False)
        )
    return tuple(sorted(nodes, key=lambda node: (node.group_rank is None, node.group_rank or 0, node.node_id or "")))


def _node(course: AgentHistory, part: RoundParticipation, loss: LostNode | None, started_ns: int | None) -> Node:
    stretches = tuple(stretch for stretch in course.stretches if stretch.round == part.round)
    left_ns, reason = _leaving(course, part, loss)
    failures = sorted(part.failures.values(), key=lambda failure: (failure.at_ns or 0, failure.rank or 0))
    return Node(
        host=course.agent.origin.host_name,
        node_id=course.agent.node_id,
        group_rank=part.group_rank,
        # one that had waited for a place was there when the rendezvous was opened
        joined_ns=max(
            (at_ns for at_ns in (_arrived(course, part.round), started_ns) if at_ns is not None), default=None
        ),
        running_ns=part.running_ns,
        left_ns=left_ns,
        left_reason=reason,
        workers=tuple(worker for _, worker in sorted(part.workers.items())),
        failures=tuple(replace(failure, group_rank=part.group_rank) for failure in failures),
        phases=stretches,
    )


def _leaving(
    course: AgentHistory, part: RoundParticipation, loss: LostNode | None
) -> tuple[int | None, LeftReason | None]:
    """When and why a node left a round: it was lost, went on to another, or came to its end in it."""
    if loss is not None:
        return loss.heard_ns, LeftReason.LOST
    inside = [i for i, stretch in enumerate(course.stretches) if stretch.round == part.round]
    behind = course.stretches[inside[-1] + 1] if inside and inside[-1] + 1 < len(course.stretches) else None
    again_ns = behind.start_ns if behind is not None and behind.phase == Phase.RENDEZVOUS else None
    stopping = [
        stretch.start_ns for stretch in course.stretches if stretch.round == part.round and stretch.phase == Phase.STOP
    ]
    left_ns = stopping[-1] if stopping else part.restarted_ns if part.restarted_ns is not None else again_ns
    if course.last_round != part.round or part.trigger is not None or again_ns is not None:
        return left_ns, _restarting(course, part)
    end = course.end
    if course.is_open:
        return None, LeftReason.LOST if course.is_gone else None
    if end.outcome == Outcome.FAILED:
        return end.at_ns, LeftReason.WORKER_FAILURE if part.failures else LeftReason.ERROR
    return end.at_ns, LEFT.get(end.outcome)


def _restarting(course: AgentHistory, part: RoundParticipation) -> LeftReason:
    if part.trigger is not None:
        return LeftReason.WORKER_FAILURE if part.trigger == "worker_failure" else LeftReason.MEMBERSHIP_CHANGE
    later = [other.restart_count for number, other in course.parts.items() if number > part.round]
    counts = [count for count in later if count is not None]
    rose = bool(counts) and min(counts) > (part.restart_count or 0)
    return LeftReason.WORKER_FAILURE if part.failures or rose else LeftReason.MEMBERSHIP_CHANGE


def _started(number: int, before: Round | None, here: Sequence[AgentHistory], begun: Begun | None) -> int | None:
    """When the first node set out; one that had waited for a place all the time does not count."""
    old = {node.node_id for node in before.nodes} if before is not None else set()
    comers = [course for course in here if course.agent.node_id in old] or list(here)
    times = [
        stretch.start_ns
        for course in comers
        for stretch in course.stretches
        if stretch.round == number and stretch.phase == Phase.RENDEZVOUS and stretch.start_ns is not None
    ]
    times = times or [joined for course in here if (joined := course.parts[number].joined_ns) is not None]
    if not times and begun is not None and begun.began_ns is not None:
        return begun.began_ns
    return min(times, default=None)


def _training(here: Sequence[AgentHistory], number: int) -> int | None:
    told = [
        worker.training_ns
        for course in here
        for worker in course.parts[number].workers.values()
        if worker.training_ns is not None
    ]
    running = [course.parts[number].running_ns for course in here]
    return max(told) if told else max((at_ns for at_ns in running if at_ns is not None), default=None)


def _trace(number: int, here: Sequence[AgentHistory], begun: Begun | None) -> str | None:
    told = sorted(trace for course in here if (trace := course.parts[number].trace_id) is not None)
    return told[0] if told else begun.trace_id if begun is not None else None


def _last_joiner(
    number: int, here: Sequence[AgentHistory], nodes: Sequence[Node], told: Sequence[object]
) -> str | None:
    for report in told:
        if isinstance(report, (RestartReport, Begun)) and report.last_joiner is not None:
            return report.last_joiner
    arrived = [(at_ns, node_id) for course in here if (at_ns := _arrived(course, number)) is not None
               and (node_id := course.agent.node_id) is not None]  # fmt: skip
    return max(arrived)[1] if arrived and len(arrived) == len(nodes) else None


def _arrived(course: AgentHistory, number: int) -> int | None:
    """When it came to the rendezvous; where nobody told that, when it was in."""
    came = [
        stretch.start_ns
        for stretch in course.stretches
        if (stretch.round, stretch.phase) == (number, Phase.RENDEZVOUS) and stretch.start_ns is not None
    ]
    if came:
        return came[0]
    part = course.parts.get(number)
    return course.arrivals.get(number) or (part.joined_ns if part is not None else None)


def _outcome(
    round_: Round,
    following: int | None,
    verdict: RoundFailures,
    here: Sequence[AgentHistory],
    courses: Sequence[AgentHistory],
) -> Outcome:
    if following is not None:
        return Outcome.FAILED if verdict.cause is not None else Outcome.UNKNOWN
    known = len(round_.nodes)
    if any(course.backend == "static" for course in here):
        # rounds are each agent's own count there: who had no restart of its own ends in an earlier one
        here = courses
        known = len({part.group_rank for course in courses for part in course.parts.values()})
    ends = [course.end.outcome for course in here]
    if any(course.agent.alive is True and course.end.at_ns is None for course in here):
        return Outcome.RUNNING
    if verdict.cause is not None or any(end in (Outcome.FAILED, Outcome.TERMINATED) for end in ends):
        return Outcome.FAILED
    if round_.lost or any(course.is_gone for course in here):
        return Outcome.FAILED
    complete = known >= (round_.world_size or 1) and all(node.told for node in round_.nodes)
    succeeded = complete and all(end in (Outcome.SUCCEEDED, Outcome.LEFT) for end in ends) and Outcome.SUCCEEDED in ends
    return Outcome.SUCCEEDED if succeeded else Outcome.UNKNOWN
