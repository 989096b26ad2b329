"""The options of ``timeline`` that select a part of job history: ``--run``, ``--round``, ``--since`` and ``--node``."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history.types import Member, Node, Outcome, Run
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.units import NS_PER_S

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGO: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])")


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected part of one run.

    Attributes:
        run: The run with the selected rounds and nodes; everything else in it is of the full run.
        full_run: The run with all its rounds and nodes.
    """

    run: Run
    full_run: Run


def parse_since(text: str) -> int:
    """A time, nanoseconds since the epoch: so long ago (``90m``, ``2h``, ``7d``), or a date, or a date and a time.

    Without a zone it is local time.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return time.time_ns() - int(float(ago[1]) * _UNITS[ago[2]] * NS_PER_S)
    try:
        # Python 3.10 does not parse Z
        moment = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip()))
        return int(moment.astimezone(timezone.utc).timestamp()) * NS_PER_S
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; give how long ago (90m, 2h, 7d) or a time (2026-01-31, 2026-01-31T12:00:00Z)"
        ) from None


def parse_round(text: str) -> int:
    """A round's number."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a round's number, from 0")
    return int(text)


def select(
    runs: Sequence[Run], run_id: str | None, round_: int | None, since_ns: int | None, node: str | None
) -> list[Selection]:
    """The selected runs, each with the selected rounds and nodes.

    Args:
        runs: All runs.
        run_id: A run's id, or its nonce.
        round_: A round's number.
        since_ns: Runs that are known to have ended before are excluded.
        node: A host, a node id, or a node's rank in any round.
    """
    selected = []
    for full_run in runs:
        run = full_run
        if run_id is not None and run_id not in (run.run_id, run.nonce):
            continue
        if since_ns is not None and _ended_before(run, since_ns):
            continue
        if round_ is not None:
            run = replace(run, rounds=tuple(each for each in run.rounds if each.round == round_))
            if not run.rounds:
                continue
        if node is not None:
            run = _of_node(run, node)
            if not run.nodes:
                continue
        selected.append(Selection(run, full_run))
    return selected


def _ended_before(run: Run, time_ns: int) -> bool:
    """Whether each agent with events has ended, the last of them before a time.

    An agent may record no event for hours while its workers train, and events without times prove nothing.
    """
    participants = [member for member in run.nodes if member.rounds] or run.nodes
    endless = any(member.has_events and member.outcome in (Outcome.RUNNING, Outcome.UNKNOWN) for member in participants)
    return not endless and run.last_ns is not None and run.last_ns < time_ns


def _of_node(run: Run, node: str) -> Run:
    """The run with one node only; first failures stay, on whatever node they were."""
    # with some backends nodes have no id of their own, and hosts may have several nodes
    names = {(each.host, each.node_id) for round_ in run.rounds for each in round_.nodes if _is(each, node)}
    rounds = [replace(round_, nodes=tuple(each for each in round_.nodes if _is(each, node))) for round_ in run.rounds]
    members = tuple(member for member in run.nodes if _is(member, node) or (member.host, member.node_id) in names)
    names = {(member.host, member.node_id) for member in members}
    agents = tuple(agent for agent in run.agents if (agent.origin.host_name, agent.node_id) in names)
    return replace(run, rounds=tuple(round_ for round_ in rounds if round_.nodes), nodes=members, agents=agents)


def _is(each: Node | Member, node: str) -> bool:
    rank = each.group_rank if isinstance(each, Node) else None
    return node in (each.host, each.node_id) or (rank is not None and node == str(rank))


def events_of(run: Run, round_: int | None) -> list[tuple[str, ElasticEvent]]:
    """The events of a run with their hosts, in the order of their times.

    Args:
        run: The run.
        round_: Only those of this round; ``None`` for all.
    """
    found = [
        (event.time_ns if event.time_ns is not None else event.observed_ns, agent.origin.id, agent.number, i, agent)
        for agent in run.agents
        for i, event in enumerate(agent.events)
        if round_ is None or event.attributes.get(semconv.RENDEZVOUS_ROUND) == round_
    ]
    return [(agent.origin.host_name, agent.events[i]) for *_, i, agent in sorted(found, key=lambda each: each[:4])]
