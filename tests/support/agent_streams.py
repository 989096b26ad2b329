"""An agent's events as its hooks say them, with both clocks in the test's hands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.metric import Snapshot
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.processing.metrics import MetricState, update
from torchelastic_otel.processing.metrics.snapshot import acknowledge, snapshot

S = 1_000_000_000
EPOCH_NS = 1_700_000_000 * S
BOOTED_NS = 5_000 * S
"""What the monotonic clock says at the epoch of these streams."""
TRACE, SPAN = "a" * 32, "b" * 16


class AgentStream:
    """Folds one agent's events; seconds are since the stream's beginning."""

    def __init__(self, run_id: str | None = "run") -> None:
        self.tally = MetricState(EPOCH_NS)
        self.run_id = run_id
        self.round: int | None = None
        self.world_size = 2

    def say(
        self,
        at_s: float,
        name: str,
        cause: tuple[int, int] | None = None,
        extra: Mapping[str, Any] | None = None,
        **attributes: Any,
    ) -> None:
        """One event.

        Args:
            at_s: When.
            name: Its name.
            cause: The agreed cause's rank and pid.
            extra: Attributes by their own names.
            attributes: Attributes by their constants' names in semconv, in lower case.
        """
        told = {getattr(semconv, key.upper()): value for key, value in attributes.items()} | dict(extra or {})
        if cause is not None:
            told[semconv.CAUSE + ".rank"], told[semconv.CAUSE + ".pid"] = cause
        if self.run_id is not None:
            told.setdefault(semconv.RUN_ID, self.run_id)
        if self.round is not None:
            told.setdefault(semconv.RENDEZVOUS_ROUND, self.round)
            told.setdefault(semconv.GROUP_WORLD_SIZE, self.world_size)
        at_ns = round(at_s * S)
        time_ns = EPOCH_NS + at_ns
        event = ElasticEvent(
            name, "null", "", time_ns, time_ns, BOOTED_NS + at_ns, attributes=told, trace_id=TRACE, span_id=SPAN
        )
        self.tally = update(self.tally, event)

    def join(self, at_s: float, round_: int) -> None:
        """The agent has joined a round, and will say so with every event."""
        self.round = round_
        self.enter(at_s, Phase.ASSIGN_RANKS)

    def bring_up(self, at_s: float, round_: int, writer: bool | None) -> None:
        """Rendezvous for two seconds, ranks for one, start for one; then workers run, and who speaks is known.

        Args:
            at_s: When it begins; workers run four seconds later.
            round_: The round.
            writer: Whether this agent is told to speak for the job; ``None`` where it is told nothing.
        """
        self.enter(at_s, Phase.RENDEZVOUS)
        self.join(at_s + 2, round_)
        self.enter(at_s + 3, Phase.START)
        self.enter(at_s + 4, Phase.RUNNING)
        if writer:
            self.say(at_s + 4, semconv.ROUND_STARTED, writer=True, round_duration=4.0)

    def fail(self, at_s: float, rank: int, role: str = "cause", **attributes: Any) -> None:
        """A worker failed, as our hooks say it; its pid is 100 above its rank."""
        told = {"failure_kind": "exit", "failure_role": role, **attributes}
        self.say(at_s, semconv.WORKER_FAILED, inferred=True, worker_rank=rank, worker_pid=100 + rank, **told)

    def enter(self, at_s: float, phase: Phase, **attributes: Any) -> None:
        """The agent enters a phase."""
        self.say(at_s, semconv.AGENT_PHASE_ENTERED, phase=phase.value, **attributes)

    def snapshot(self, at_s: float, **options: Any) -> dict[str, dict[tuple[str, ...], Any]]:
        """All values at a moment, by metric and attribute values; what was told stays told."""
        now: dict[str, Any] = {
            "now_wall_ns": EPOCH_NS + round(at_s * S),
            "now_monotonic_ns": BOOTED_NS + round(at_s * S),
        }
        told, self.tally = snapshot(self.tally, **now, **options)
        self.tally = acknowledge(self.tally, told)
        return values(told)


def values(told: Snapshot) -> dict[str, dict[tuple[str, ...], Any]]:
    """A snapshot's values by metric and attribute values, without the run's id."""
    return {
        metric.name: {
            tuple(str(value) for name, value in point.attributes.items() if name != semconv.RUN_ID): point.value
            for point in metric.points
        }
        for metric in told.metrics
    }
