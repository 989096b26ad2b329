"""The rounds of a run, built from all its agents, and how each was followed by the next.

Guarantees: a round contains every node that any agent names, also one without own events. A rendezvous that formed no
round is a round, too. Each round number occurs once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from torchelastic_otel.history.agent_history import AgentHistory, RoundParticipation
from torchelastic_otel.history.failures import (
    Losses,
    LostNode,
    RoundFailures,
    rendezvous_failure,
    round_failures,
)
from torchelastic_otel.history.reports import MembershipReport, RestartReport, RoundReport
from torchelastic_otel.history.types import LeftReason, MissingNode, Node, Outcome, Restart, Round
from torchelastic_otel.model.node_id import address_of
from torchelastic_otel.model.phases import RESTART_PHASES, Phase

_GOES_ON: Final = (LeftReason.WORKER_FAILURE, LeftReason.MEMBERSHIP_CHANGE, None)
_ENDING: Final = (LeftReason.LOST, LeftReason.SUCCEEDED, LeftReason.ERROR)
_LEFT: Final[Mapping[Outcome, LeftReason]] = {
    Outcome.SUCCEEDED: LeftReason.SUCCEEDED,
    Outcome.TERMINATED: LeftReason.TERMINATED,
    Outcome.LEFT: LeftReason.LEFT,
}
_INTERRUPTING: Final = ("membership_change", "node_left")


def build_rounds(agents: Sequence[AgentHistory], losses: Losses) -> tuple[Round, ...]:
    """The rounds in order."""
    numbers = sorted({number for agent in agents for number in agent.rounds})
    rounds: list[Round] = []
    for number, following in zip(numbers, [*numbers[1:], None], strict=False):
        rounds.append(_round(number, rounds[-1] if rounds else None, following, agents, losses))
    failed = _failed_rendezvous(rounds, agents)
    if failed is not None:
        rounds.append(failed)
    return tuple(_with_missing(rounds, agents))


def _round(
    number: int, before: Round | None, following: int | None, agents: Sequence[AgentHistory], losses: Losses
) -> Round:
    members = [agent for agent in agents if number in agent.rounds]
    lost = [loss for loss in losses.values() if loss.round == number]
    reports = [report for agent in agents for report in agent.reports]
    own_reports = [report for agent in members for report in agent.reports]
    restarts = [report for report in reports if isinstance(report, RestartReport) and report.round == following]
    failures = round_failures(number, members, lost, restarts if following is not None else [])
    begun = next((r for r in own_reports if isinstance(r, RoundReport) and r.round == number), None)
    started_ns = _started(number, before, members, begun)
    nodes = _nodes(number, members, lost, started_ns)
    names_before = {node.node_id for node in before.nodes} if before is not None else set()
    # a node that is in the last round to its end has not left it
    staying = (*_GOES_ON, LeftReason.LOST) if following is not None else (*_GOES_ON, *_ENDING)
    went_on = {agent.node_id for agent in agents if (agent.last_round or 0) > number}
    traces = sorted(trace for agent in members if (trace := agent.rounds[number].trace_id) is not None)
    joiners = [
        report.last_joiner
        for report in own_reports
        if isinstance(report, (RestartReport, RoundReport)) and report.round == number and report.last_joiner
    ]
    ended = [node.left_ns for node in nodes if node.left_ns is not None]
    still_in = any(node.has_events and node.left_reason is None for node in nodes) and following is None
    round_ = Round(
        round=number,
        outcome=Outcome.UNKNOWN,
        world_size=max(
            (size for agent in members if (size := agent.rounds[number].world_size) is not None), default=None
        ),
        started_ns=started_ns,
        running_ns=max((node.running_ns for node in nodes if node.running_ns is not None), default=None),
        training_ns=_training(number, members),
        ended_ns=max(ended) if ended and not still_in else None,
        trace_id=traces[0] if traces else begun.trace_id if begun is not None else None,
        nodes=nodes,
        last_joiner=joiners[0] if joiners else _last_arrived(number, members, nodes),
        first_failure=failures.cause,
        victims=failures.victims,
        joined=tuple(node.node_id for node in nodes if node.node_id and node.node_id not in names_before),
        left=tuple(
            node.node_id
            for node in nodes
            if node.node_id and node.left_reason not in staying and node.node_id not in went_on
        ),
        lost=tuple(sorted(loss.node_id for loss in lost)),
    )
    if following is None:
        return replace(round_, outcome=_last_outcome(round_, members, agents))
    restart = _restart(round_, following, members, agents, failures)
    failed = failures.cause is not None or restart.reason in ("worker_failure", "node_lost")
    interrupted = restart.reason in _INTERRUPTING
    outcome = Outcome.FAILED if failed else Outcome.INTERRUPTED if interrupted else Outcome.UNKNOWN
    return replace(round_, outcome=outcome, restart=restart)


def _nodes(
    number: int, members: Sequence[AgentHistory], lost: Sequence[LostNode], started_ns: int | None
) -> tuple[Node, ...]:
    losses = {loss.node_id: loss for loss in lost}
    nodes = [_node(agent, agent.rounds[number], losses.get(agent.node_id or ""), started_ns) for agent in members]
    ranks = {node_id: rank for agent in members for rank, node_id in enumerate(agent.rounds[number].participants)}
    ranks = {loss.node_id: loss.group_rank for loss in lost if loss.group_rank is not None} | ranks
    for node_id in sorted({*ranks, *losses} - {node.node_id for node in nodes}):
        loss = losses.get(node_id)
        nodes.append(
            Node(
                address_of(node_id),
                node_id,
                ranks.get(node_id),
                left_ns=loss.heard_ns if loss is not None else None,
                left_reason=LeftReason.LOST if loss is not None else None,
                has_events=False,
            )
        )
    return tuple(sorted(nodes, key=lambda node: (node.group_rank is None, node.group_rank or 0, node.node_id or "")))


def _node(agent: AgentHistory, own: RoundParticipation, loss: LostNode | None, started_ns: int | None) -> Node:
    left_ns, reason = _leaving(agent, own, loss)
    failures = sorted(own.failures.values(), key=lambda failure: (failure.at_ns or 0, failure.rank or 0))
    # a node that was waiting for a place joins when the rendezvous opens
    joined = [at_ns for at_ns in (_arrived(agent, own.round), started_ns) if at_ns is not None]
    return Node(
        host=agent.source.origin.host_name,
        node_id=agent.node_id,
        group_rank=own.group_rank,
        joined_ns=max(joined, default=None),
        running_ns=own.running_ns,
        left_ns=left_ns,
        left_reason=reason,
        workers=tuple(worker for _, worker in sorted(own.workers.items())),
        failures=tuple(replace(failure, group_rank=own.group_rank) for failure in failures),
        phases=tuple(interval for interval in agent.phases if interval.round == own.round),
    )


def _leaving(
    agent: AgentHistory, own: RoundParticipation, loss: LostNode | None
) -> tuple[int | None, LeftReason | None]:
    """When and why a node left a round: it was lost, went on to another, or ended in it."""
    if loss is not None:
        return loss.heard_ns, LeftReason.LOST
    inside = [i for i, interval in enumerate(agent.phases) if interval.round == own.round]
    behind = agent.phases[inside[-1] + 1] if inside and inside[-1] + 1 < len(agent.phases) else None
    rejoined_ns = behind.start_ns if behind is not None and behind.phase == Phase.RENDEZVOUS else None
    stops = [i.start_ns for i in agent.phases if i.round == own.round and i.phase == Phase.STOP]
    if agent.last_round != own.round or own.trigger is not None or rejoined_ns is not None:
        left_ns = stops[-1] if stops else own.restarted_ns if own.restarted_ns is not None else rejoined_ns
        return left_ns, _restart_trigger(agent, own)
    end = agent.end
    if agent.is_open:
        return None, LeftReason.LOST if agent.has_vanished else None
    if end.outcome == Outcome.FAILED:
        return end.at_ns, LeftReason.WORKER_FAILURE if own.failures else LeftReason.ERROR
    return end.at_ns, _LEFT.get(end.outcome)


def _restart_trigger(agent: AgentHistory, own: RoundParticipation) -> LeftReason:
    if own.trigger is not None:
        return LeftReason.WORKER_FAILURE if own.trigger == "worker_failure" else LeftReason.MEMBERSHIP_CHANGE
    later = [other.restart_count for number, other in agent.rounds.items() if number > own.round]
    counts = [count for count in later if count is not None]
    rose = bool(counts) and min(counts) > (own.restart_count or 0)
    return LeftReason.WORKER_FAILURE if own.failures or rose else LeftReason.MEMBERSHIP_CHANGE


def _started(
    number: int, before: Round | None, members: Sequence[AgentHistory], begun: RoundReport | None
) -> int | None:
    """When the first node entered the rendezvous; a node that was waiting for a place all the time does not count."""
    old = {node.node_id for node in before.nodes} if before is not None else set()
    comers = [agent for agent in members if agent.node_id in old] or members
    times = [at_ns for agent in comers for at_ns in _rendezvous_starts(agent, number)]
    times = times or [joined for agent in members if (joined := agent.rounds[number].joined_ns) is not None]
    return min(times, default=begun.began_ns if begun is not None else None)


def _rendezvous_starts(agent: AgentHistory, number: int) -> list[int]:
    return [
        interval.start_ns
        for interval in agent.phases
        if (interval.round, interval.phase) == (number, Phase.RENDEZVOUS) and interval.start_ns is not None
    ]


def _arrived(agent: AgentHistory, number: int) -> int | None:
    """When it entered the rendezvous; if no event reports that, when it had joined."""
    starts = _rendezvous_starts(agent, number)
    return starts[0] if starts else agent.arrivals.get(number) or agent.rounds[number].joined_ns


def _last_arrived(number: int, members: Sequence[AgentHistory], nodes: Sequence[Node]) -> str | None:
    arrived = [
        (at_ns, agent.node_id)
        for agent in members
        if (at_ns := _arrived(agent, number)) is not None and agent.node_id is not None
    ]
    return max(arrived)[1] if arrived and len(arrived) == len(nodes) else None


def _training(number: int, members: Sequence[AgentHistory]) -> int | None:
    own = [agent.rounds[number] for agent in members]
    steps = [w.training_ns for part in own for w in part.workers.values() if w.training_ns is not None]
    return max(steps or (part.running_ns for part in own if part.running_ns is not None), default=None)


def _last_outcome(round_: Round, members: Sequence[AgentHistory], agents: Sequence[AgentHistory]) -> Outcome:
    """The outcome of a round that no other followed."""
    known = len(round_.nodes)
    if any(agent.backend == "static" for agent in members):
        # each agent counts its own rounds there: one without a restart ends in an earlier round
        members = agents
        known = len({own.group_rank for agent in agents for own in agent.rounds.values()})
    ends = [agent.end.outcome for agent in members]
    if any(agent.is_running for agent in members):
        return Outcome.RUNNING
    if round_.first_failure is not None or any(end in (Outcome.FAILED, Outcome.TERMINATED) for end in ends):
        return Outcome.FAILED
    if round_.lost or any(agent.has_vanished for agent in members):
        return Outcome.FAILED
    complete = known >= (round_.world_size or 1) and all(node.has_events for node in round_.nodes)
    succeeded = complete and all(end in (Outcome.SUCCEEDED, Outcome.LEFT) for end in ends) and Outcome.SUCCEEDED in ends
    return Outcome.SUCCEEDED if succeeded else Outcome.UNKNOWN


def _restart(
    round_: Round,
    following: int,
    members: Sequence[AgentHistory],
    agents: Sequence[AgentHistory],
    failures: RoundFailures,
) -> Restart:
    """The transition to the next round."""
    agreed = failures.agreed if failures.agreed is not None and failures.agreed.agreed else None
    if agreed is not None and agreed.reason == "unknown":
        agreed = None
    reports = [
        (agent, report)
        for agent in agents
        for report in agent.reports
        if isinstance(report, RestartReport) and report.round == following
    ]
    # only the node of the failure detected something; without its report the job reporter's, else the slowest one's
    complete = [
        (failures.cause is not None and agent.is_node_of(failures.cause), report)
        for agent, report in reports
        if any(took is not None for _, took in report.phases)
    ]
    best = max(
        complete, key=lambda each: (each[0], each[1].is_reporter, each[1].duration_ns or 0, repr(each[1])), default=None
    )
    if best is not None:
        phases, duration_ns = dict(best[1].phases), best[1].duration_ns
    else:
        phases = _restart_phases(round_, following, members)
        known = [took for took in phases.values() if took is not None]
        duration_ns = sum(known) if len(known) == len(RESTART_PHASES) else None
    return Restart(
        agreed.reason if agreed is not None else _reason(round_, following, members, agents, failures),
        max((report.index for _, report in reports if report.index is not None), default=None),
        agreed is not None,
        phases,
        duration_ns,
    )


def _reason(
    round_: Round,
    following: int,
    members: Sequence[AgentHistory],
    agents: Iterable[AgentHistory],
    failures: RoundFailures,
) -> str:
    """The reason by the events of all nodes; one node's view if they do not reveal it."""
    if round_.first_failure is not None:
        return "node_lost" if round_.first_failure.kind == "node_lost" else "worker_failure"
    changes = [r for agent in agents for r in agent.reports if isinstance(r, MembershipReport) and r.round == following]
    reasons = {node.left_reason for node in round_.nodes}
    left = reasons & {LeftReason.TERMINATED, LeftReason.LEFT}
    if LeftReason.WORKER_FAILURE in reasons and not left:
        return "worker_failure"
    if LeftReason.LOST in reasons:
        return "node_lost"
    if left or any(change.left for change in changes):
        return "node_left"
    new = {agent.node_id for agent in agents if following in agent.rounds} - {node.node_id for node in round_.nodes}
    if new or any(change.joined for change in changes):
        return "membership_change"
    if failures.agreed is not None and failures.agreed.reason != "unknown":
        return failures.agreed.reason
    # a change on a node without events may be the reason
    complete = all(node.has_events for node in round_.nodes) and len(members) >= (round_.world_size or 0)
    return "membership_change" if complete and LeftReason.MEMBERSHIP_CHANGE in reasons else "unknown"


