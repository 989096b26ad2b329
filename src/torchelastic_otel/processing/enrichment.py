"""Where an agent stands, folded over its own events; what every event of it is told with.

Torch sets the rank on one rendezvous event in ten, and its agent events carry the rank and the world size
of the round before (torch 2.4 to 2.15, ``_construct_event`` runs before the worker group is updated). So
what the agent last learned goes onto every event: round, node rank, world size, restart count.

What always holds: an event's own round is never overwritten; ``enrich`` is pure; an intent that a stale
sync rolled back leaves no trace in the standing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, ElasticEvent
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.serialization import Layout, Serializable

_LAST_KNOWN: Final = {
    "run_id": semconv.RUN_ID,
    "node_id": semconv.NODE_ID,
    "backend": semconv.RENDEZVOUS_BACKEND,
    "round": semconv.RENDEZVOUS_ROUND,
    "group_rank": semconv.GROUP_RANK,
    "world_size": semconv.GROUP_WORLD_SIZE,
    "restart_count": semconv.RESTART_COUNT,
}
_ROUNDS_OWN: Final = frozenset({semconv.GROUP_RANK, semconv.GROUP_WORLD_SIZE})
_TOO_EARLY: Final = frozenset({semconv.AGENT_RENDEZVOUS_FINISHED, semconv.AGENT_RANKS_ASSIGNED})
"""Agent events whose rank and world size are the last round's."""
_PERHAPS_LATE: Final = frozenset({*_TOO_EARLY, semconv.AGENT_SUCCEEDED, semconv.AGENT_FAILED})
"""Agent events whose rank and world size are the last round's where the next one was begun."""
_BACKENDS_WITHOUT_EVENTS: Final = frozenset({"static", "etcd"})


@dataclass(frozen=True, slots=True)
class AgentContext(Serializable):
    """What an agent last knew of itself; ``None`` is "not yet".

    Attributes:
        run_id: The run it takes part in.
        node_id: Its node, ``addr_pid_localid``.
        backend: The rendezvous backend's name.
        round: The rendezvous round; for backends that record nothing (static, etcd) the agent's own count.
        group_rank: Its node rank in that round.
        world_size: Nodes in that round.
        restart_count: How often this agent restarted its workers after a failure of their own.
        intents: Names of the events that wait for the next sync.
        round_before_intents: The round to go back to when that sync is stale.
        watched: Whether our own hooks say where the agent is; then nothing is concluded from torch's events.
    """

    LAYOUT: ClassVar[Layout] = "array"

    run_id: str | None = None
    node_id: str | None = None
    backend: str | None = None
    round: int | None = None
    group_rank: int | None = None
    world_size: int | None = None
    restart_count: int | None = None
    intents: tuple[str, ...] = ()
    round_before_intents: int | None = None
    watched: bool = False


def enrich(standing: AgentContext, event: ElasticEvent) -> tuple[AgentContext, ElasticEvent]:
    """The event with what its agent last knew, and what the agent knows after it.

    Args:
        standing: What the agent knew before the event.
        event: The event as torch said it.
    """
    run_id = event.attributes.get(semconv.RUN_ID)
    if event.name == semconv.AGENT_STARTED or (run_id is not None and standing.run_id not in (None, run_id)):
        standing = AgentContext(restart_count=0)  # a program that launches one job after another
    standing, told = _update(standing, event)
    attributes: dict[str, AttributeValue] = dict(event.attributes)
    if standing.watched and event.name in _PERHAPS_LATE:
        for name in _ROUNDS_OWN:
            attributes.pop(name, None)
    attributes.update(told)
    for field, name in _LAST_KNOWN.items():
        value = getattr(standing, field)
        if value is not None and (name not in attributes or (event.name in _TOO_EARLY and name in _ROUNDS_OWN)):
            attributes[name] = value
    return standing, replace(event, attributes=attributes)


def _update(standing: AgentContext, event: ElasticEvent) -> tuple[AgentContext, dict[str, AttributeValue]]:
    attributes = event.attributes
    changes: dict[str, object] = {
        field: attributes[name]
        for field, name in _LAST_KNOWN.items()
        if name in attributes and not (event.name in _TOO_EARLY and name in _ROUNDS_OWN)
    }
    told: dict[str, AttributeValue] = {}
    if standing.watched and event.name in _PERHAPS_LATE:
        changes.pop("group_rank", None)
        changes.pop("world_size", None)
    if event.name == semconv.AGENT_PHASE_ENTERED:
        changes["watched"] = True
        if attributes.get(semconv.PHASE) == Phase.RENDEZVOUS.value:
            # of the round that is coming nothing is known, and of the one that was nothing holds
            changes.update(round=None, group_rank=None, world_size=None)
    if attributes.get(semconv.RENDEZVOUS_INTENT) is True:
        if not standing.intents:
            changes["round_before_intents"] = standing.round
        changes["intents"] = (*standing.intents, event.name)
    elif event.name == semconv.RENDEZVOUS_STATE_SYNCED:
        told[semconv.RENDEZVOUS_COMMITTED] = standing.intents
        changes["intents"] = ()
    elif event.name == semconv.RENDEZVOUS_STATE_STALE:
        told[semconv.RENDEZVOUS_ROLLED_BACK] = standing.intents
        if standing.intents:
            changes["round"] = standing.round_before_intents
        changes["intents"] = ()
    elif (
        event.name == semconv.AGENT_RENDEZVOUS_FINISHED
        and not standing.watched
        and (changes.get("backend") or standing.backend) in _BACKENDS_WITHOUT_EVENTS
    ):
        changes["round"] = 0 if standing.round is None else standing.round + 1
    return replace(standing, **changes), told  # type: ignore[arg-type]
