"""The context of an agent, reduced from its own events, and the attributes that it adds to each of them.

Torch sets the rank on one rendezvous event in ten, and its agent events carry the rank and the world size of the round
before (torch 2.4 to 2.15, ``_construct_event`` runs before the worker group is updated). So the last known values are
added to every event: round, node rank, world size, restart count.

Guarantees: an event's own round is never overwritten; ``enrich`` is pure; an intent that a stale sync rolled back
leaves no trace in the context.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, ElasticEvent
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.serialization import Layout, Serializable

_CONTEXT_ATTRIBUTES: Final = {
    "run_id": semconv.RUN_ID,
    "node_id": semconv.NODE_ID,
    "backend": semconv.RENDEZVOUS_BACKEND,
    "round": semconv.RENDEZVOUS_ROUND,
    "group_rank": semconv.GROUP_RANK,
    "world_size": semconv.GROUP_WORLD_SIZE,
    "restart_count": semconv.RESTART_COUNT,
}
_PER_ROUND: Final = frozenset({semconv.GROUP_RANK, semconv.GROUP_WORLD_SIZE})
_PREVIOUS_ROUND: Final = frozenset({semconv.AGENT_RENDEZVOUS_FINISHED, semconv.AGENT_RANKS_ASSIGNED})
"""Agent events whose rank and world size are the last round's."""
_POSSIBLY_PREVIOUS_ROUND: Final = frozenset({*_PREVIOUS_ROUND, semconv.AGENT_SUCCEEDED, semconv.AGENT_FAILED})
"""Agent events whose rank and world size are the last round's if the next one has begun."""
_BACKENDS_WITHOUT_EVENTS: Final = frozenset({"static", "etcd"})


@dataclass(frozen=True, slots=True)
class AgentContext(Serializable):
    """The last known values of an agent; ``None`` is unknown.

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
        hooked: Whether hooks report the agent's phases; then they are not inferred from torch's events.
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
    hooked: bool = False


def enrich(context: AgentContext, event: ElasticEvent) -> tuple[AgentContext, ElasticEvent]:
    """The event with the values of its context, and the context after it.

    Args:
        context: The context before the event.
        event: The event as it was parsed.
    """
    run_id = event.attributes.get(semconv.RUN_ID)
    if event.name == semconv.AGENT_STARTED or (run_id is not None and context.run_id not in (None, run_id)):
        context = AgentContext(restart_count=0)  # a program that launches one job after another
    context, added = _update(context, event)
    attributes: dict[str, AttributeValue] = dict(event.attributes)
    if context.hooked and event.name in _POSSIBLY_PREVIOUS_ROUND:
        for name in _PER_ROUND:
            attributes.pop(name, None)
    attributes.update(added)
    for field, name in _CONTEXT_ATTRIBUTES.items():
        value = getattr(context, field)
        if value is not None and (name not in attributes or (event.name in _PREVIOUS_ROUND and name in _PER_ROUND)):
            attributes[name] = value
    return context, replace(event, attributes=attributes)


def _update(context: AgentContext, event: ElasticEvent) -> tuple[AgentContext, dict[str, AttributeValue]]:
    attributes = event.attributes
    changes: dict[str, object] = {
        field: attributes[name]
        for field, name in _CONTEXT_ATTRIBUTES.items()
        if name in attributes and not (event.name in _PREVIOUS_ROUND and name in _PER_ROUND)
    }
    added: dict[str, AttributeValue] = {}
    if context.hooked and event.name in _POSSIBLY_PREVIOUS_ROUND:
        changes.pop("group_rank", None)
        changes.pop("world_size", None)
    if event.name == semconv.AGENT_PHASE_ENTERED:
        changes["hooked"] = True
        if attributes.get(semconv.PHASE) == Phase.RENDEZVOUS.value:
            # the next round is unknown, and the values of the last one no longer apply
            changes.update(round=None, group_rank=None, world_size=None)
    if attributes.get(semconv.RENDEZVOUS_INTENT) is True:
        if not context.intents:
            changes["round_before_intents"] = context.round
        changes["intents"] = (*context.intents, event.name)
    elif event.name == semconv.RENDEZVOUS_STATE_SYNCED:
        added[semconv.RENDEZVOUS_COMMITTED] = context.intents
        changes["intents"] = ()
    elif event.name == semconv.RENDEZVOUS_STATE_STALE:
        added[semconv.RENDEZVOUS_ROLLED_BACK] = context.intents
        if context.intents:
            changes["round"] = context.round_before_intents
        changes["intents"] = ()
    elif (
        event.name == semconv.AGENT_RENDEZVOUS_FINISHED
        and not context.hooked
        and (changes.get("backend") or context.backend) in _BACKENDS_WITHOUT_EVENTS
    ):
        changes["round"] = 0 if context.round is None else context.round + 1
    return replace(context, **changes), added  # type: ignore[arg-type]
