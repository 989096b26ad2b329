"""Whole jobs as their agents tell them: torch's events and ours, in the order of each agent, with literal times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent, Origin, Severity, StoredEvent
from torchelastic_otel.model.phases import Phase

S = 1_000_000_000
EPOCH_NS = 1_795_352_000 * S
"""Second 0 of every stream: 2026-11-22T12:53:20Z."""
NONCE = "0123456789abcdef" * 2
OURS = {semconv.INFERRED: True}


def at(seconds: float) -> int:
    """A second of a stream as nanoseconds since the epoch."""
    return EPOCH_NS + round(seconds * S)


class AgentTape:
    """What one agent says; each method says it at a second of the stream."""

    def __init__(
        self,
        name: str,
        *,
        run_id: str = "job",
        nonce: str | None = NONCE,
        world: Sequence[str] = (),
        workers: int = 1,
        origin: Origin | None = None,
        backend: str = "c10d",
    ) -> None:
        self.name = name
        self.node_id = f"{name}_{100 + len(name)}_0"
        self.run_id = run_id
        self.nonce = nonce
        self.workers = workers
        self.backend = backend
        self.origin = origin or Origin(f"{name}-{run_id}-origin", name, 100 + len(name), EPOCH_NS)
        self.events: list[ElasticEvent] = []
        self.standing: dict[str, Any] = {semconv.RUN_ID: run_id, semconv.NODE_ID: self.node_id}
        self.phase: tuple[Phase, float] | None = None
        self.pid = 1_000

    @property
    def deliveries(self) -> list[StoredEvent]:
        """The events as they are delivered."""
        return [StoredEvent(number, event, self.origin) for number, event in enumerate(self.events, 1)]

    def say(self, second: float, name: str, severity: Severity = Severity.INFO, **attributes: Any) -> None:
        """One event; attributes by their constants' names in semconv, in lower case."""
        told = {getattr(semconv, key.upper()): value for key, value in attributes.items() if value is not None}
        time_ns = at(second)
        whole = {**self.standing, **told}
        self.events.append(ElasticEvent(name, "null", name, time_ns, time_ns, None, severity, whole))

    def ours(self, second: float, name: str, **attributes: Any) -> None:
        """One event that torch does not say."""
        self.say(second, name, inferred=True, **attributes)

    def enter(self, second: float, phase: Phase, **attributes: Any) -> None:
        """The agent enters a phase."""
        if self.phase is not None:
            attributes |= {"phase_previous": self.phase[0].value, "phase_duration": second - self.phase[1]}
        self.phase = phase, second
        self.ours(second, semconv.AGENT_PHASE_ENTERED, phase=phase.value, **attributes)

    def start(self, second: float) -> None:
        """The agent is made."""
        self.ours(second, semconv.AGENT_STARTED, nodes_min=1, nodes_max=4, rendezvous_backend=self.backend)

    def seek(self, second: float) -> None:
        """The agent goes to the rendezvous."""
        for name in (semconv.RENDEZVOUS_ROUND, semconv.GROUP_RANK, semconv.GROUP_WORLD_SIZE):
            self.standing.pop(name, None)
        self.enter(second, Phase.RENDEZVOUS)
        if self.backend == "c10d":
            self.say(second, semconv.RENDEZVOUS_JOIN_ATTEMPTED)

    def join(self, second: float, round_: int, rank: int, world: Sequence[AgentTape], *, arrived: float) -> None:
        """It arrives, and the round is complete."""
        if self.backend == "c10d":
            self.say(arrived, semconv.RENDEZVOUS_PARTICIPANT_ADDED, rendezvous_round=round_)
        self.standing |= {
            semconv.RENDEZVOUS_ROUND: round_,
            semconv.GROUP_RANK: rank,
            semconv.GROUP_WORLD_SIZE: len(world),
        }
        if self.backend == "c10d":
            self.say(second, semconv.RENDEZVOUS_JOINED)
        participants = tuple(agent.node_id for agent in world)
        self.enter(second, Phase.ASSIGN_RANKS, rendezvous_participants=participants if self.backend == "c10d" else None)
        if self.nonce is not None and round_ == 0:
            self.ours(second, semconv.RUN_IDENTIFIED, run_nonce=self.nonce, inferred_from="store")

    def run(self, second: float, *, trained: float | None = None) -> None:
        """Its workers run, and train."""
        self.enter(second - 0.5, Phase.START)
        self.pid += 10
        first = self.standing[semconv.GROUP_RANK] * self.workers
        pids = tuple(f"{local}:{first + local}:{self.pid + local}" for local in range(self.workers))
        self.enter(second, Phase.RUNNING, worker_pids=pids)
        for local in range(self.workers):
            self.say(second, semconv.WORKER_STARTED, **self._worker(local))
            if trained is not None:
                self.ours(trained, semconv.TRAINING_STARTED, worker_rank=first + local, worker_local_rank=local)

    def bring_up(
        self, second: float, round_: int, rank: int, world: Sequence[AgentTape], *, late: float = 0, train: bool = True
    ) -> None:
        """All of it: it comes after ``late``, joins at +2, starts at +3, runs at +3.5, trains at +4."""
        self.seek(second + late)
        self.join(second + 2, round_, rank, world, arrived=second + late)
        self.run(second + 3.5, trained=second + 4 if train else None)

    def fail(self, second: float, *, local: int = 0, error: float = 0.0, **attributes: Any) -> None:
        """A worker fails; it is noticed half a second later, and the others are stopped."""
        told = {"process_exit_code": 1, "error_type": "exit", "failure_kind": "exit", **attributes}
        self.enter(second, Phase.DETECT)
        self.ours(
            second,
            semconv.WORKER_FAILED,
            **self._worker(local),
            failure_role="cause",
            failure_time_error=error,
            inferred_from="pidfd",
            **told,
        )
        self.enter(second + 0.5, Phase.STOP)

    def fall(self, second: float, local: int, **attributes: Any) -> None:
        """Another worker of a failing agent fails, too."""
        told = {"process_exit_code": 1, "error_type": "exit", "failure_kind": "exit", **attributes}
        self.ours(
            second, semconv.WORKER_FAILED, **self._worker(local), failure_role="victim", inferred_from="pidfd", **told
        )

    def restart(self, second: float, trigger: str, count: int = 0) -> None:
        """It restarts its workers."""
        if self.phase is not None and self.phase[0] == Phase.RUNNING:
            self.enter(second, Phase.STOP)
        self.ours(second, semconv.RESTART_STARTED, restart_trigger=trigger, restart_count=count)

    def agree(self, second: float, reason: str, *, agreed: bool = True, cause: dict[str, Any] | None = None) -> None:
        """What the agents agreed on after the join."""
        self.ours(second, semconv.RESTART_CAUSE_AGREED, **self._agreed(reason, agreed))
        if cause:
            told = {f"{semconv.CAUSE}.{key}": value for key, value in cause.items()}
            self.events[-1] = replace(self.events[-1], attributes={**self.events[-1].attributes, **told})

    def completed(self, second: float, reason: str, phases: dict[str, float], *, writer: bool = True) -> None:
        """The restart has ended."""
        self.ours(second, semconv.RESTART_COMPLETED, writer=writer, restart_duration=sum(phases.values()),
                  **self._agreed(reason, True))  # fmt: skip
        told = {semconv.RESTART_PHASE_DURATION.format(phase=phase): took for phase, took in phases.items()}
        self.events[-1] = replace(self.events[-1], attributes={**self.events[-1].attributes, **told})

    def _agreed(self, reason: str, agreed: bool) -> dict[str, Any]:
        index = self.standing[semconv.RENDEZVOUS_ROUND]
        return {"restart_reason": reason, "restart_agreed": agreed, "restart_index": index}

    def succeed(self, second: float) -> None:
        """Its workers are done; half a second in the exit barrier; torch's own events follow."""
        self.enter(second, Phase.EXIT_BARRIER)
        for local in range(self.workers):
            self.say(second + 0.5, semconv.WORKER_SUCCEEDED, **self._worker(local))
        self.enter(second + 0.5, Phase.ENDED, agent_outcome="succeeded")
        self.say(second + 0.5, semconv.AGENT_SUCCEEDED)

    def give_up(self, second: float, *failed: int) -> None:
        """Its restarts are exhausted: torch says of the failed workers FAILED, of itself SUCCEEDED."""
        for local in range(self.workers):
            code = (
                {"process_exit_code": 1} if local in failed else {"process_exit_code": -15, "worker_signal": "SIGTERM"}
            )
            self.say(second, semconv.WORKER_FAILED, Severity.ERROR, **self._worker(local), **code)
        self.enter(second, Phase.ENDED, agent_outcome="failed")
        self.say(second, semconv.AGENT_SUCCEEDED)

    def die(self, second: float, outcome: str, error_type: str) -> None:
        """The agent raises."""
        self.say(second, semconv.AGENT_FAILED, Severity.FATAL, error_type=error_type)
        self.enter(second, Phase.ENDED, agent_outcome=outcome, error_type=error_type)

    def lose(self, second: float, peer: AgentTape, heard: str, rank: int) -> None:
        """It holds another for lost."""
        self.ours(
            second, semconv.AGENT_LOST, peer_node_id=peer.node_id, peer_group_rank=rank, peer_last_heartbeat=heard
        )

    def lack(self, second: float, missing: int, peer: AgentTape, rank: int) -> None:
        """It has asked for round 1 at second 22, and still waits, among others for this peer."""
        self.seek(22)
        self.say(22, semconv.RENDEZVOUS_PARTICIPANT_ADDED, rendezvous_round=1)
        self.ours(
            second,
            semconv.RENDEZVOUS_WAITING,
            rendezvous_participants=(self.node_id,),
            rendezvous_missing=missing,
            rendezvous_missing_nodes=(f"{peer.origin.host_name}, last rank {rank} ({peer.node_id})",),
            rendezvous_missing_node_ids=(f"{rank}:{peer.node_id}",),
            rendezvous_waited=second - 22,
        )

    def beat(self, second: float) -> None:
        """A heartbeat."""
        self.say(second, semconv.RENDEZVOUS_KEEP_ALIVE_SENT, Severity.DEBUG)

    def _worker(self, local: int) -> dict[str, Any]:
        first = self.standing[semconv.GROUP_RANK] * self.workers
        return {"worker_rank": first + local, "worker_local_rank": local, "worker_pid": self.pid + local}


