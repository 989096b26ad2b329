"""One agent's own course: the rounds it took part in, its workers and their failures, what it said of others.

What always holds: a pure function of the agent's events; a failure that is told twice (by us when seen, by torch at
the end) is one failure; an agent's word for its own end is weighed against what became of its workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history import outcomes
from torchelastic_otel.history.agents import Agent
from torchelastic_otel.history.attributes import number_of, text_of, texts_of
from torchelastic_otel.history.failures import failure_of
from torchelastic_otel.history.participation import RoundParticipation
from torchelastic_otel.history.phases import phase_named, stretches_of, tells_phases
from torchelastic_otel.history.reports import Report, Waiting, reports_of, waiting_of
from torchelastic_otel.history.types import Failure, Outcome, PhaseInterval, Worker
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.phases import Phase

_IN_A_ROUND: Final = frozenset(
    {Phase.ASSIGN_RANKS, Phase.START, Phase.RUNNING, Phase.DETECT, Phase.STOP, Phase.EXIT_BARRIER}
)
_OF_WORKERS: Final = frozenset(
    {
        semconv.WORKER_STARTED,
        semconv.WORKER_EXITED,
        semconv.WORKER_SUCCEEDED,
        semconv.WORKER_TERMINATED,
        semconv.WORKER_FAILED,
        semconv.TRAINING_STARTED,
    }
)


@dataclass(frozen=True, slots=True)
class AgentHistory:
    """One agent's course.

    Attributes:
        agent: The agent.
        parts: Its part in each round, by the round's number.
        stretches: Its phases.
        end: How it ended.
        arrivals: When it was among the participants of a round, by the round's number; it may never have been formed.
        waited_ns: When it was first put on the wait list.
        stood_by_ns: When it was first put on the redundancy list.
        reports: What it said of other nodes and of the job.
        waits: What it said while a rendezvous was held up.
        backend: The rendezvous backend's name.
        ours: Whether events of ours are among its events, so that silence says something.
    """

    agent: Agent
    parts: Mapping[int, RoundParticipation]
    stretches: tuple[PhaseInterval, ...]
    end: outcomes.AgentOutcome
    arrivals: Mapping[int, int | None]
    waited_ns: int | None
    stood_by_ns: int | None
    reports: tuple[Report, ...]
    waits: tuple[Waiting, ...]
    backend: str | None
    ours: bool

    @property
    def last_round(self) -> int | None:
        """The last round that it took part in."""
        return max(self.parts, default=None)

    def is_node_of(self, failure: Failure) -> bool:
        """Whether something failed on its node; static and etcd have no node ids, there the host tells."""
        agent = self.agent
        if agent.node_id is None:
            return failure.node_id is None and failure.host == agent.origin.host_name
        return failure.node_id == agent.node_id

    @property
    def is_open(self) -> bool:
        """Whether its events stop without an end."""
        return self.end.at_ns is None and self.end.outcome == Outcome.UNKNOWN

    @property
    def is_gone(self) -> bool:
        """Whether they do, and its process is known to be gone."""
        return self.is_open and self.agent.alive is False

    @property
    def beats(self) -> bool:
        """Whether its heartbeats are among its events, so that the last event is when it was last heard of."""
        return any(event.name in semconv.HEARTBEATS for event in self.agent.events)


def agent_history(agent: Agent) -> AgentHistory:
    """The course that an agent's events tell."""
    builder = _Builder(agent)
    for event in agent.events:
        builder.take(event)
    return builder.course()


