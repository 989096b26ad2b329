"""One agent's history: its phases, its part in each round, its workers and their failures, and how it ended.

Guarantees: a pure function of the agent's events. A failure that two events report (this package's when it happens,
torch's at the end) is one failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history.lifecycle import (
    AgentOutcome,
    agent_outcome,
    has_phase_events,
    phase_intervals,
    phase_named,
)
from torchelastic_otel.history.reports import (
    RendezvousWait,
    Report,
    number_of,
    rendezvous_wait,
    reports_in,
    text_of,
    texts_of,
    worker_failure,
)
from torchelastic_otel.history.types import AgentEvents, Failure, Outcome, PhaseInterval, Worker
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.phases import Phase

_IN_A_ROUND: Final = frozenset(
    {Phase.ASSIGN_RANKS, Phase.START, Phase.RUNNING, Phase.DETECT, Phase.STOP, Phase.EXIT_BARRIER}
)
_WORKER_EVENTS: Final = frozenset(
    {
        semconv.WORKER_STARTED,
        semconv.WORKER_EXITED,
        semconv.WORKER_SUCCEEDED,
        semconv.WORKER_TERMINATED,
        semconv.WORKER_FAILED,
        semconv.TRAINING_STARTED,
    }
)


@dataclass(slots=True)
class RoundParticipation:
    """An agent's part in one round.

    Attributes:
        participants: All nodes of the round by rank, if this agent reports them.
        workers: By global rank.
        failures: By the worker's pid, or minus one minus its rank if no event has the pid.
        bad_exits: Each exit of a worker with a status other than 0, by the same; its agent stopped those of them that
            are not failures.
        restart_count: Restarts that this agent's own workers had caused by then.
        trigger: Why this agent restarted its workers and left this round, as it saw it.
        restarted_ns: When it did.
    """

    round: int
    group_rank: int | None = None
    world_size: int | None = None
    joined_ns: int | None = None
    running_ns: int | None = None
    participants: tuple[str, ...] = ()
    trace_id: str | None = None
    workers: dict[int, Worker] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    bad_exits: dict[int, Failure] = field(default_factory=dict)
    restart_count: int | None = None
    trigger: str | None = None
    restarted_ns: int | None = None


@dataclass(frozen=True, slots=True)
class AgentHistory:
    """One agent's history.

    Attributes:
        rounds: Its part in each round, by the round's number.
        arrivals: When it was among the participants of a round, by the round's number, also of rounds that were
            never formed.
        wait_listed_ns: When it was first put on the wait list.
        standby_ns: When it was first put on the redundancy list.
        reports: What it reported about other nodes and about the job.
        waits: What it reported while a rendezvous was waiting.
        has_phase_events: Whether it recorded phases itself, so that the absence of an event means something.
    """

    source: AgentEvents
    rounds: Mapping[int, RoundParticipation]
    phases: tuple[PhaseInterval, ...]
    end: AgentOutcome
    arrivals: Mapping[int, int | None]
    wait_listed_ns: int | None
    standby_ns: int | None
    reports: tuple[Report, ...]
    waits: tuple[RendezvousWait, ...]
    backend: str | None
    has_phase_events: bool

    @property
    def node_id(self) -> str | None:
        """Torch's node id."""
        return self.source.node_id

    @property
    def key(self) -> tuple[str, int]:
        """What distinguishes it from all other agents."""
        return self.source.origin.id, self.source.number

    @property
    def name(self) -> str:
        """Its name for a person."""
        return f"{self.source.origin.host_name} ({self.node_id or self.source.origin.pid or 'pid unknown'})"

    @property
    def times(self) -> tuple[int | None, int | None]:
        """The earliest and the latest time of its events."""
        times = [event.time_ns for event in self.source.events if event.time_ns is not None]
        return (min(times), max(times)) if times else (None, None)

    @property
    def last_round(self) -> int | None:
        """The last round that it took part in."""
        return max(self.rounds, default=None)

    def is_node_of(self, failure: Failure) -> bool:
        """Whether something failed on its node; static and etcd have no node ids, there the host decides."""
        if self.node_id is None:
            return failure.node_id is None and failure.host == self.source.origin.host_name
        return failure.node_id == self.node_id

    @property
    def is_running(self) -> bool:
        """Whether its process is known to be alive, and it has not ended."""
        return self.source.alive is True and self.end.at_ns is None

    @property
    def is_open(self) -> bool:
        """Whether its events stop without an end."""
        return self.end.at_ns is None and self.end.outcome == Outcome.UNKNOWN

    @property
    def has_vanished(self) -> bool:
        """Whether its events stop without an end and its process is known to have exited."""
        return self.is_open and self.source.alive is False

    @property
    def has_heartbeats(self) -> bool:
        """Whether its heartbeats are among its events, so that the last event is its last sign of life."""
        return any(event.name in semconv.HEARTBEATS for event in self.source.events)


