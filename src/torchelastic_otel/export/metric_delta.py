"""The arithmetic of metric snapshots, all of it pure.

Guarantees: a counter never falls; a delta is the difference of two snapshots that were both fixed before either was
sent, so that it is the same at every attempt; what is stored can be read again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import ClassVar, Final, TypeAlias

from torchelastic_otel.model.event import AttributeValue, Origin
from torchelastic_otel.model.metric import Distribution, Kind, Metric, Point, Snapshot
from torchelastic_otel.model.serialization import Layout, Serializable

Value: TypeAlias = int | float | Distribution
_Series: TypeAlias = tuple[str, tuple[tuple[str, AttributeValue], ...]]
_MIN_DISTANCE_NS: Final = 1_000_000
"""Two points of a series are at least this far apart: a millisecond, the resolution of some backends."""


@dataclass(frozen=True, slots=True)
class MetricBatch:
    """One snapshot for an exporter.

    Attributes:
        origin: The process that the metrics describe.
        snapshot: The metrics, cumulative.
        base: The snapshot that the exporter received before; ``None`` for none. A delta is the difference to it.
    """

    origin: Origin
    snapshot: Snapshot
    base: Snapshot | None = None

    @property
    def points(self) -> int:
        """The number of data points."""
        return sum(len(metric.points) for metric in self.snapshot.metrics)


@dataclass(frozen=True, slots=True)
class Checkpoint(Serializable):
    """How far an exporter got; stored in a spool.

    Attributes:
        base: The snapshot that was sent for certain; ``None`` if there is none.
        sent: The snapshot that was being sent.
    """

    LAYOUT: ClassVar[Layout] = "array"

    base: Snapshot | None
    sent: Snapshot | None

    @staticmethod
    def of(batch: MetricBatch) -> Checkpoint:
        """The checkpoint of a batch; gauges and exemplars are not stored."""
        return Checkpoint(None if batch.base is None else without_gauges(batch.base), without_gauges(batch.snapshot))


def without_gauges(snapshot: Snapshot) -> Snapshot:
    """Counters and histograms only: an old gauge has no meaning now."""
    return replace(snapshot, metrics=tuple(metric for metric in snapshot.metrics if metric.kind is not Kind.GAUGE))


def cumulative_values(snapshot: Snapshot) -> dict[_Series, Value]:
    """The value of each series of counters and histograms."""
    return {
        _series(metric, point): point.value for metric in without_gauges(snapshot).metrics for point in metric.points
    }


def delta_since(snapshot: Snapshot, base: Snapshot) -> Snapshot:
    """What was counted between two snapshots; gauges as they are. A delta of a distribution has no extremes."""
    before = cumulative_values(base)
    delta = _map_points(
        snapshot, lambda series, point: replace(point, value=_difference(point.value, before.get(series)))
    )
    return replace(delta, start_ns=base.time_ns)


def with_zero_starts(snapshot: Snapshot, started: Collection[object]) -> Snapshot:
    """The snapshot, with 0 for every counter and histogram that the receiver has not received.

    A backend takes the first sample of a series for its start and counts nothing for it. Each receiver has its own
    first sample, whatever others have accepted.

    Args:
        snapshot: The metrics.
        started: The series, as keys of :func:`cumulative_values`, that the receiver has received.
    """
    return _map_points(
        snapshot,
        lambda series, point: point if series in started else replace(point, value=_zero(point.value), exemplars=()),
    )


def remaining(final: Snapshot, sent: Snapshot | None) -> Snapshot | None:
    """What an orphaned process has not sent, as counters and histograms; ``None`` for nothing.

    Args:
        final: Its last values.
        sent: The last snapshot that was sent.
    """
    final = without_gauges(final)
    if sent is None:
        return final if final.metrics else None
    before = cumulative_values(sent)
    # time was counted until the last snapshot, which the spool does not store
    last = _map_points(final, lambda series, point: replace(point, value=_maximum(point.value, before.get(series))))
    if all(value == before.get(series) for series, value in cumulative_values(last).items()):
        return None
    return replace(last, start_ns=sent.start_ns, time_ns=max(final.time_ns, sent.time_ns + _MIN_DISTANCE_NS))


def _series(metric: Metric, point: Point) -> _Series:
    return metric.name, tuple(sorted(point.attributes.items()))


def _map_points(snapshot: Snapshot, change: Callable[[_Series, Point], Point]) -> Snapshot:
    """The snapshot with each point of its counters and histograms changed."""
    metrics = (
        metric
        if metric.kind is Kind.GAUGE
        else replace(metric, points=tuple(change(_series(metric, point), point) for point in metric.points))
        for metric in snapshot.metrics
    )
    return replace(snapshot, metrics=tuple(metrics))


def _zero(value: Value) -> Value:
    if isinstance(value, Distribution):
        return Distribution(value.bounds, (0,) * len(value.buckets), 0.0, None, None)
    return 0


def _difference(value: Value, before: Value | None) -> Value:
    if before is None:
        return value
    if isinstance(value, Distribution):
        if not isinstance(before, Distribution) or before.bounds != value.bounds:
            return value
        buckets = tuple(new - old for new, old in zip(value.buckets, before.buckets, strict=True))
        return Distribution(value.bounds, buckets, value.sum - before.sum, None, None)
    return value if isinstance(before, Distribution) else value - before


def _maximum(value: Value, before: Value | None) -> Value:
    if isinstance(value, Distribution) and isinstance(before, Distribution):
        return before if sum(before.buckets) > sum(value.buckets) else value
    if before is None or isinstance(value, Distribution) or isinstance(before, Distribution):
        return value
    return max(value, before)
