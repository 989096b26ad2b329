"""What failed first in a round, its victims, and which nodes were lost.

Guarantees: a cause that all agents agreed on takes precedence. Otherwise the failures of all nodes are merged and the
earliest is the cause; it is ambiguous if the error bound of another one reaches back to it. A node that was lost and
last heard of before the failure precedes it. An agent that failed because it lost the others is never the cause. A
worker that its agent stopped is a victim only if something failed.

A node that reports that it ended well, or left as requested, was not lost, whatever others report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.lifecycle import SIGNALLED
from torchelastic_otel.history.reports import LostReport, MembershipReport, RestartReport, completed
from torchelastic_otel.history.types import Failure, Outcome
from torchelastic_otel.model.failure import HANG, Evidence, Weight, decide
from torchelastic_otel.model.node_id import address_of
from torchelastic_otel.model.phases import Phase

_NEVER: Final = 1 << 63
_STOP_SIGNALS: Final = ("SIGTERM", "SIGKILL")
_IN_GOOD_ORDER: Final = (Outcome.SUCCEEDED, Outcome.TERMINATED, Outcome.LEFT)


@dataclass(frozen=True, slots=True)
class LostNode:
    """A node that was lost.

    Attributes:
        heard_ns: Its last sign of life; ``None`` without any heartbeat of it: an agent that trains may have recorded
            its last event hours before it was lost.
        source: heartbeat, membership, or stream (its events stop, and its process has exited or the others went on).
    """

    node_id: str
    round: int
    group_rank: int | None
    heard_ns: int | None
    source: str


Losses = Mapping[tuple[str, int], LostNode]
"""Lost nodes by node id and round."""


@dataclass(frozen=True, slots=True)
class RoundFailures:
    """Why a round ended.

    Attributes:
        cause: What failed first; ``None`` if nothing failed, or no event reports a failure.
        victims: Other failures, and workers stopped because of the cause; each once, by time.
        agreed: What the agents agreed on, else the view of one of them; ``None`` if none reports one.
    """

    cause: Failure | None
    victims: tuple[Failure, ...]
    agreed: RestartReport | None


def lost_nodes(agents: Sequence[AgentHistory]) -> dict[tuple[str, int], LostNode]:
    """The nodes that were lost, by node id and round."""
    by_node = {agent.node_id: agent for agent in agents if agent.node_id is not None}
    rounds = sorted({number for agent in agents for number in agent.rounds})
    losses: dict[tuple[str, int], LostNode] = {}
    for agent in agents:
        for report in agent.reports:
            if isinstance(report, LostReport):
                round_ = report.round
                if round_ is None:
                    round_ = _round_before(agent, by_node.get(report.node_id), rounds)
                if round_ is not None:
                    _add(losses, LostNode(report.node_id, round_, report.group_rank, report.heartbeat_ns, "heartbeat"))
            elif isinstance(report, MembershipReport) and report.round is not None:
                before = max((number for number in rounds if number < report.round), default=None)
                for node_id in report.lost if before is not None else ():
                    _add(losses, LostNode(node_id, before or 0, None, None, "membership"))
    for node, agent in by_node.items():
        last = agent.last_round
        if last is not None and agent.is_open:
            others_went_on = any(number > last for number in rounds) and agent.source.alive is not True
            if agent.source.alive is False or others_went_on:
                _add(losses, LostNode(node, last, agent.rounds[last].group_rank, None, "stream"))
    result = {}
    for key, loss in losses.items():
        of_node = by_node.get(loss.node_id)
        if of_node is None or of_node.last_round != loss.round:
            result[key] = loss
        elif of_node.end.outcome not in _IN_GOOD_ORDER:
            own_ns = of_node.times[1] if of_node.has_heartbeats or loss.heard_ns is not None else None
            rank = loss.group_rank if loss.group_rank is not None else of_node.rounds[loss.round].group_rank
            result[key] = replace(loss, group_rank=rank, heard_ns=_latest(loss.heard_ns, own_ns))
    return result


def _round_before(newcomer: AgentHistory, lost: AgentHistory | None, rounds: Sequence[int]) -> int | None:
    """The round that a node was lost in, by the report of an agent that was in no round yet."""
    if lost is not None and lost.last_round is not None:
        return lost.last_round
    first = min(newcomer.rounds, default=None)
    return max((number for number in rounds if first is None or number < first), default=None)


def _add(losses: dict[tuple[str, int], LostNode], loss: LostNode) -> None:
    before = losses.setdefault((loss.node_id, loss.round), loss)
    ranks = [rank for rank in (before.group_rank, loss.group_rank) if rank is not None]
    losses[loss.node_id, loss.round] = replace(
        before,
        group_rank=min(ranks, default=None),
        heard_ns=_latest(before.heard_ns, loss.heard_ns),
        source="heartbeat" if "heartbeat" in (before.source, loss.source) else before.source,
    )


def _latest(*times: int | None) -> int | None:
    return max((time_ns for time_ns in times if time_ns is not None), default=None)


def round_failures(
    round_: int, agents: Sequence[AgentHistory], losses: Iterable[LostNode], reports: Sequence[RestartReport]
) -> RoundFailures:
    """Why a round ended.

    Args:
        round_: Its number.
        agents: The agents that were in it.
        losses: Nodes that were lost in it.
        reports: What agents reported about its end after they joined the next round.
    """
    failures = [failure for agent in agents for failure in agent.rounds[round_].failures.values()]
    failures += [
        failure for agent in agents if agent.last_round == round_ and (failure := _agent_error(agent)) is not None
    ]
    failures.sort(key=_order)
    agreed = _most_reliable(reports)
    if agreed is not None and agreed.agreed and agreed.cause is not None:
        cause = _with_details(agreed.cause, failures)
    elif agreed is not None and agreed.agreed and agreed.reason in ("membership_change", "node_left"):
        cause = None
    else:
        hanging = [hang for agent in agents for hang in _hanging_workers(agent, round_)]
        cause = _earliest(failures, [_loss_failure(loss) for loss in losses], hanging)
        cause = cause or (agreed.cause if agreed is not None else None)
        if cause is not None and any(_left_before(agent, round_, cause) for agent in agents):
            cause = None
    if cause is not None and cause.kind == "node_lost":
        # other agents know only its address; its own events have its host name
        hosts = {agent.node_id: agent.source.origin.host_name for agent in agents}
        cause = replace(cause, host=hosts.get(cause.node_id, cause.host))
    if cause is not None:
        failures += [failure for agent in agents for failure in _stopped_workers(agent, round_)]
        failures.sort(key=_order)
    culprits = {worker for agent in agents for worker in _culprits_of(agent, round_)} if _is_hang(cause) else set()
    return RoundFailures(
        cause,
        tuple(f for f in failures if not _is_same(f, cause) and (f.node_id, f.rank, f.pid) not in culprits),
        agreed,
    )


def rendezvous_failure(agents: Sequence[AgentHistory]) -> Failure | None:
    """Why a rendezvous that formed no round failed."""
    return _earliest(sorted((e for agent in agents if (e := _agent_error(agent)) is not None), key=_order), [])


def _stopped_workers(agent: AgentHistory, round_: int) -> list[Failure]:
    """The workers that ended by a signal or with an error while their agent stopped them."""
    participation = agent.rounds[round_]
    stops = [i.start_ns for i in agent.phases if (i.round, i.phase) == (round_, Phase.STOP) and i.start_ns]
    began_ns = min(stops, default=0)
    return [
        replace(failure, group_rank=participation.group_rank, error_type=failure.error_type or failure.signal or "exit")
        for key, failure in participation.bad_exits.items()
        if key not in participation.failures and _at(failure) >= began_ns
    ]


def _hanging_workers(agent: AgentHistory, round_: int) -> list[Failure]:
    """The workers that were outside a collective when their agent stopped them."""
    participation = agent.rounds[round_]
    return [
        replace(failure, kind=HANG, error_type=HANG, group_rank=participation.group_rank)
        for key, failure in participation.bad_exits.items()
        if failure.in_collective is False and key not in participation.failures
    ]


def _is_hang(cause: Failure | None) -> bool:
    return cause is not None and cause.kind == HANG


def _culprits_of(agent: AgentHistory, round_: int) -> list[tuple[str | None, int | None, int | None]]:
    hanging = [*_hanging_workers(agent, round_), *filter(_is_hang, agent.rounds[round_].failures.values())]
    return [(failure.node_id, failure.rank, failure.pid) for failure in hanging]


def _left_before(agent: AgentHistory, round_: int, cause: Failure) -> bool:
    """Whether an agent received a termination signal before the failure, which then is a consequence of it."""
    leaving_ns = agent.end.leaving_ns
    return agent.last_round == round_ and leaving_ns is not None and leaving_ns <= _at(cause)


def _most_reliable(reports: Sequence[RestartReport]) -> RestartReport | None:
    """An agreed report before one agent's view, the job reporter's before others, a completed restart first."""
    return max(
        reports,
        key=lambda each: (each.agreed, each.is_reporter, bool(each.phases), each.reason != "unknown", repr(each)),
        default=None,
    )


def _order(failure: Failure) -> tuple[int, int, int, str]:
    rank = failure.rank if failure.rank is not None else _NEVER
    return _at(failure), _looks_stopped(failure), rank, failure.node_id or ""


def _at(failure: Failure) -> int:
    return _NEVER if failure.at_ns is None else failure.at_ns


def _looks_stopped(failure: Failure) -> int:
    """Whether it may be a worker that an agent stopped: torch reports those as failed, too (2.13)."""
    return int(failure.inferred_from == "torch" and failure.signal in _STOP_SIGNALS)


def _earliest(failures: Sequence[Failure], lost: Sequence[Failure], hanging: Sequence[Failure] = ()) -> Failure | None:
    candidates = [failure for failure in failures if not _looks_stopped(failure)] or list(failures)
    decision = decide([*candidates, *hanging])
    first = decision.causes[0] if decision.causes else None
    gone = min(lost, key=_order, default=None)
    if gone is not None and (
        first is None or first.weight != Weight.OWN or (gone.at_ns is not None and gone.at_ns <= _at(first))
    ):
        return replace(gone, ambiguous=any(other is not gone and other.at_ns is None for other in lost))
    if first is None or decision.evidence is None:
        return None
    return replace(
        first,
        ambiguous=first.ambiguous or decision.ambiguous,
        evidence=decision.evidence.value,
        culprits=tuple(map(_culprit, decision.causes)) if decision.evidence == Evidence.STACK_AT_STOP else (),
    )


def _culprit(failure: Failure) -> str:
    return f"rank {failure.rank} on {failure.host}" + (f" in {failure.place}" if failure.place else "")


def _loss_failure(loss: LostNode) -> Failure:
    sign = "last heartbeat" if loss.source == "heartbeat" else "last sign of life"
    return Failure(
        kind="node_lost",
        host=address_of(loss.node_id),
        node_id=loss.node_id,
        group_rank=loss.group_rank,
        error_type="node_lost",
        message="the node was lost" + (f"; the time is that of its {sign}" if loss.heard_ns is not None else ""),
        at_ns=loss.heard_ns,
        inferred_from=loss.source,
    )


def _agent_error(agent: AgentHistory) -> Failure | None:
    """What an agent raised itself; a termination signal and the loss of the other agents are not causes."""
    end = agent.end
    if end.outcome != Outcome.FAILED or end.error_type in (None, SIGNALLED) or end.lost_the_others:
        return None
    last = agent.rounds[agent.last_round] if agent.last_round is not None else None
    return Failure(
        kind="agent_error",
        host=agent.source.origin.host_name,
        node_id=agent.node_id,
        group_rank=last.group_rank if last is not None else None,
        pid=agent.source.origin.pid or None,
        error_type=end.error_type,
        message=end.message,
        at_ns=end.at_ns,
        inferred_from="agent",
    )


def _is_same(failure: Failure, cause: Failure | None) -> bool:
    if cause is None or failure.node_id != cause.node_id:
        return False
    if failure.node_id is None and failure.host != cause.host:
        return False  # static and etcd have no node ids, and containers the same process ids
    if (failure.kind == "agent_error") != (cause.kind == "agent_error"):
        return False
    if failure.pid is not None and cause.pid is not None:
        return failure.pid == cause.pid
    return failure.rank is not None and failure.rank == cause.rank


def _with_details(cause: Failure, failures: Iterable[Failure]) -> Failure:
    """The agreed cause with what only its own node reports: the traceback, and what it was inferred from."""
    own = next((failure for failure in failures if _is_same(failure, cause)), None)
    if own is None:
        return cause
    return replace(
        completed(cause, own),
        kind=own.kind,
        host=own.host or cause.host,
        inferred_from=own.inferred_from or cause.inferred_from,
    )
