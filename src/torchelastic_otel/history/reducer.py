"""The reducer of job history: stored events of many processes in, runs out.

A process may run several agents, one after the other, and run ids repeat (torchrun's default is "none"). So events are
grouped by agent, then agents by run, and of each run its history is built.

Guarantees: the result is a function of the set of events: their order and repetitions have no effect. An event is
identified by its process and its sequence number (``log.record.uid``). Agents with different nonces are never in one
run. Without a nonce, agents are grouped by the nodes that they mention, then by overlapping time, and ``Run.inferred``
reports this. Nothing is guessed without being listed there.

Not guaranteed: anything that no event reports, and order across hosts beyond clock accuracy and error bounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history.agent_history import AgentHistory, agent_history
from torchelastic_otel.history.caveats import names_of
from torchelastic_otel.history.reports import LostReport, MembershipReport, text_of
from torchelastic_otel.history.runs import build_run
from torchelastic_otel.history.types import AgentEvents, Run
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
_IDENTITY: Final = (semconv.RUN_ID, semconv.NODE_ID, semconv.AGENT_ID)
_STORE: Final = "store"
"""``torchelastic.inferred.from`` of a nonce that all agents of a run share."""


@dataclass(frozen=True, slots=True)
class HistoryState:
    """The events so far.

    Attributes:
        events: Each event once, by its process and its sequence number.
    """

    events: Mapping[tuple[str, int], StoredEvent] = field(default_factory=dict)


def add(state: HistoryState, events: Iterable[StoredEvent]) -> HistoryState:
    """The state with more events; an event that it already has changes nothing."""
    merged = dict(state.events)
    for event in events:
        key = event.origin.id, event.sequence
        before = merged.get(key)
        if before is None or _completeness(before) < _completeness(event):
            merged[key] = event
    return HistoryState(merged)


def _completeness(stored: StoredEvent) -> tuple[bool, int, str, str]:
    """A spool contains more of an event than the log record that was made from it."""
    event = stored.event
    return event.monotonic_ns is not None, len(event.attributes), event.to_json(), stored.origin.to_json()


def build_runs(state: HistoryState, *, alive: Collection[str] = (), exited: Collection[str] = ()) -> tuple[Run, ...]:
    """The runs that the events belong to, the earliest first.

    Args:
        state: The events.
        alive: Origin ids of processes that are known to be alive.
        exited: Origin ids of processes that are known to have exited.
    """
    by_process: dict[str, list[StoredEvent]] = {}
    for (origin_id, _), event in state.events.items():
        by_process.setdefault(origin_id, []).append(event)
    processes = dict.fromkeys(exited, False) | dict.fromkeys(alive, True)
    agents = [
        agent_history(events)
        for events in _split_by_agent(by_process, processes)
        if events.run_id or len(events.events) > 1
    ]
    runs = []
    for group in _group_by_run(agents):
        unique, notes = _without_duplicates(group.agents)
        runs.append(build_run(group.run_id, group.nonce, unique, group.by_time, notes))
    return tuple(sorted(runs, key=lambda run: (run.started_ns or 0, run.run_id, run.nonce or "", repr(run.nodes[:1]))))


def _split_by_agent(
    by_process: Mapping[str, Iterable[StoredEvent]], processes: Mapping[str, bool]
) -> list[AgentEvents]:
    agents: list[AgentEvents] = []
    for origin_id, stored in sorted(by_process.items()):
        ordered = sorted(stored, key=lambda event: event.sequence)
        origin = max((event.origin for event in ordered), key=lambda o: (o.started_ns, o.to_json()))
        of_process = [
            _agent_events(origin, number, events, processes.get(origin_id))
            for number, events in enumerate(_split(event.event for event in ordered))
        ]
        # of several agents of one process only the last can still be alive
        agents += [replace(agent, alive=False) if agent.alive else agent for agent in of_process[:-1]] + of_process[-1:]
    return agents


def _agent_events(origin: Origin, number: int, events: list[ElasticEvent], alive: bool | None) -> AgentEvents:
    nonce = None
    for event in events:
        if event.name == semconv.RUN_IDENTIFIED and event.attributes.get(semconv.INFERRED_FROM) == _STORE:
            nonce = text_of(event, semconv.RUN_NONCE) or nonce
    run_id, node_id = _most_common(events, semconv.RUN_ID) or "", _most_common(events, semconv.NODE_ID)
    return AgentEvents(origin, number, run_id, nonce, node_id, tuple(events), alive)


def _most_common(events: Iterable[ElasticEvent], name: str) -> str | None:
    counted = Counter(value for event in events if (value := text_of(event, name)) is not None)
    return min(counted, key=lambda value: (-counted[value], value)) if counted else None


def _split(events: Iterable[ElasticEvent]) -> list[list[ElasticEvent]]:
    """A new agent begins at another run id, node id or agent id, and at an opening event after an end."""
    agents: list[list[ElasticEvent]] = []
    identity: dict[str, str] = {}
    ended = False
    for event in events:
        names = {name: value for name in _IDENTITY if (value := text_of(event, name)) is not None}
        differs = any(identity.get(name, value) != value for name, value in names.items())
        if not agents or differs or (ended and event.name in _OPENING):
            # a store is hosted before its agent has a name
            only_store = bool(agents) and all(each.name == semconv.RENDEZVOUS_STORE_HOSTED for each in agents[-1])
            if not only_store:
                agents.append([])
            identity, ended = {}, False
        agents[-1].append(event)
        identity |= names
        ended = ended or event.name in _CLOSING or event.attributes.get(semconv.PHASE) == Phase.ENDED.value
    return agents


@dataclass(slots=True)
class _Group:
    """The agents of one run.

    Attributes:
        run_id: The run's id.
        nonce: The nonce that the agents agreed on; ``None`` if they did not.
        agents: The agents.
        by_time: Those that were added only because their time overlaps that of the others.
    """

    run_id: str
    nonce: str | None
    agents: list[AgentHistory] = field(default_factory=list)
    by_time: list[AgentHistory] = field(default_factory=list)


def _group_by_run(agents: Sequence[AgentHistory]) -> list[_Group]:
    by_nonce: dict[tuple[str, str], _Group] = {}
    without_nonce: list[AgentHistory] = []
    for agent in sorted(agents, key=_order):
        run_id, nonce = agent.source.run_id, agent.source.nonce
        if nonce is None:
            without_nonce.append(agent)
        else:
            by_nonce.setdefault((run_id, nonce), _Group(run_id, nonce)).agents.append(agent)
    groups = list(by_nonce.values())
    for agent in without_nonce:
        candidates = [group for group in groups if _may_belong(agent, group)]
        group = max(candidates, key=lambda group: _mentions(agent, group), default=None)
        if group is None:
            group = _Group(agent.source.run_id, None)
            groups.append(group)
        elif not _mentions(agent, group):
            group.by_time.append(agent)
        group.agents.append(agent)
    return groups


def _order(agent: AgentHistory) -> tuple[int, str, tuple[str, int]]:
    return agent.times[0] or 0, agent.node_id or "", agent.key


def _may_belong(agent: AgentHistory, group: _Group) -> bool:
    return (
        group.run_id == agent.source.run_id
        and any(_overlap(agent, other) for other in group.agents)
        and not any(_contradict(agent, other) for other in group.agents)
    )


def _mentions(agent: AgentHistory, group: _Group) -> int:
    """How often the agent and those of a group mention each other's nodes."""
    others = {other.node_id for other in group.agents}
    return sum(agent.node_id in _nodes_mentioned(other) for other in group.agents) + len(
        _nodes_mentioned(agent) & others
    )


