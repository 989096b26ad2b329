"""The data of a job history: run, rounds, nodes, workers and failures, and what is not known.

Guarantees: all types are frozen. Times are integer nanoseconds since the epoch, durations integer nanoseconds.
``None`` means that no event reports the value. ``Run.inferred`` lists what was derived rather than reported,
``Run.unknown`` what cannot be derived from the events given; both are sentences for a person.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchelastic_otel.model.cause import place_text
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.model.failure import Weight, weight_of
from torchelastic_otel.model.phases import Phase


class Outcome(str, enum.Enum):
    """How a run, a round or a node ended.

    Only a round is ``interrupted``: it ended because the membership changed, and nothing had failed. Only a node is
    ``terminated`` (stopped by a signal), ``left`` (left the job in good order) or ``lost`` (disappeared).
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RUNNING = "running"
    UNKNOWN = "unknown"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    LEFT = "left"
    LOST = "lost"


class LeftReason(str, enum.Enum):
    """Why a node was no longer in a round."""

    SUCCEEDED = "succeeded"
    WORKER_FAILURE = "worker_failure"
    MEMBERSHIP_CHANGE = "membership_change"
    LOST = "lost"
    TERMINATED = "terminated"
    LEFT = "left"
    ERROR = "error"


class State(str, enum.Enum):
    """What the whole job does; it is in exactly one state at a time, or the state is unknown."""

    TRAINING = "training"
    RENDEZVOUS = "rendezvous"
    STARTING = "starting"
    DETECTING = "detecting"
    STOPPING = "stopping"
    EXIT_BARRIER = "exit_barrier"


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process.

    Attributes:
        exit_code: Negative for a signal: minus the signal's number.
        training_ns: When it reported its first training step.
    """

    rank: int | None = None
    local_rank: int | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    training_ns: int | None = None
    ended_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that failed: a worker, a lost node (no worker), or an agent that raised (no worker).

    Attributes:
        kind: exception, exit, signal, hang, out_of_memory, uninterruptible_sleep, node_lost or agent_error.
        host: The host's name; of a node whose events are missing, its address.
        pid: The process id of the worker, or of the agent that raised.
        error_type: The exception's type, else what replaces it.
        at_ns: The latest time at which it can have happened.
        error_ns: How much earlier it may have happened; ``None`` if unknown.
        inferred_from: The source: pidfd, error_file, poll, store, heartbeat, stream, torch.
        ambiguous: Whether another failure may have been earlier, within the error bounds.
        function: The function of the program where it happened, or where a worker was stopped.
        stack: The stacks of a worker that crashed or was stopped.
        in_collective: Whether a worker that was stopped called or awaited other ranks then.
        explanation: What an exit code means, or why the kernel killed the process; one sentence.
        evidence: What decided that it is the cause; see :class:`~torchelastic_otel.model.failure.Evidence`.
        culprits: Of a hang: all workers that others waited for, each with its place.
    """

    kind: str
    host: str | None = None
    node_id: str | None = None
    group_rank: int | None = None
    rank: int | None = None
    local_rank: int | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    error_type: str | None = None
    message: str | None = None
    traceback: str | None = None
    at_ns: int | None = None
    error_ns: int | None = 0
    inferred_from: str | None = None
    ambiguous: bool = False
    function: str | None = None
    file: str | None = None
    line: int | None = None
    stack: str | None = None
    in_collective: bool | None = None
    explanation: str | None = None
    evidence: str | None = None
    culprits: tuple[str, ...] = ()

    @property
    def weight(self) -> Weight:
        """How it weighs as a cause."""
        return weight_of(self.kind, self.error_type, self.message)

    @property
    def place(self) -> str | None:
        """The place in the program, in words."""
        return place_text(self.function, self.file, self.line)


