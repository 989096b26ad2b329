"""From the events of processes to the events of agents: a process may run one job after another.

What always holds: it depends on the events alone, not on the order they come in; an agent's events are in the order
of its process; an agent that two recordings tell of is told by the fuller one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history.attributes import text_of
from torchelastic_otel.model.event import ElasticEvent, Origin, StoredEvent
from torchelastic_otel.model.phases import Phase

_OPENING: Final = frozenset(
    {
        semconv.AGENT_STARTED,
        semconv.RENDEZVOUS_STORE_HOSTED,
        semconv.RENDEZVOUS_JOIN_ATTEMPTED,
        semconv.AGENT_RENDEZVOUS_FINISHED,
    }
)
_CLOSING: Final = frozenset({semconv.AGENT_SUCCEEDED, semconv.AGENT_FAILED})
STORE: Final = "store"
"""``torchelastic.inferred.from`` of a nonce that all agents of a run share."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent's events.

    Attributes:
        origin: Its process.
        number: Which agent of that process, from 0.
        run_id: Its run; empty where no event names one.
        nonce: What the agents of the run agreed on; ``None`` where they did not.
        node_id: Its own node id; ``None`` where the backend has none, or no event told it.
        events: Its events, in the order of its process.
        alive: Whether its process is known to live (``True``), to be gone (``False``), or neither.
    """

    origin: Origin
    number: int
    run_id: str
    nonce: str | None
    node_id: str | None
    events: tuple[ElasticEvent, ...]
    alive: bool | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What it is told from all others by."""
        return self.origin.id, self.number

    @property
    def times(self) -> tuple[int | None, int | None]:
        """The earliest and the latest time in its events."""
        times = [event.time_ns for event in self.events if event.time_ns is not None]
        return (min(times), max(times)) if times else (None, None)

    @property
    def name(self) -> str:
        """Who it is, for a person."""
        return f"{self.origin.host_name} ({self.node_id or self.origin.pid or 'pid not told'})"


def agents_of(deliveries: Mapping[str, Iterable[StoredEvent]], processes: Mapping[str, bool]) -> list[Agent]:
    """The agents, by process and number.

    Args:
        deliveries: The events of each process, by its origin's id, each event once.
        processes: Whether a process lives, by its origin's id, where that is known.
    """
    agents = []
    for origin_id, told in sorted(deliveries.items()):
        ordered = sorted(told, key=lambda delivery: delivery.sequence)
        origin = max((delivery.origin for delivery in ordered), key=lambda o: (o.started_ns, o.to_json()))
        for number, events in enumerate(_split(delivery.event for delivery in ordered)):
            agents.append(_agent(origin, number, events, processes.get(origin_id)))
    # of several agents of one process only the last can still live
    last = {agent.origin.id: agent.number for agent in agents}
    return [agent if agent.number == last[agent.origin.id] or not agent.alive else _gone(agent) for agent in agents]


def _gone(agent: Agent) -> Agent:
    return Agent(agent.origin, agent.number, agent.run_id, agent.nonce, agent.node_id, agent.events, False)


def _agent(origin: Origin, number: int, events: list[ElasticEvent], alive: bool | None) -> Agent:
    nonce = None
    for event in events:
        if event.name == semconv.RUN_IDENTIFIED and event.attributes.get(semconv.INFERRED_FROM) == STORE:
            nonce = text_of(event, semconv.RUN_NONCE) or nonce
    return Agent(
        origin, number, _most(events, semconv.RUN_ID) or "", nonce, _most(events, semconv.NODE_ID), tuple(events), alive
    )


def _most(events: Iterable[ElasticEvent], name: str) -> str | None:
    counted = Counter(value for event in events if (value := text_of(event, name)) is not None)
    return min(counted, key=lambda value: (-counted[value], value)) if counted else None


_NAMING: Final = (semconv.RUN_ID, semconv.NODE_ID, semconv.AGENT_ID)


def _split(events: Iterable[ElasticEvent]) -> list[list[ElasticEvent]]:
    """Where another run, another node id or a new start after an end begins, another agent does."""
    parts: list[list[ElasticEvent]] = []
    named: dict[str, str] = {}
    ended = False
    for event in events:
        told = {name: value for name in _NAMING if (value := text_of(event, name)) is not None}
        another = any(named.get(name, value) != value for name, value in told.items())
        if not parts or another or (ended and event.name in _OPENING):
            parts.append([])
            named, ended = {}, False
        parts[-1].append(event)
        named |= told
        ended = ended or event.name in _CLOSING or event.attributes.get(semconv.PHASE) == Phase.ENDED.value
    return _with_their_stores(parts)


def _with_their_stores(parts: list[list[ElasticEvent]]) -> list[list[ElasticEvent]]:
    """A store is hosted before its agent has a name."""
    whole: list[list[ElasticEvent]] = []
    for part in parts:
        if whole and all(event.name == semconv.RENDEZVOUS_STORE_HOSTED for event in whole[-1]):
            part = whole.pop() + part
        whole.append(part)
    return whole