def _nodes_mentioned(agent: AgentHistory) -> set[str | None]:
    nodes: set[str | None] = set()
    for participation in agent.rounds.values():
        nodes.update(participation.participants)
    for report in agent.reports:
        if isinstance(report, LostReport):
            nodes.add(report.node_id)
        elif isinstance(report, MembershipReport):
            nodes.update((*report.joined, *report.left, *report.lost))
    for wait in agent.waits:
        nodes.update(wait.participants)
    return nodes


def _overlap(one: AgentHistory, other: AgentHistory) -> bool:
    start, end = one.times
    others_start, others_end = other.times
    if start is None or end is None or others_start is None or others_end is None:
        return True  # recordings without times may be of any time
    return start <= others_end and others_start <= end


def _contradict(one: AgentHistory, other: AgentHistory) -> bool:
    """Whether two agents cannot have been in one round together."""
    if one.node_id is not None and one.node_id == other.node_id:
        return False  # two recordings of one agent
    for number in one.rounds.keys() & other.rounds.keys():
        mine, theirs = one.rounds[number], other.rounds[number]
        if mine.group_rank is not None and mine.group_rank == theirs.group_rank:
            return True
        if None not in (mine.world_size, theirs.world_size) and mine.world_size != theirs.world_size:
            return True
        for participants, node_id in ((mine.participants, other.node_id), (theirs.participants, one.node_id)):
            if participants and node_id is not None and node_id not in participants:
                return True
    return False


def _without_duplicates(agents: Sequence[AgentHistory]) -> tuple[list[AgentHistory], list[str]]:
    """Each agent once: of two recordings of one agent the fuller one, and a sentence that names those agents."""
    unique: list[AgentHistory] = []
    twice: dict[str, None] = {}
    for agent in sorted(agents, key=lambda agent: (-len(agent.source.events), agent.key)):
        same = next(
            (
                other
                for other in unique
                if agent.node_id is not None
                and other.node_id == agent.node_id
                and other.source.origin.id != agent.source.origin.id
                and _overlap(agent, other)
            ),
            None,
        )
        if same is None:
            unique.append(agent)
        else:
            twice[same.name] = None
    notes = [f"there are two recordings of {names_of(list(twice))}; the one with more events is used"] if twice else []
    return sorted(unique, key=_order), notes
