"""The summary at the end of the demonstration: what arrived, from whom, and whether anything is missing.

What always holds: data in, data out, then text; the order in which records arrived does not matter, a record that
arrived twice counts once. An event is missing when its number lies below the highest one known of its agent, be it
known from another event or from the agent's own spool.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchelastic_otel import semconv
from torchelastic_otel.demo.receiver import Received
from torchelastic_otel.demo.spools import SpoolReport

_UID = re.compile(r"(.+)-([1-9]\d*)")
_FAILURES = (semconv.WORKER_FAILED, semconv.AGENT_FAILED)
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What arrived from one agent process.

    Attributes:
        origin_id: The agent, as in ``log.record.uid``.
        node: Its ``host.name``.
        protocols: How it came: ``grpc``, ``http/protobuf``.
        arrived: How many different events arrived.
        last: The highest sequence known, from the events and from its spool.
        missing: Ranges of sequences that did not arrive, both ends included.
        counts: Event names and how often, for ``agent`` and for each ``rank N``.
        rounds: The rendezvous rounds its events name.
        restarts: The highest restart count its events name: this agent's own failures.
    """

    origin_id: str
    node: str
    protocols: tuple[str, ...]
    arrived: int
    last: int
    missing: tuple[Range, ...]
    counts: dict[str, Counter[str]]
    rounds: tuple[int, ...]
    restarts: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What arrived, over all agents.

    Attributes:
        agents: The agents, by node.
        duplicates: Records that had arrived before.
        without_uid: Records without a usable ``log.record.uid``.
        silent_nodes: Nodes that ran and from which nothing arrived.
        failure: The first failure among the events, if one arrived.
    """

    agents: tuple[AgentReport, ...]
    duplicates: int
    without_uid: int
    silent_nodes: tuple[str, ...]
    failure: Received | None

    @property
    def complete(self) -> bool:
        """Whether every event of every node arrived."""
        return not (self.silent_nodes or self.without_uid or any(agent.missing for agent in self.agents))


def summarise(records: Sequence[Received], spools: Sequence[SpoolReport], nodes: Iterable[str]) -> Summary:
    """Fold what arrived into a summary.

    Args:
        records: What arrived, in any order.
        spools: What the agents' spools say; empty where they cannot be read.
        nodes: The names of the nodes that ran.
    """
    by_origin: dict[str, dict[int, Received]] = {report.origin_id: {} for report in spools}
    protocols: dict[str, set[str]] = {}
    duplicates = without_uid = 0
    for record in records:
        found = _UID.fullmatch(record.uid)
        if found is None:
            without_uid += 1
            continue
        origin, sequence = found[1], int(found[2])
        of_origin = by_origin.setdefault(origin, {})
        duplicates += sequence in of_origin
        of_origin.setdefault(sequence, record)
        protocols.setdefault(origin, set()).add(record.protocol)
    written = {report.origin_id: report for report in spools}
    agents = tuple(
        sorted(
            (
                _agent(origin, of_origin, protocols.get(origin, set()), written.get(origin))
                for origin, of_origin in by_origin.items()
            ),
            key=lambda agent: (agent.node, agent.origin_id),
        )
    )
    heard = {agent.node for agent in agents if agent.arrived}
    failures = [record for of_origin in by_origin.values() for record in of_origin.values() if _is_failure(record)]
    return Summary(
        agents=agents,
        duplicates=duplicates,
        without_uid=without_uid,
        silent_nodes=tuple(node for node in nodes if node not in heard),
        failure=min(failures, key=lambda record: (record.time_ns, record.uid), default=None),
    )


def missing_ranges(have: Iterable[int], last: int) -> tuple[Range, ...]:
    """The ranges of 1 to ``last`` that are not in ``have``, both ends included."""
    gaps, expected = [], 1
    for number in [*sorted(have), last + 1]:
        if number > expected:
            gaps.append((expected, number - 1))
        expected = number + 1
    return tuple(gaps)


def describe_ranges(ranges: Sequence[Range]) -> str:
    """``3, 7 to 9``."""
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ranges)


def _agent(origin: str, events: dict[int, Received], protocols: set[str], written: SpoolReport | None) -> AgentReport:
    last = max([*events, written.written if written else 0])
    counts: dict[str, Counter[str]] = {}
    for record in events.values():
        rank = record.attributes.get(semconv.WORKER_RANK)
        who = "agent" if rank is None else f"rank {rank}"
        counts.setdefault(who, Counter())[record.event_name] += 1
    hosts = [record.resource.get(semconv.HOST_NAME) for record in events.values()]
    return AgentReport(
        origin_id=origin,
        node=str(hosts[0]) if hosts else written.node if written else "-",
        protocols=tuple(sorted(protocols)),
        arrived=len(events),
        last=last,
        missing=missing_ranges(events, last),
        counts=counts,
        rounds=tuple(sorted(set(_numbers(events.values(), semconv.RENDEZVOUS_ROUND)))),
        restarts=max(_numbers(events.values(), semconv.RESTART_COUNT), default=0),
    )


def _numbers(records: Iterable[Received], attribute: str) -> list[int]:
    values = (record.attributes.get(attribute) for record in records)
    return [value for value in values if isinstance(value, int)]


def _is_failure(record: Received) -> bool:
    return record.event_name in _FAILURES
