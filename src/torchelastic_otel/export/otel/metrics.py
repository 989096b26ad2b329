"""The projection of a metric snapshot into the SDK's metrics data.

Guarantees: it is pure; cumulative points are the snapshot's own, deltas the difference to the snapshot that was sent
before; a histogram keeps its buckets, whatever aggregation an exporter prefers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry.sdk.metrics import Counter, Exemplar, Histogram
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.metrics.export import AggregationTemporality, HistogramDataPoint, MetricsData, NumberDataPoint

from torchelastic_otel import semconv
from torchelastic_otel.export.config import Sampler, one_of, read_variable, sample_all, sample_none
from torchelastic_otel.export.metric_delta import MetricBatch, delta_since
from torchelastic_otel.export.otel.projection import SCOPE, encodable
from torchelastic_otel.export.otel.resource import resource_of
from torchelastic_otel.model import metric as metric_model
from torchelastic_otel.model.metric import Distribution, Kind, Point, Snapshot

_INSTRUMENTS: Final[Mapping[Kind, type]] = {Kind.COUNTER: Counter, Kind.HISTOGRAM: Histogram}
EXEMPLAR_FILTERS: Final = ("always_on", "always_off", "trace_based")


def delta_kinds(exporter: Any) -> frozenset[Kind]:
    """The instruments that an exporter prefers as deltas; its preference may be ``None`` (the console's)."""
    preferred = getattr(exporter, "_preferred_temporality", None) or {}
    return frozenset(
        kind for kind, instrument in _INSTRUMENTS.items() if preferred.get(instrument) is AggregationTemporality.DELTA
    )


def exemplar_sampler(environ: Mapping[str, str], warn: Callable[[str], object], sampler: Sampler) -> Sampler:
    """Which exemplars are sent, by trace: ``OTEL_METRICS_EXEMPLAR_FILTER``; those of sampled traces by default."""
    names, allowed = ("OTEL_METRICS_EXEMPLAR_FILTER",), ", ".join(EXEMPLAR_FILTERS)
    name = read_variable(environ, names, one_of(*EXEMPLAR_FILTERS), allowed, "trace_based", warn)
    return {"always_on": sample_all, "always_off": sample_none}.get(name, sampler)


def metrics_data(batch: MetricBatch, delta_kinds: frozenset[Kind], exemplars: Sampler = sample_all) -> MetricsData:
    """The snapshot as the exporters take it.

    Args:
        batch: The snapshot.
        delta_kinds: Instruments that are sent as deltas.
        exemplars: Whether an exemplar is sent, by its trace's id.
    """
    whole = batch.snapshot
    part = whole if batch.base is None or not delta_kinds else delta_since(whole, batch.base)
    resource = resource_of(batch.origin)
    metrics = [
        _metric(delta, part, True, exemplars)
        if metric.kind in delta_kinds
        else _metric(metric, whole, False, exemplars)
        for metric, delta in zip(whole.metrics, part.metrics, strict=True)
    ]
    scope = sdk.ScopeMetrics(SCOPE, metrics, semconv.SCHEMA_URL)
    return MetricsData([sdk.ResourceMetrics(resource, [scope], semconv.SCHEMA_URL)])


def empty_metrics() -> MetricsData:
    """A snapshot without metrics, as the exporters take it."""
    return MetricsData([])


def _metric(metric: metric_model.Metric, snapshot: Snapshot, delta: bool, exemplars: Sampler) -> sdk.Metric:
    temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
    data: sdk.Gauge | sdk.Sum | sdk.Histogram
    if metric.kind is Kind.HISTOGRAM:
        data = sdk.Histogram([_distribution(point, snapshot, exemplars) for point in metric.points], temporality)
    else:
        points = [_number(point, snapshot, exemplars) for point in metric.points]
        data = sdk.Gauge(points) if metric.kind is Kind.GAUGE else sdk.Sum(points, temporality, is_monotonic=True)
    return sdk.Metric(metric.name, metric.description, metric.unit, data)


def _number(point: Point, snapshot: Snapshot, exemplars: Sampler) -> NumberDataPoint:
    if isinstance(point.value, Distribution):
        raise ValueError("a distribution instead of a number")
    return NumberDataPoint(
        encodable(point.attributes), snapshot.start_ns, snapshot.time_ns, point.value, _exemplars(point, exemplars)
    )


def _distribution(point: Point, snapshot: Snapshot, exemplars: Sampler) -> HistogramDataPoint:
    value = point.value
    if not isinstance(value, Distribution):
        raise ValueError("a number instead of a distribution")
    return HistogramDataPoint(
        encodable(point.attributes),
        snapshot.start_ns,
        snapshot.time_ns,
        sum(value.buckets),
        value.sum,
        value.buckets,
        value.bounds,
        value.min,  # type: ignore[arg-type]  # OTLP and its encoder take None for unknown
        value.max,  # type: ignore[arg-type]
        _exemplars(point, exemplars),
    )


def _exemplars(point: Point, sampler: Sampler) -> list[Exemplar]:
    return [
        Exemplar({}, each.value, each.time_ns, span_id=int(each.span_id, 16), trace_id=int(each.trace_id, 16))
        for each in point.exemplars
        if sampler(each.trace_id)
    ]
