"""Metrics as data: the metrics of an agent at one moment, without any library's types.

Guarantees: a snapshot is frozen and cumulative; its counters and histograms never decrease from one snapshot of an
agent to the next; times are integer nanoseconds since the epoch.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchelastic_otel.model.event import AttributeValue
from torchelastic_otel.model.serialization import NOT_STORED


class Kind(str, enum.Enum):
    """OpenTelemetry's instruments (specification, "Metrics API")."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One measurement with its trace.

    Attributes:
        value: What was measured.
        time_ns: When, nanoseconds since the epoch.
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
    """

    value: int | float
    time_ns: int
    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's value.

    Attributes:
        bounds: Upper bounds of all buckets but the last, rising.
        buckets: Counts, one more than there are bounds.
        sum: Sum of all that was measured.
        min: The smallest value; ``None`` if there is none.
        max: The largest value; ``None`` if there is none.
    """

    bounds: tuple[float, ...]
    buckets: tuple[int, ...]
    sum: float
    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """One series of a metric.

    Attributes:
        attributes: The attributes of the series, by the names of :mod:`torchelastic_otel.semconv`.
        value: The number, or the distribution of a histogram.
        exemplars: Measurements with their traces, since the snapshot before.
    """

    attributes: Mapping[str, AttributeValue]
    value: int | float | Distribution
    exemplars: tuple[Exemplar, ...] = field(default=(), metadata=NOT_STORED)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric with its series.

    Attributes:
        name: A metric name of :mod:`torchelastic_otel.semconv`.
        unit: In UCUM, as ``s`` or ``{restart}``.
        description: One sentence.
        kind: Its instrument.
        points: Its series.
    """

    name: str
    unit: str
    description: str
    kind: Kind
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All metrics of one agent at one moment.

    Attributes:
        start_ns: Since when counters and histograms count, nanoseconds since the epoch; fixed for an agent's life.
        time_ns: The moment, nanoseconds since the epoch.
        metrics: The metrics.
    """

    start_ns: int
    time_ns: int
    metrics: tuple[Metric, ...] = field(default=())
