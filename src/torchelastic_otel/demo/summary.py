"""The summary at the end of the demonstration: what arrived, from whom, and whether anything is missing.

What always holds: data in, data out, then text; the order in which records arrived does not matter, a record that
arrived twice counts once. An event is missing when the agent's own spool has its number and it did not arrive; of an
agent without a spool nobody can say that nothing is missing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchelastic_otel import semconv
from torchelastic_otel.demo.received import Received
from torchelastic_otel.demo.spools import SpoolReport

_UID = re.compile(r"(.+)-([1-9]\d*)")
_FAILURES = (semconv.WORKER_FAILED, semconv.AGENT_FAILED)


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What arrived from one agent process.

    Attributes:
        origin_id: The agent, as in ``log.record.uid``.
        node: Its ``host.name``.
        protocols: How it came: ``grpc``, ``http/protobuf``.
        arrived: How many different events arrived.
        written: How many it wrote; ``None`` where its spool cannot be read.
        missing: The numbers of those that did not arrive, rising.
        counts: Event names and how often, for ``agent`` and for each ``rank N``.
        rounds: The rendezvous rounds its events name.
        restarts: The highest restart count its events name: this agent's own failures.
    """

    origin_id: str
    node: str
    protocols: tuple[str, ...]
    arrived: int
    written: int | None
    missing: tuple[int, ...]
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
        unsure = any(agent.missing or agent.written is None for agent in self.agents)
        return not (self.silent_nodes or self.without_uid or unsure)


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


def describe(numbers: Sequence[int]) -> str:
    """``3, 7 to 9``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ", ".join(" to ".join(map(str, each)) for each in ranges)


def _agent(origin: str, events: dict[int, Received], protocols: set[str], written: SpoolReport | None) -> AgentReport:
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
        written=written.written if written is not None else None,
        missing=tuple(number for number in written.sequences if number not in events) if written is not None else (),
        counts=counts,
        rounds=tuple(sorted(set(_numbers(events.values(), semconv.RENDEZVOUS_ROUND)))),
        restarts=max(_numbers(events.values(), semconv.RESTART_COUNT), default=0),
    )


def _numbers(records: Iterable[Received], attribute: str) -> list[int]:
    values = (record.attributes.get(attribute) for record in records)
    return [value for value in values if isinstance(value, int)]


def _is_failure(record: Received) -> bool:
    return record.event_name in _FAILURES