@dataclass(frozen=True, slots=True)
class PhaseInterval:
    """One phase of one agent.

    Attributes:
        end_ns: When it ended; ``None`` if it has not ended, or no event reports its end.
        duration_ns: By the agent's monotonic clock if reported.
        round: The round; of a rendezvous, the round that it formed.
    """

    phase: Phase
    start_ns: int | None
    end_ns: int | None = None
    duration_ns: int | None = None
    round: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One node in one round.

    Attributes:
        host: The host's name; of a node whose events are missing, its address.
        joined_ns: When it entered the rendezvous; for a node that was waiting, when the rendezvous opened.
        left_reason: Why; ``None`` while it is in the round, or if no event reports it.
        has_events: Whether its own events are available.
        failures: Its workers' failures, the earliest first.
        phases: Its phases in this round, beginning with the rendezvous that formed the round.
    """

    host: str | None
    node_id: str | None
    group_rank: int | None
    joined_ns: int | None = None
    running_ns: int | None = None
    left_ns: int | None = None
    left_reason: LeftReason | None = None
    has_events: bool = True
    workers: tuple[Worker, ...] = ()
    failures: tuple[Failure, ...] = ()
    phases: tuple[PhaseInterval, ...] = ()


@dataclass(frozen=True, slots=True)
class MissingNode:
    """A node that a rendezvous waited for in vain.

    Attributes:
        group_rank: Its rank in the round before.
    """

    host: str | None
    node_id: str | None = None
    group_rank: int | None = None


@dataclass(frozen=True, slots=True)
class Restart:
    """The transition from one round to the next.

    Attributes:
        reason: worker_failure, membership_change, node_lost, node_left or unknown.
        agreed: Whether all agents agreed on the reason; otherwise it is derived from the available events.
        phases: Durations of detect, stop, rendezvous, assign_ranks and start on the node that failed, else on the job
            reporter's node; ``None`` if unknown.
    """

    reason: str
    index: int | None = None
    agreed: bool = False
    phases: Mapping[str, int | None] = field(default_factory=dict)
    duration_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One round: its bring-up, its running time, its end.

    Attributes:
        world_size: Number of nodes; ``None`` if it was never formed.
        started_ns: When the first node entered its rendezvous.
        running_ns: When workers ran on the last of the nodes that report it.
        training_ns: When the last worker reported its first training step, else ``running_ns``.
        ended_ns: When the last of its nodes left it; ``None`` while it runs.
        last_joiner: Node id of the node that entered the rendezvous last.
        missing: Nodes that were waited for and did not join.
        missing_count: Their number, which may be higher than the number of known ones.
        first_failure: The cause of its end; ``None`` if nothing failed, or no event reports a failure.
        victims: Other failures; after a first failure also the workers that their agents stopped because of it.
        joined: Node ids that were not in the round before.
        left: Node ids that left for good in this round.
        restart: The transition to the next round; ``None`` if there was none.
    """

    round: int
    outcome: Outcome
    world_size: int | None = None
    started_ns: int | None = None
    running_ns: int | None = None
    training_ns: int | None = None
    ended_ns: int | None = None
    trace_id: str | None = None
    nodes: tuple[Node, ...] = ()
    last_joiner: str | None = None
    missing: tuple[MissingNode, ...] = ()
    missing_count: int = 0
    first_failure: Failure | None = None
    victims: tuple[Failure, ...] = ()
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    restart: Restart | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One agent in a run.

    Attributes:
        host: The host's name; of an agent whose events are missing, its address.
        restarts: Restarts that its own workers caused.
        wait_listed_ns: When it was put on the wait list before its first round.
        standby_ns: When it was put on the redundancy list.
        promoted_round: Its first round after it was on standby.
        stale_states: How often its write of the rendezvous state lost a race.
    """

    host: str | None
    node_id: str | None
    pid: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    error_type: str | None = None
    message: str | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    rounds: tuple[int, ...] = ()
    restarts: int | None = None
    wait_listed_ns: int | None = None
    standby_ns: int | None = None
    promoted_round: int | None = None
    has_events: bool = True
    heartbeats: int = 0
    stale_states: int = 0


@dataclass(frozen=True, slots=True)
class AgentEvents:
    """The events of one agent.

    Attributes:
        number: Index among the agents of that process, from 0.
        nonce: The nonce that the run's agents agreed on; ``None`` if they did not.
        node_id: Its node id; ``None`` if the backend has none, or no event has it.
        alive: Whether its process is known to be alive (``True``) or to have exited (``False``).
    """

    origin: Origin
    number: int
    run_id: str
    nonce: str | None
    node_id: str | None
    events: tuple[ElasticEvent, ...]
    alive: bool | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one job.

    Attributes:
        run_id: The rendezvous id that the user gave.
        nonce: Distinguishes runs with the same id; ``None`` if the agents did not agree on one.
        outcome: Failed if any node failed.
        ended_ns: When the last node ended; ``None`` while it runs.
        nodes: Every agent that took part, was on standby or waited.
        time: How long the job was in each state; time in an unknown state is in none of them.
        wall_ns: From the first event to the end, or to the last event.
        training_ratio: Upper bound of training's share of the wall time, from 0 to 1: time in an unknown state may have
            been training, and the work lost since the last checkpoint is unknown. ``None`` if the end of the run, or
            of one of its nodes, is unknown.
        inferred: What was derived, and from what.
        unknown: What these events do not reveal.
        agents: The agents whose events this history is built from.
    """

    run_id: str
    nonce: str | None
    outcome: Outcome
    started_ns: int | None = None
    ended_ns: int | None = None
    last_ns: int | None = None
    backend: str | None = None
    restarts: int = 0
    nodes: tuple[Member, ...] = ()
    time: Mapping[State, int] = field(default_factory=dict)
    wall_ns: int | None = None
    training_ratio: float | None = None
    rounds: tuple[Round, ...] = ()
    inferred: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    agents: tuple[AgentEvents, ...] = field(default=(), repr=False, compare=False)
