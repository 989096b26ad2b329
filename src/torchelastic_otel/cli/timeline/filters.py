"""Which part of a story was asked for: ``--run``, ``--round``, ``--since`` and ``--node``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torchelastic_otel import semconv
from torchelastic_otel.history.types import Member, Node, Outcome, Run
from torchelastic_otel.model.event import ElasticEvent


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for of one run.

    Attributes:
        run: The run with the rounds and nodes that were asked for; what is said of the run itself is of the whole.
        whole: The run with all its rounds and nodes.
    """

    run: Run
    whole: Run


def chosen(
    runs: Sequence[Run], run_id: str | None, round_: int | None, since_ns: int | None, node: str | None
) -> list[Selection]:
    """The runs that were asked for, with the rounds and nodes that were asked for.

    Args:
        runs: All runs.
        run_id: A run's id, or its nonce.
        round_: A round's number.
        since_ns: Runs that are known to have ended before are left out.
        node: A host, a node id, or a node's rank in any round.
    """
    kept = []
    for whole in runs:
        run = whole
        if run_id is not None and run_id not in (run.run_id, run.nonce):
            continue
        if since_ns is not None and _was_over(run, since_ns):
            continue
        if round_ is not None:
            run = replace(run, rounds=tuple(each for each in run.rounds if each.round == round_))
            if not run.rounds:
                continue
        if node is not None:
            run = _of_node(run, node)
            if not run.nodes:
                continue
        kept.append(Selection(run, whole))
    return kept


def _was_over(run: Run, then_ns: int) -> bool:
    """Whether each agent whose events are here came to its end, and the last of them before a moment.

    An agent may be silent for hours while its workers train, and one whose events have no times may have gone on.
    """
    partakers = [member for member in run.nodes if member.rounds] or run.nodes
    endless = any(member.told and member.outcome in (Outcome.RUNNING, Outcome.UNKNOWN) for member in partakers)
    return not endless and run.last_ns is not None and run.last_ns < then_ns


def _of_node(run: Run, node: str) -> Run:
    """The run with this node alone; what failed first stays, wherever that was."""
    # under some backends nodes have no id of their own, and hosts may have several nodes
    names = {(each.host, each.node_id) for round_ in run.rounds for each in round_.nodes if _is(each, node)}
    rounds = tuple(
        replace(round_, nodes=tuple(each for each in round_.nodes if _is(each, node))) for round_ in run.rounds
    )
    members = tuple(member for member in run.nodes if _is(member, node) or (member.host, member.node_id) in names)
    called = {(member.host, member.node_id) for member in members}
    agents = tuple(agent for agent in run.agents if (agent.origin.host_name, agent.node_id) in called)
    return replace(run, rounds=tuple(round_ for round_ in rounds if round_.nodes), nodes=members, agents=agents)


def _is(each: Node | Member, node: str) -> bool:
    rank = each.group_rank if isinstance(each, Node) else None
    return node in (each.host, each.node_id) or (rank is not None and node == str(rank))


def events_of(run: Run, round_: int | None) -> list[tuple[str, ElasticEvent]]:
    """The events that a run is told from, with their hosts, in the order of their times.

    Args:
        run: The run.
        round_: Only those of this round; ``None`` for all.
    """
    told = [
        (
            event.time_ns if event.time_ns is not None else event.observed_ns,
            agent.key,
            place,
            agent.origin.host_name,
            event,
        )
        for agent in run.agents
        for place, event in enumerate(agent.events)
        if round_ is None or event.attributes.get(semconv.RENDEZVOUS_ROUND) == round_
    ]
    return [(host, event) for _, _, _, host, event in sorted(told, key=lambda each: each[:3])]