def _restart_phases(round_: Round, following: int, members: Sequence[AgentHistory]) -> dict[str, int | None]:
    """The phases on the node of the failure, else on the first node that went on."""
    phases: dict[str, int | None] = dict.fromkeys(RESTART_PHASES)
    went_on = [agent for agent in members if following in agent.rounds]
    if not went_on:
        return phases
    cause = round_.first_failure
    agent = next((agent for agent in went_on if cause is not None and agent.is_node_of(cause)), went_on[0])
    for interval in agent.phases:
        number = round_.round if interval.phase in (Phase.DETECT, Phase.STOP) else following
        if interval.phase in RESTART_PHASES and interval.round == number and interval.duration_ns is not None:
            phases[interval.phase.value] = (phases[interval.phase.value] or 0) + interval.duration_ns
    if agent.has_phase_events and phases["stop"] is not None and phases["detect"] is None:
        phases["detect"] = 0  # nothing failed on this node
    return phases


def _failed_rendezvous(rounds: Sequence[Round], agents: Sequence[AgentHistory]) -> Round | None:
    """The rendezvous after the last round, if nodes took part in one that formed no round."""
    last = rounds[-1].round if rounds else -1
    trying = [agent for agent in agents if agent.arrivals and max(agent.arrivals) > last]
    if not rounds:
        trying = [agent for agent in agents if agent.phases and agent.standby_ns is None]
    if not trying:
        return None
    nodes = []
    for agent in trying:
        phases = tuple(interval for interval in agent.phases[-2:] if interval.phase == Phase.RENDEZVOUS)
        ended = _LEFT.get(agent.end.outcome, LeftReason.ERROR)
        vanished = LeftReason.LOST if agent.has_vanished else None
        nodes.append(
            Node(
                agent.source.origin.host_name,
                agent.node_id,
                None,
                joined_ns=phases[0].start_ns if phases else None,
                left_ns=agent.end.at_ns,
                left_reason=ended if agent.end.at_ns is not None else vanished,
                phases=phases,
            )
        )
    began_ns = [interval.start_ns for node in nodes for interval in node.phases if interval.start_ns is not None]
    ended_ns = [node.left_ns for node in nodes if node.left_ns is not None]
    alive = any(agent.is_running for agent in trying)
    over = any(
        agent.end.outcome in (Outcome.FAILED, Outcome.TERMINATED) or agent.source.alive is False for agent in trying
    )
    return Round(
        max((max(agent.arrivals) for agent in trying if agent.arrivals), default=last + 1),
        Outcome.RUNNING if alive else Outcome.FAILED if over else Outcome.UNKNOWN,
        started_ns=min(began_ns, default=None),
        ended_ns=None if alive else max(ended_ns, default=None),
        nodes=tuple(nodes),
        first_failure=rendezvous_failure(trying),
    )


def _with_missing(rounds: Sequence[Round], agents: Sequence[AgentHistory]) -> list[Round]:
    """The rounds with the nodes that were waited for and did not join."""
    result = []
    for before, round_ in zip([None, *rounds], rounds, strict=False):
        joined = {node.node_id for node in round_.nodes}
        missing = [
            MissingNode(node.host, node.node_id, node.group_rank)
            for node in (before.nodes if before is not None else ())
            if node.node_id not in joined
            and (round_.world_size is None or (before is not None and node.node_id in before.lost))
        ]
        count = len(missing)
        if round_.world_size is None:
            after = before.round if before is not None else None
            waits = [wait for agent in agents for wait in agent.waits if wait.after == after]
            longest = max(waits, key=lambda wait: wait.waited_ns, default=None)
            if longest is not None:
                missing = missing or list(longest.missing)
                count = max(len(missing), longest.count or 0)
        result.append(replace(round_, missing=tuple(missing), missing_count=count))
    return result
