"""The story's types: run -> rounds -> nodes -> workers and failures, and what is not known.

What always holds: all is frozen; times are integer nanoseconds since the epoch and durations integer nanoseconds;
``None`` is "nobody said"; what was not said by an event but derived is told in ``inferred``, what nobody can tell
from the events given in ``unknown``, both as sentences for a person.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchelastic_otel.history.agents import Agent
from torchelastic_otel.model.phases import Phase


class Outcome(str, enum.Enum):
    """How a run, a round or a node ended.

    ``interrupted`` is a round's alone: it ended since the membership changed, and nothing had failed. ``terminated``
    (told to stop by a signal), ``left`` (left in good order) and ``lost`` (gone without a word) are a node's alone.
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
    """What the whole job is at; it is always at exactly one of these, or nobody can tell."""

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
        rank: Global rank.
        local_rank: Rank on its node.
        pid: Process id.
        exit_code: Minus the signal's number for a signal.
        signal: The signal's name.
        training_ns: When it said that training began.
        ended_ns: When it ended.
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
    """One thing that failed: a worker, a node that was lost (no worker), or an agent that raised (no worker).

    Attributes:
        kind: exception, exit, signal, uninterruptible_sleep, node_lost or agent_error.
        host: The host's name; of a node whose file is missing, its address.
        node_id: Torch's ``addr_pid_localid``.
        group_rank: The node's rank in the round.
        rank: The worker's global rank.
        local_rank: The worker's rank on its node.
        pid: The worker's process id; of an agent that raised, the agent's.
        exit_code: Minus the signal's number for a signal.
        signal: The signal's name.
        error_type: The type's name, or what stands for it.
        message: The exception's message.
        traceback: The exception's traceback, as bounded at capture.
        at_ns: When it happened, at the latest.
        error_ns: By how much it may have been earlier; ``None``: nobody knows.
        inferred_from: What says so: pidfd, error_file, poll, store, heartbeat, stream, torch.
        ambiguous: Whether another may have been earlier, within the error bounds.
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


@dataclass(frozen=True, slots=True)
class PhaseInterval:
    """One phase of one agent.

    Attributes:
        phase: The phase.
        start_ns: When it began.
        end_ns: When it ended; ``None`` where it goes on, or nobody said.
        duration_ns: How long it took, by the agent's monotonic clock where that was told.
        round: The round; of a rendezvous, the one that it led to.
    """

    phase: Phase
    start_ns: int | None
    end_ns: int | None = None
    duration_ns: int | None = None
    round: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One node's part in one round.

    Attributes:
        host: The host's name; of a node whose file is missing, its address.
        node_id: Torch's ``addr_pid_localid``.
        group_rank: Its rank among the nodes.
        joined_ns: When it came to the rendezvous; if it had waited for a place, when that was opened.
        running_ns: When its workers ran.
        left_ns: When it was no longer in the round.
        left_reason: Why; ``None`` while it is in it, or where nobody said.
        told: Whether its own events are here.
        workers: Its workers, by rank.
        failures: Its workers' failures, the earliest first.
        phases: Its phases in this round, the rendezvous that led to it first.
    """

    host: str | None
    node_id: str | None
    group_rank: int | None
    joined_ns: int | None = None
    running_ns: int | None = None
    left_ns: int | None = None
    left_reason: LeftReason | None = None
    told: bool = True
    workers: tuple[Worker, ...] = ()
    failures: tuple[Failure, ...] = ()
    phases: tuple[PhaseInterval, ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """A node that a rendezvous waited for and that did not come.

    Attributes:
        host: Its host, or its address.
        node_id: Torch's ``addr_pid_localid``, where that is known.
        group_rank: Its rank in the round before.
    """

    host: str | None
    node_id: str | None = None
    group_rank: int | None = None


@dataclass(frozen=True, slots=True)
class Restart:
    """How a round was followed by the next.

    Attributes:
        reason: worker_failure, membership_change, node_lost, node_left or unknown.
        index: From 1, for the whole job.
        agreed: Whether the agents agreed on the reason among themselves; else it is what the events here say.
        phases: Duration of detect, stop, rendezvous, assign_ranks and start on the node of the failure, else on the one
            that speaks for the job; ``None``: nobody knows.
        duration_ns: All of it.
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
        round: Its number.
        outcome: How it ended.
        world_size: Nodes in it; ``None`` where it was never formed.
        started_ns: When the first node set out to join it.
        running_ns: When workers ran on the last of its nodes that told so.
        training_ns: When training began: the last worker's word, else ``running_ns``.
        ended_ns: When the last of its nodes was out of it; ``None`` while it runs.
        trace_id: The trace of its bring-up.
        nodes: Its nodes, by rank.
        last_joiner: The node id of the one that came to the rendezvous last.
        missing: Who was waited for and did not come.
        missing_count: How many those are, also where not all are known by name.
        first_failure: The cause of its end; ``None`` where nothing failed, or nobody told.
        victims: What else failed, and, where something failed first, the workers that their agents stopped for it.
        joined: Node ids that were not in the round before.
        left: Node ids that left for good in this round.
        lost: Node ids that were lost in this round.
        restart: How the next round came about; ``None`` where none did.
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
    missing: tuple[Missing, ...] = ()
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
        host: The host's name; of an agent whose file is missing, its address.
        node_id: Torch's ``addr_pid_localid``.
        pid: The agent's process id.
        outcome: How it ended.
        error_type: What it raised.
        message: What that said.
        first_ns: Its first event.
        last_ns: Its last event.
        rounds: The rounds that it took part in.
        restarts: Restarts that its own workers caused.
        waited_ns: When it was put on the wait list before it took part.
        stood_by_ns: When it was put on the redundancy list.
        promoted_round: The first round it took part in after it stood by.
        told: Whether its own events are here.
        beats: Heartbeats that it sent; 0 where they are not among the events.
        stale: How often it lost the race for the rendezvous state.
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
    waited_ns: int | None = None
    stood_by_ns: int | None = None
    promoted_round: int | None = None
    told: bool = True
    beats: int = 0
    stale: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one job.

    Attributes:
        run_id: What the user called it.
        nonce: What tells it from others of that name; ``None`` where the agents did not agree on one.
        outcome: Failed if any node failed.
        started_ns: Its first event.
        ended_ns: When the last node ended; ``None`` while it runs.
        last_ns: Its last event.
        backend: The rendezvous backend's name.
        restarts: How often a round was followed by another.
        nodes: Every agent that took part, stood by or waited.
        time: How long the job was at each state; what nobody can tell is in none of them.
        wall_ns: From the first event to the end, or to the last event.
        training_ratio: The most that training can be of the wall time, from 0 to 1: what nobody told of may have been
            training, and work lost since the last checkpoint is not known. ``None`` where nobody knows how the run
            ended, or how long a node of it went on.
        rounds: Its rounds.
        inferred: What was derived, and from what.
        unknown: What the events here cannot tell.
        agents: The agents by whose events it is told.
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
    agents: tuple[Agent, ...] = field(default=(), repr=False, compare=False)
