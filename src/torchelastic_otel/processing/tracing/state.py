"""The trace state of an agent: what is carried from event to event, and stored in the spool.

Guarantees: it is frozen, and small (what it remembers is bounded); ``to_json`` and ``from_json`` are inverse to each
other, so that an adopter of an orphaned spool can go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.serialization import REQUIRED, Serializable, stored_as
from torchelastic_otel.model.span import SpanEvent
from torchelastic_otel.model.trace_ids import RoundIds, round_ids

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
    """The trace state of one agent.

    Attributes:
        agent_id: The agent's.
        run_id: Its run's.
        nonce: What distinguishes the run from others of that id; ``None`` until it is known.
        agreed: Whether all agents of the run have that nonce.
        hosts_store: Whether this process hosts the job's store: with it, the job ends.
        backend: The rendezvous backend's name.
        phase: The current phase.
        phase_ns: Since when, wall clock nanoseconds.
        phase_monotonic_ns: The same by the agent's monotonic clock.
        last_ns: The time of its last event, wall clock nanoseconds.
        last_round: The round that it was in last.
        expected_round: The round that is being brought up, if it is known.
        group_rank: Its rank in that round.
        world_size: Nodes in it.
        began_ns: When the bring-up began.
        phases: Its phases so far.
        events: What happened in the phase's span so far.
        running_ns: When the workers of the last round ran.
        running_end_ns: When they began to be stopped; the span is not emitted yet, since failures are still reported.
        running_restart_count: The restart count at that time.
        failure: Why the round failed on this node; empty if it did not.
        reporter_round: The round in which it is the job reporter.
        restarting: Whether workers are being restarted.
        restart_count: How often this agent restarted its workers after failures of their own.
        durations: Nanoseconds of each phase since the workers last ran.
        cause: What the agents agreed on about the restart, as attributes; empty until then.
        restarted_ns: When the restarted workers ran, while the restart is not emitted yet.
        restarted_monotonic_ns: The same by the agent's monotonic clock.
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
    phases: tuple[OpenPhase, ...] = field(default=(), metadata=stored_as("parts", required=True))
    events: tuple[SpanEvent, ...] = field(default=(), metadata=REQUIRED)
    running_ns: int | None = None
    running_end_ns: int | None = None
    running_restart_count: int | None = None
    failure: str = field(default="", metadata=stored_as("failed"))
    reporter_round: int | None = field(default=None, metadata=stored_as("writer_round"))
    restarting: bool = False
    restart_count: int | None = None
    durations: Mapping[str, int] | None = None
    cause: Mapping[str, AttributeValue] | None = field(default=None, metadata=REQUIRED)
    restarted_ns: int | None = field(default=None, metadata=stored_as("ran_ns"))
    restarted_monotonic_ns: int | None = field(default=None, metadata=stored_as("ran_monotonic_ns"))

    @property
    def is_open(self) -> bool:
        """Whether the agent is at something that has not ended."""
        return self.phase is not None and self.phase is not Phase.ENDED

    def ids(self, round_: int) -> RoundIds | None:
        """The ids of a round's spans; ``None`` while the run is not identified."""
        found = self._ids(round_)
        return None if found is None else found[0]

    @property
    def is_last_reporter(self) -> bool:
        """Whether no other agent can report for the job once this one has ended."""
        return self.hosts_store or self.world_size == 1

    def owns_root(self, round_: int) -> bool:
        """Whether this agent emits the roots of a round, since its traces are its own."""
        found = self._ids(round_)
        return found is not None and not found[1]

    def _ids(self, round_: int) -> tuple[RoundIds, bool] | None:
        if self.nonce is None or self.run_id is None:
            return None
        return round_ids(
            self.run_id, self.nonce, round_, agreed=self.agreed, backend=self.backend, agent_id=self.agent_id or ""
        )
