"""One agent's part in one round, while its course is put together."""

from __future__ import annotations

from dataclasses import dataclass, field

from torchelastic_otel.history.types import Failure, Worker


@dataclass(slots=True)
class RoundParticipation:
    """An agent's part in one round, while it is put together.

    Attributes:
        round: The round's number.
        group_rank: The node's rank.
        world_size: Nodes in the round.
        joined_ns: When torch or we said that it is in.
        running_ns: When its workers ran.
        participants: All nodes of the round by rank, where this agent told them.
        trace_id: The trace of the bring-up.
        workers: By global rank.
        failures: By worker's pid, or minus its rank where that is not told.
        fallen: How each worker ended that did not end well, by the same; where it is no failure, its agent stopped it.
        restart_count: Restarts that this agent's own workers had caused by then.
        trigger: Why this agent restarted its workers out of this round, as it saw it.
        restarted_ns: When it did.
        writer: Whether it speaks for the job in this round.
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
    fallen: dict[int, Failure] = field(default_factory=dict)
    restart_count: int | None = None
    trigger: str | None = None
    restarted_ns: int | None = None
    writer: bool = False