def clean_job(nodes: int = 2, **options: Any) -> list[AgentTape]:
    """One round from second 0, running at 3.5, training at 4, done at 14, ended at 14.5."""
    agents = [AgentTape(f"node-{number}", **options) for number in range(nodes)]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents, late=rank / 10)
        agent.beat(5)
        agent.succeed(14)
    return agents


def failing_job(agreed: bool = True) -> list[AgentTape]:
    """Round 0 ends at second 20 by a worker of the second node; round 1 is done at 45.

    The first node notices at 22 and rejoins at once, the second at 23; both run again at 25.5 and train at 26.
    """
    first, second = agents = [AgentTape(f"node-{name}", workers=2) for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents, late=1 - rank)
    second.fail(20, local=1, exception_type="ValueError", exception_message="boom", error_type="ValueError",
                failure_kind="exception", exception_stacktrace="Traceback\n  File x\nValueError: boom")  # fmt: skip
    second.restart(21, "worker_failure", 1)
    first.restart(22, "membership_change")
    cause = {"host": "node-b", "node.id": second.node_id, "group.rank": 1, "rank": 3, "local_rank": 1, "pid": 1011,
             "exit_code": 1, "error_type": "ValueError", "message": "boom", "time": at(20)}  # fmt: skip
    for rank, agent in enumerate(agents):
        agent.bring_up(22, 1, rank, agents, late=rank)
        if agreed:
            agent.agree(25.6, "worker_failure", cause=cause)
            if rank == 0:
                agent.completed(
                    25.6,
                    "worker_failure",
                    {"detect": 0.5, "stop": 1.5, "rendezvous": 2.0, "assign_ranks": 1.0, "start": 0.5},
                )
        agent.succeed(45)
    return agents