class _Builder:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._ours = tells_phases(agent.events)
        self._parts: dict[int, RoundParticipation] = {}
        self._current: int | None = None
        self._arrivals: dict[int, int | None] = {}
        self._waited: list[int] = []
        self._stood_by: list[int] = []
        self._reports: list[Report] = []
        self._waits: list[Waiting] = []
        self._backend: str | None = None

    def take(self, event: ElasticEvent) -> None:
        """Learn from one event, in order."""
        name, round_ = event.name, number_of(event, semconv.RENDEZVOUS_ROUND)
        self._backend = text_of(event, semconv.RENDEZVOUS_BACKEND) or self._backend
        if name == semconv.RENDEZVOUS_JOINED and round_ is not None:
            self._enter(round_, event)
        elif name == semconv.AGENT_PHASE_ENTERED:
            self._phase(event, round_)
        elif name == semconv.AGENT_RANKS_ASSIGNED and self._backend in ("static", "etcd"):
            self._enter(round_, event)
        elif name == semconv.RENDEZVOUS_PARTICIPANT_ADDED and round_ is not None:
            self._arrivals[round_] = event.time_ns
        elif name == semconv.RENDEZVOUS_WAIT_LIST_ADDED and event.time_ns is not None:
            self._waited.append(event.time_ns)
        elif name == semconv.RENDEZVOUS_REDUNDANCY_LIST_ADDED and event.time_ns is not None:
            self._stood_by.append(event.time_ns)
        elif name in _OF_WORKERS:
            self._worker(event, round_)
        elif name == semconv.RESTART_STARTED and self._current is not None:
            self._parts[self._current].trigger = text_of(event, semconv.RESTART_TRIGGER)
            self._parts[self._current].restarted_ns = event.time_ns
        elif name == semconv.RENDEZVOUS_WAITING:
            self._waits.append(waiting_of(event, self._current))
        else:
            self._reports += reports_of(event, self._current)
        if event.attributes.get(semconv.WRITER) is True and self._current is not None:
            self._parts[self._current].writer = True

    def course(self) -> AgentHistory:
        """What was learned."""
        stretches = stretches_of(self._agent.events)
        for stretch in stretches:
            part = self._parts.get(stretch.round) if stretch.round is not None else None
            if part is not None and stretch.phase == Phase.RUNNING:
                part.running_ns = stretch.start_ns
        return AgentHistory(
            self._agent,
            dict(sorted(self._parts.items())),
            stretches,
            outcomes.agent_outcome(self._agent, self._parts[max(self._parts)] if self._parts else None),
            self._arrivals,
            min(self._waited, default=None),
            min(self._stood_by, default=None),
            tuple(self._reports),
            tuple(self._waits),
            self._backend,
            self._ours,
        )

    def _enter(self, round_: int | None, event: ElasticEvent) -> RoundParticipation:
        if round_ is None:  # backends that have no rounds, before torch told that one began
            round_ = self._current if self._current is not None else 0
        part = self._parts.setdefault(round_, RoundParticipation(round_))
        self._current = round_
        part.group_rank = _or(number_of(event, semconv.GROUP_RANK), part.group_rank)
        part.world_size = _or(number_of(event, semconv.GROUP_WORLD_SIZE), part.world_size)
        part.joined_ns = _or(part.joined_ns, event.time_ns)
        return part

    def _phase(self, event: ElasticEvent, round_: int | None) -> None:
        phase = phase_named(text_of(event, semconv.PHASE))
        if round_ is None or not (
            phase in _IN_A_ROUND or (phase == Phase.ENDED and number_of(event, semconv.GROUP_RANK) is not None)
        ):
            return
        part = self._enter(round_, event)
        part.participants = texts_of(event, semconv.RENDEZVOUS_PARTICIPANTS) or part.participants
        if phase in (Phase.ASSIGN_RANKS, Phase.START) and event.trace_id:
            part.trace_id = part.trace_id or event.trace_id
        if phase == Phase.RUNNING:
            for told in texts_of(event, semconv.WORKER_PIDS):
                local_rank, rank, pid = ([*map(_whole, told.split(":")), None, None, None])[:3]
                if rank is not None:
                    self._learn(part, rank, local_rank=local_rank, pid=pid)

    def _worker(self, event: ElasticEvent, round_: int | None) -> None:
        part = self._part_of_worker(event, round_)
        rank, pid = number_of(event, semconv.WORKER_RANK), number_of(event, semconv.WORKER_PID)
        part.group_rank = _or(part.group_rank, number_of(event, semconv.GROUP_RANK))
        part.world_size = _or(part.world_size, number_of(event, semconv.GROUP_WORLD_SIZE))
        part.restart_count = _or(number_of(event, semconv.RESTART_COUNT), part.restart_count)
        learned: dict[str, object] = {"local_rank": number_of(event, semconv.WORKER_LOCAL_RANK), "pid": pid}
        if event.name == semconv.TRAINING_STARTED:
            learned["training_ns"] = event.time_ns
        elif event.name in (semconv.WORKER_EXITED, semconv.WORKER_FAILED):
            learned |= {
                "exit_code": number_of(event, semconv.PROCESS_EXIT_CODE),
                "signal": text_of(event, semconv.WORKER_SIGNAL),
            }
            if event.attributes.get(semconv.INFERRED) is True:
                learned["ended_ns"] = event.time_ns
        if rank is not None:
            self._learn(part, rank, **learned)
        key = pid if pid is not None else -1 - (rank or 0)
        if event.name == semconv.WORKER_EXITED and number_of(event, semconv.PROCESS_EXIT_CODE):
            part.fallen[key] = failure_of(event, self._agent, part.group_rank, part.fallen.get(key))
        if event.name == semconv.WORKER_FAILED:
            part.failures[key] = failure_of(event, self._agent, part.group_rank, part.failures.get(key))

    def _part_of_worker(self, event: ElasticEvent, round_: int | None) -> RoundParticipation:
        """Events of workers may come late, when the agent has a new round; the process tells which it belongs to."""
        pid = number_of(event, semconv.WORKER_PID)
        if pid is not None and event.name != semconv.WORKER_STARTED:
            # a pid may come again in a later round, never in the same breath
            for candidate in sorted(self._parts, reverse=True):
                if any(worker.pid == pid for worker in self._parts[candidate].workers.values()):
                    return self._parts[candidate]
        # torch's own events may carry a round that was only asked for; ours carry none then
        trusted = event.name == semconv.WORKER_STARTED or (self._ours and round_ is not None)
        if trusted or round_ in self._parts or self._current is None:
            if round_ is None:
                round_ = _or(self._current, number_of(event, semconv.RESTART_COUNT)) or 0
            part = self._parts.setdefault(round_, RoundParticipation(round_))
            if self._current is None or trusted:
                self._current = round_ if self._current is None else max(round_, self._current)
            return part
        return self._parts[self._current]

    def _learn(self, part: RoundParticipation, rank: int, **learned: object) -> None:
        known = part.workers.get(rank, Worker(rank))
        first_word = {"training_ns"}
        changes = {
            name: value
            for name, value in learned.items()
            if value is not None and (name not in first_word or getattr(known, name) is None)
        }
        part.workers[rank] = replace(known, **changes)  # type: ignore[arg-type]


def _or(one: int | None, other: int | None) -> int | None:
    return one if one is not None else other


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