def agent_history(source: AgentEvents) -> AgentHistory:
    """The history of one agent."""
    builder = _Builder(source)
    for event in source.events:
        builder.add(event)
    return builder.build()


class _Builder:
    def __init__(self, source: AgentEvents) -> None:
        self._source = source
        self._has_phase_events = has_phase_events(source.events)
        self._rounds: dict[int, RoundParticipation] = {}
        self._current: int | None = None
        self._arrivals: dict[int, int | None] = {}
        self._wait_listed: list[int] = []
        self._standby: list[int] = []
        self._reports: list[Report] = []
        self._waits: list[RendezvousWait] = []
        self._backend: str | None = None

    def add(self, event: ElasticEvent) -> None:
        """Apply the next event."""
        name, round_ = event.name, number_of(event, semconv.RENDEZVOUS_ROUND)
        self._backend = text_of(event, semconv.RENDEZVOUS_BACKEND) or self._backend
        if name == semconv.RENDEZVOUS_JOINED and round_ is not None:
            self._enter(round_, event)
        elif name == semconv.AGENT_PHASE_ENTERED:
            self._enter_phase(event, round_)
        elif name == semconv.AGENT_RANKS_ASSIGNED and self._backend in ("static", "etcd"):
            self._enter(round_, event)
        elif name == semconv.RENDEZVOUS_PARTICIPANT_ADDED and round_ is not None:
            self._arrivals[round_] = event.time_ns
        elif name == semconv.RENDEZVOUS_WAIT_LIST_ADDED and event.time_ns is not None:
            self._wait_listed.append(event.time_ns)
        elif name == semconv.RENDEZVOUS_REDUNDANCY_LIST_ADDED and event.time_ns is not None:
            self._standby.append(event.time_ns)
        elif name in _WORKER_EVENTS:
            self._apply_worker_event(event, round_)
        elif name == semconv.RESTART_STARTED and self._current is not None:
            self._rounds[self._current].trigger = text_of(event, semconv.RESTART_TRIGGER)
            self._rounds[self._current].restarted_ns = event.time_ns
        elif name == semconv.RENDEZVOUS_WAITING:
            self._waits.append(rendezvous_wait(event, self._current))
        else:
            self._reports += reports_in(event, self._current)

    def build(self) -> AgentHistory:
        """The history of all events so far."""
        phases = phase_intervals(self._source.events)
        last = self._rounds[max(self._rounds)] if self._rounds else None
        failed = last is not None and bool(last.failures) and last.restarted_ns is None
        for interval in phases:
            participation = self._rounds.get(interval.round) if interval.round is not None else None
            if participation is not None and interval.phase == Phase.RUNNING:
                participation.running_ns = interval.start_ns
        return AgentHistory(
            self._source,
            dict(sorted(self._rounds.items())),
            phases,
            agent_outcome(self._source.events, last.round if last is not None else None, failed),
            self._arrivals,
            min(self._wait_listed, default=None),
            min(self._standby, default=None),
            tuple(self._reports),
            tuple(self._waits),
            self._backend,
            self._has_phase_events,
        )

    def _enter(self, round_: int | None, event: ElasticEvent) -> RoundParticipation:
        if round_ is None:  # a backend without rounds, before torch's first event of a round
            round_ = self._current if self._current is not None else 0
        participation = self._rounds.setdefault(round_, RoundParticipation(round_))
        self._current = round_
        participation.group_rank = _first(number_of(event, semconv.GROUP_RANK), participation.group_rank)
        participation.world_size = _first(number_of(event, semconv.GROUP_WORLD_SIZE), participation.world_size)
        participation.joined_ns = _first(participation.joined_ns, event.time_ns)
        return participation

    def _enter_phase(self, event: ElasticEvent, round_: int | None) -> None:
        phase = phase_named(text_of(event, semconv.PHASE))
        if round_ is None or not (
            phase in _IN_A_ROUND or (phase == Phase.ENDED and number_of(event, semconv.GROUP_RANK) is not None)
        ):
            return
        participation = self._enter(round_, event)
        participation.participants = texts_of(event, semconv.RENDEZVOUS_PARTICIPANTS) or participation.participants
        if phase in (Phase.ASSIGN_RANKS, Phase.START) and event.trace_id:
            participation.trace_id = participation.trace_id or event.trace_id
        if phase == Phase.RUNNING:
            for text in texts_of(event, semconv.WORKER_PIDS):
                local_rank, rank, pid = ([*map(_whole, text.split(":")), None, None, None])[:3]
                if rank is not None:
                    _update_worker(participation, rank, local_rank=local_rank, pid=pid)

    def _apply_worker_event(self, event: ElasticEvent, round_: int | None) -> None:
        participation = self._participation_of_worker(event, round_)
        rank, pid = number_of(event, semconv.WORKER_RANK), number_of(event, semconv.WORKER_PID)
        exit_code = number_of(event, semconv.PROCESS_EXIT_CODE)
        participation.group_rank = _first(participation.group_rank, number_of(event, semconv.GROUP_RANK))
        participation.world_size = _first(participation.world_size, number_of(event, semconv.GROUP_WORLD_SIZE))
        participation.restart_count = _first(number_of(event, semconv.RESTART_COUNT), participation.restart_count)
        changes: dict[str, object] = {"local_rank": number_of(event, semconv.WORKER_LOCAL_RANK), "pid": pid}
        if event.name == semconv.TRAINING_STARTED:
            changes["training_ns"] = event.time_ns
        elif event.name in (semconv.WORKER_EXITED, semconv.WORKER_FAILED):
            changes |= {"exit_code": exit_code, "signal": text_of(event, semconv.WORKER_SIGNAL)}
            if event.attributes.get(semconv.INFERRED) is True:
                changes["ended_ns"] = event.time_ns
        if rank is not None:
            _update_worker(participation, rank, **changes)
        key = pid if pid is not None else -1 - (rank or 0)
        if event.name == semconv.WORKER_EXITED and exit_code:
            failures = participation.bad_exits
        elif event.name == semconv.WORKER_FAILED:
            failures = participation.failures
        else:
            return
        failures[key] = worker_failure(event, self._source, participation.group_rank, failures.get(key))

    def _participation_of_worker(self, event: ElasticEvent, round_: int | None) -> RoundParticipation:
        """The round of a worker's event, which may come when its agent is in a later round already."""
        pid = number_of(event, semconv.WORKER_PID)
        if pid is not None and event.name != semconv.WORKER_STARTED:
            # pids are reused, but not within one restart: the latest round with this pid is the right one
            for number in sorted(self._rounds, reverse=True):
                if any(worker.pid == pid for worker in self._rounds[number].workers.values()):
                    return self._rounds[number]
        # torch's own events may carry a round that was only requested; events of hooks carry none then
        trusted = event.name == semconv.WORKER_STARTED or (self._has_phase_events and round_ is not None)
        if trusted or round_ in self._rounds or self._current is None:
            if round_ is None:
                round_ = _first(self._current, number_of(event, semconv.RESTART_COUNT)) or 0
            participation = self._rounds.setdefault(round_, RoundParticipation(round_))
            if self._current is None or trusted:
                self._current = round_ if self._current is None else max(round_, self._current)
            return participation
        return self._rounds[self._current]


def _update_worker(participation: RoundParticipation, rank: int, **changes: object) -> None:
    worker = participation.workers.get(rank, Worker(rank))
    if worker.training_ns is not None:
        changes.pop("training_ns", None)  # the first report counts
    known = {name: value for name, value in changes.items() if value is not None}
    participation.workers[rank] = replace(worker, **known)  # type: ignore[arg-type]


def _first(one: int | None, other: int | None) -> int | None:
    return one if one is not None else other


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
