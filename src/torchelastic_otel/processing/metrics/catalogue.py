"""Every metric that is counted from events, once: name, instrument, unit, scope, and all of its series.

Guarantees: the attribute values of a series are constants in this file and never come from data, so that an agent
has the same number of series in a job of two nodes and of ten thousand.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.cause import REASONS
from torchelastic_otel.model.failure import FAILURE_KINDS
from torchelastic_otel.model.metric import Kind
from torchelastic_otel.model.phases import RESTART_PHASES, Phase
from torchelastic_otel.torch_events.catalogue import EVENT_NAMES
from torchelastic_otel.units import NS_PER_S


class Scope(enum.Enum):
    """What a metric describes, and so which agent exports it."""

    AGENT = "agent"
    """What this agent did."""
    JOB = "job"
    """What the whole job did: exported by the job reporter alone, so that a sum over agents is right."""


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """One metric.

    Attributes:
        name: Its name.
        unit: In UCUM.
        description: One sentence.
        kind: Its instrument.
        scope: What it describes.
        dimensions: Attribute names, each with all values that it may have.
        bounds: A histogram's upper bounds, all but the last.
        divisor: Stored numbers are divided by it to give the unit.
    """

    name: str
    unit: str
    description: str
    kind: Kind
    scope: Scope
    dimensions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    bounds: tuple[float, ...] = ()
    divisor: int = 1

    def all_series(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """The key and the attributes of each series."""
        names = [name for name, _ in self.dimensions]
        for values in itertools.product(*(values for _, values in self.dimensions)):
            yield series_key(self.name, *values), dict(zip(names, values, strict=True))


def series_key(name: str, *values: str) -> str:
    """The key of a series."""
    return "|".join((name, *values))


TIME_STATES: Final[Mapping[Phase, str]] = {
    Phase.RUNNING: "running",
    Phase.DETECT: "detecting",
    Phase.STOP: "stopping",
    Phase.RENDEZVOUS: "rendezvous",
    Phase.ASSIGN_RANKS: "starting",
    Phase.START: "starting",
    Phase.EXIT_BARRIER: "exit_barrier",
}
"""What time in a phase counts as; ``ended`` counts as nothing."""
FAILURE_ROLES: Final = ("cause", "victim")
MEMBERSHIP_ATTRIBUTES: Final[Mapping[str, str]] = {
    "joined": semconv.MEMBERSHIP_JOINED,
    "left": semconv.MEMBERSHIP_LEFT,
    "lost": semconv.MEMBERSHIP_LOST,
}
_DURATIONS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_STATES: Final = ((semconv.TIME_STATE, tuple(dict.fromkeys(TIME_STATES.values()))),)

METRICS: Final = (
    MetricDefinition(
        semconv.METRIC_RENDEZVOUS_DURATION,
        "s",
        "How long this agent was in a rendezvous, until it joined a round or failed to.",
        Kind.HISTOGRAM,
        Scope.AGENT,
        ((semconv.OUTCOME_OF_RENDEZVOUS, ("succeeded", "failed")),),
        _DURATIONS,
    ),
    MetricDefinition(
        semconv.METRIC_RENDEZVOUS_ROUND, "{round}", "The round that the job is in.", Kind.GAUGE, Scope.JOB
    ),
    MetricDefinition(semconv.METRIC_WORLD_SIZE, "{node}", "Nodes in the round.", Kind.GAUGE, Scope.JOB),
    MetricDefinition(
        semconv.METRIC_PARTICIPANTS,
        "{node}",
        "Nodes that take part in the round, or have come to the rendezvous that is held up.",
        Kind.GAUGE,
        Scope.JOB,
    ),
    MetricDefinition(
        semconv.METRIC_MISSING,
        "{node}",
        "Nodes that the rendezvous still needs before it can go on.",
        Kind.GAUGE,
        Scope.JOB,
    ),
    MetricDefinition(
        semconv.METRIC_RESTARTS,
        "{restart}",
        "Restarts of the job's workers, by the agreed reason.",
        Kind.COUNTER,
        Scope.JOB,
        ((semconv.RESTART_REASON, REASONS),),
    ),
    MetricDefinition(
        semconv.METRIC_RESTART_DURATION,
        "s",
        "How long each phase of a restart took.",
        Kind.HISTOGRAM,
        Scope.JOB,
        ((semconv.RESTART_PHASE, RESTART_PHASES),),
        _DURATIONS,
    ),
    MetricDefinition(
        semconv.METRIC_FAILURES,
        "{failure}",
        "Workers of this agent that failed, each once; those that the agent stopped are not among them.",
        Kind.COUNTER,
        Scope.AGENT,
        ((semconv.FAILURE_KIND, FAILURE_KINDS), (semconv.FAILURE_ROLE, FAILURE_ROLES)),
    ),
    MetricDefinition(
        semconv.METRIC_MEMBERSHIP_CHANGES,
        "{change}",
        "Nodes that joined, left or were lost between rounds.",
        Kind.COUNTER,
        Scope.JOB,
        ((semconv.MEMBERSHIP_CHANGE, tuple(MEMBERSHIP_ATTRIBUTES)),),
    ),
    MetricDefinition(
        semconv.METRIC_KEEP_ALIVE_SENT, "{beat}", "Heartbeats that this agent sent.", Kind.COUNTER, Scope.AGENT
    ),
    MetricDefinition(
        semconv.METRIC_KEEP_ALIVE_FAILED,
        "{beat}",
        "Heartbeats that this agent failed to send.",
        Kind.COUNTER,
        Scope.AGENT,
    ),
    MetricDefinition(
        semconv.METRIC_KEEP_ALIVE_AGE,
        "s",
        "Time since this agent's last heartbeat.",
        Kind.GAUGE,
        Scope.AGENT,
        divisor=NS_PER_S,
    ),
    MetricDefinition(
        semconv.METRIC_STATE_STALE,
        "{conflict}",
        "Changes of the rendezvous state that lost against another node's and had to be made again.",
        Kind.COUNTER,
        Scope.AGENT,
    ),
    MetricDefinition(
        semconv.METRIC_TIME,
        "s",
        "Where the job's time went, as the job reporter observed it; the states sum to wall time.",
        Kind.COUNTER,
        Scope.JOB,
        _STATES,
        divisor=NS_PER_S,
    ),
    MetricDefinition(
        semconv.METRIC_AGENT_TIME,
        "s",
        "Where this agent's time went; the states sum to wall time.",
        Kind.COUNTER,
        Scope.AGENT,
        _STATES,
        divisor=NS_PER_S,
    ),
    MetricDefinition(
        semconv.METRIC_EVENTS,
        "{event}",
        "Events that this agent recorded, by name.",
        Kind.COUNTER,
        Scope.AGENT,
        ((semconv.EVENT_NAME, EVENT_NAMES),),
    ),
)
SPOOL_SIZE: Final = MetricDefinition(
    semconv.METRIC_SPOOL_SIZE, "By", "What the spool takes on disk.", Kind.GAUGE, Scope.AGENT
)
SPOOL_AGE: Final = MetricDefinition(
    semconv.METRIC_SPOOL_AGE,
    "s",
    "How long the oldest event has waited for delivery.",
    Kind.GAUGE,
    Scope.AGENT,
    divisor=NS_PER_S,
)
SPOOL_DROPPED: Final = MetricDefinition(
    semconv.METRIC_SPOOL_DROPPED,
    "{event}",
    "Events that were lost before they could be delivered.",
    Kind.COUNTER,
    Scope.AGENT,
)
EXPORT_DELIVERED: Final = MetricDefinition(
    semconv.METRIC_EXPORT_DELIVERED, "{event}", "Records that a destination accepted.", Kind.COUNTER, Scope.AGENT
)
EXPORT_FAILED: Final = MetricDefinition(
    semconv.METRIC_EXPORT_FAILED,
    "{event}",
    "Records that no attempt could deliver; they are quarantined.",
    Kind.COUNTER,
    Scope.AGENT,
)
EXPORT_REJECTED: Final = MetricDefinition(
    semconv.METRIC_EXPORT_REJECTED, "{event}", "Records that a receiver rejected.", Kind.COUNTER, Scope.AGENT
)
HISTOGRAM_BOUNDS: Final[Mapping[str, tuple[float, ...]]] = {
    row.name: row.bounds for row in METRICS if row.kind is Kind.HISTOGRAM
}
