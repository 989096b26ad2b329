"""What a metrics exporter is given, and the arithmetic of snapshots: all of it pure.

What always holds: what was told of a counter never falls; a delta is the difference of two snapshots that were both
fixed before either was sent, so that it is the same at every attempt; what is written can be read again.
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
_Values: TypeAlias = dict[_Series, Value]
_NEXT_NS: Final = 1_000_000
"""Two points of a series are at least this far apart: a millisecond, the resolution of some backends."""


@dataclass(frozen=True, slots=True)
class MetricBatch:
    """One snapshot on its way to an exporter.

    Attributes:
        origin: Whose numbers they are.
        snapshot: The numbers, cumulative.
        base: What the exporter was given before; ``None`` for nothing. A delta is what came since.
    """

    origin: Origin
    snapshot: Snapshot
    base: Snapshot | None = None

    @property
    def points(self) -> int:
        """How many points there are."""
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
    """Counters and histograms only: a gauge of the past is nobody's present."""
    return replace(snapshot, metrics=tuple(metric for metric in snapshot.metrics if metric.kind is not Kind.GAUGE))


def cumulative_values(snapshot: Snapshot) -> _Values:
    """The value of each series of counters and histograms."""
    return {
        _series(metric, point): point.value
        for metric in snapshot.metrics
        if metric.kind is not Kind.GAUGE
        for point in metric.points
    }


def delta_since(snapshot: Snapshot, base: Snapshot) -> Snapshot:
    """What was counted between two snapshots; gauges as they are.

    The extremes of a distribution are not known of a part of it.
    """
    before = cumulative_values(base)

    def part(metric: Metric) -> Metric:
        if metric.kind is Kind.GAUGE:
            return metric
        points = (
            replace(point, value=_difference(point.value, before.get(_series(metric, point))))
            for point in metric.points
        )
        return replace(metric, points=tuple(points))

    return replace(snapshot, start_ns=base.time_ns, metrics=tuple(part(metric) for metric in snapshot.metrics))


def with_zero_starts(snapshot: Snapshot, begun: Collection[object]) -> Snapshot:
    """The snapshot, with 0 in every counter and histogram that has not begun where it goes; itself where all have.

    A backend takes a series' first sample for its beginning: what is counted in it is counted by nobody. Each receiver
    has its own first one, so that what another one has accepted does not matter here.

    Args:
        snapshot: The numbers.
        begun: The series, as keys of :func:`values_of`, that the receiver has had.
    """
    if cumulative_values(snapshot).keys() <= set(begun):
        return snapshot

    def first(metric: Metric) -> Metric:
        if metric.kind is Kind.GAUGE:
            return metric
        points = (
            point if _series(metric, point) in begun else replace(point, value=_zero(point.value), exemplars=())
            for point in metric.points
        )
        return replace(metric, points=tuple(points))

    return replace(snapshot, metrics=tuple(first(metric) for metric in snapshot.metrics))


def remaining(final: Snapshot, told: Snapshot | None) -> Snapshot | None:
    """What is left to tell of a process that is gone, as counters and histograms; ``None`` for nothing.

    Args:
        final: What is known of it at its end.
        told: The last that was told of it.
    """
    final = without_gauges(final)
    if told is None:
        return final if final.metrics else None
    before = cumulative_values(told)

    # time went on being counted until the last snapshot, which nothing of the spool says
    def whole(metric: Metric) -> Metric:
        return _each(metric, before, _monotonic)

    last = replace(
        final,
        start_ns=told.start_ns,
        time_ns=max(final.time_ns, told.time_ns + _NEXT_NS),
        metrics=tuple(whole(metric) for metric in final.metrics),
    )
    known = cumulative_values(last)
    return last if any(known[series] != before.get(series) for series in known) else None


def _series(metric: Metric, point: Point) -> _Series:
    return metric.name, tuple(sorted(point.attributes.items()))


def _each(metric: Metric, before: _Values, change: Callable[[Value, Value | None], Value]) -> Metric:
    """The metric, each value changed by what it was before."""
    points = (replace(point, value=change(point.value, before.get(_series(metric, point)))) for point in metric.points)
    return replace(metric, points=tuple(points))


def _zero(value: Value) -> Value:
    """What a counter or a histogram begins with."""
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


def _monotonic(value: Value, before: Value | None) -> Value:
    if before is None or isinstance(value, Distribution) != isinstance(before, Distribution):
        return value
    if isinstance(value, Distribution):
        assert isinstance(before, Distribution)
        return before if sum(before.buckets) > sum(value.buckets) else value
    assert not isinstance(before, Distribution)
    return max(value, before)
