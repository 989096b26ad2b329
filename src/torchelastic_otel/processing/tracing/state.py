"""What is known of an agent's story so far: the state that goes from event to event, and into the spool.

What always holds: it is frozen, and small (what it remembers is bounded); ``to_json`` and ``from_json`` are inverse to
each other, so that whoever finds a dead agent's spool can go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.serialization import REQUIRED, Serializable
from torchelastic_otel.model.span import SpanEvent
from torchelastic_otel.model.trace_ids import RoundIds, ids_of

BRING_UP_SPANS: Final = {
    Phase.STOP: semconv.SPAN_STOP_WORKERS,
    Phase.RENDEZVOUS: semconv.SPAN_RENDEZVOUS,
    Phase.ASSIGN_RANKS: semconv.SPAN_ASSIGN_RANKS,
    Phase.START: semconv.SPAN_START_WORKERS,
}
"""The phases of a bring-up that have a span, and its name."""


@dataclass(frozen=True, slots=True)
class OpenPhase:
    """One phase of a bring-up.

    Attributes:
        phase: Which.
        start_ns: When it began, nanoseconds since the epoch.
        end_ns: When it ended; ``None`` while it lasts.
    """

    phase: Phase
    start_ns: int
    end_ns: int | None = None


@dataclass(frozen=True, slots=True)
class TraceState(Serializable):
    """How far the story of an agent is told.

    Attributes:
        agent_id: The agent's.
        run_id: Its run's.
        nonce: What tells the run from others of that id; ``None`` until it is known.
        agreed: Whether all agents of the run have that nonce.
        hosts_store: Whether this process hosts the job's store: with it, the job ends.
        backend: The rendezvous backend's name.
        phase: What the agent is at.
        phase_ns: Since when, wall clock nanoseconds.
        phase_monotonic_ns: The same by the agent's monotonic clock.
        last_ns: The last sign of the agent, wall clock nanoseconds.
        last_round: The round that it was in last.
        expected_round: The round that is being brought up, where that is known.
        group_rank: Its rank in that round.
        world_size: Nodes in it.
        began_ns: When the bring-up began.
        parts: Its phases so far.
        events: What happened in the phase's span so far.
        running_ns: When the workers of the last round ran.
        failed: Why the running of the round failed here; the empty string where it did not.
        writer_round: The round in which it speaks for the whole job.
        restarting: Whether workers are being restarted.
        restart_count: How often this agent restarted its workers after failures of their own.
        durations: Nanoseconds of each phase since the workers last ran.
        cause: What the agents agreed on about the restart, as attributes; empty until then.
        ran_ns: When the restarted workers ran, while the restart is not told yet.
        ran_monotonic_ns: The same by the agent's monotonic clock.
    """

    agent_id: str | None = None
    run_id: str | None = None
    nonce: str | None = None
    agreed: bool = False
    hosts_store: bool = False
    backend: str | None = None
    phase: Phase | None = field(default=None, metadata=REQUIRED)
    phase_ns: int = 0
    phase_monotonic_ns: int | None = None
    last_ns: int = 0
    last_round: int | None = None
    expected_round: int | None = None
    group_rank: int | None = None
    world_size: int | None = None
    began_ns: int | None = None
    parts: tuple[OpenPhase, ...] = field(default=(), metadata=REQUIRED)
    events: tuple[SpanEvent, ...] = field(default=(), metadata=REQUIRED)
    running_ns: int | None = None
    failed: str = ""
    writer_round: int | None = None
    restarting: bool = False
    restart_count: int | None = None
    durations: Mapping[str, int] | None = None
    cause: Mapping[str, AttributeValue] | None = field(default=None, metadata=REQUIRED)
    ran_ns: int | None = None
    ran_monotonic_ns: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether the agent is at something that has not ended."""
        return self.phase is not None and self.phase is not Phase.ENDED

    def ids(self, round_: int) -> RoundIds | None:
        """The ids of a round's spans; ``None`` while the run is not identified."""
        known = self._ids(round_)
        return None if known is None else known[0]

    @property
    def ends_the_job(self) -> bool:
        """Whether no other agent can speak for the job once this one has ended."""
        return self.hosts_store or self.world_size == 1

    def tells_root(self, round_: int) -> bool:
        """Whether this agent tells the roots of a round by itself, since its traces are its own."""
        known = self._ids(round_)
        return known is not None and not known[1]

    def _ids(self, round_: int) -> tuple[RoundIds, bool] | None:
        if self.nonce is None or self.run_id is None:
            return None
        return ids_of(
            self.run_id, self.nonce, round_, agreed=self.agreed, backend=self.backend, agent_id=self.agent_id or ""
        )
