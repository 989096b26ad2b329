"""The projection of a snapshot: cumulative, delta, exemplars."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

from tests.support.collector import attributes_of
from tests.support.metric_snapshots import SPAN, START, TRACE, S, snapshot
from tests.support.senders import environment
from tests.support.stored_events import ORIGIN
from torchelastic_otel.export.config import sample_all, sample_none
from torchelastic_otel.export.metric_delta import MetricBatch
from torchelastic_otel.export.otel.metrics import delta_kinds, exemplar_sampler, metrics_data
from torchelastic_otel.model.metric import Kind, Metric, Point, Snapshot

EVERY_KIND = frozenset({Kind.COUNTER, Kind.HISTOGRAM})


def encoded(
    measured: MetricBatch, deltas: frozenset[Kind] = frozenset(), sampler: Any = sample_all
) -> tuple[Any, list[Any]]:
    """The resource and the metrics as they are on the wire."""
    [of_resource] = encode_metrics(metrics_data(measured, deltas, sampler)).resource_metrics
    [of_scope] = of_resource.scope_metrics
    assert of_scope.scope.name == "torchelastic_otel"
    return of_resource.resource, list(of_scope.metrics)


def test_a_snapshot_is_cumulative_since_the_agents_start() -> None:
    """One writer for each series, by `service.instance.id`; the start is fixed for its life."""
    resource, metrics = encoded(MetricBatch(ORIGIN, snapshot(60, failures=2, restarts=(0.5, 3.0))))
    counter, histogram, gauge = metrics
    assert attributes_of(resource.attributes)["service.instance.id"] == ORIGIN.id
    assert (counter.name, counter.unit, counter.description) == (
        "torchelastic.worker.failures",
        "{failure}",
        "Failures.",
    )
    assert (counter.sum.aggregation_temporality, counter.sum.is_monotonic) == (2, True)
    [point] = counter.sum.data_points
    assert (point.as_int, point.start_time_unix_nano, point.time_unix_nano) == (2, START, START + 60 * S)
    assert attributes_of(point.attributes) == {"torchelastic.failure.kind": "exit"}
    [point] = histogram.histogram.data_points
    assert (point.count, point.sum, point.min, point.max) == (2, 3.5, 0.5, 3.0)
    assert (list(point.bucket_counts), list(point.explicit_bounds)) == ([1, 1], [1.0])
    [point] = gauge.gauge.data_points
    assert (point.as_int, point.time_unix_nano) == (7, START + 60 * S)


def test_a_delta_is_what_came_since_the_snapshot_before() -> None:
    """Gauges stay what they are; the extremes of a part are not known, and not told."""
    before = snapshot(20, failures=2, restarts=(0.5,))
    _, metrics = encoded(MetricBatch(ORIGIN, snapshot(60, failures=5, restarts=(0.5, 3.0)), before), EVERY_KIND)
    counter, histogram, gauge = metrics
    assert counter.sum.aggregation_temporality == histogram.histogram.aggregation_temporality == 1
    [point] = counter.sum.data_points
    assert (point.as_int, point.start_time_unix_nano, point.time_unix_nano) == (3, START + 20 * S, START + 60 * S)
    [point] = histogram.histogram.data_points
    assert (point.count, point.sum, list(point.bucket_counts)) == (1, 3.0, [0, 1])
    assert not point.HasField("min")
    assert not point.HasField("max")
    assert gauge.gauge.data_points[0].as_int == 7


def test_the_first_delta_begins_at_the_start() -> None:
    """What was counted before the first interval was over counts, too."""
    _, metrics = encoded(MetricBatch(ORIGIN, snapshot(60, failures=5)), EVERY_KIND)
    [point] = metrics[0].sum.data_points
    assert (point.as_int, point.start_time_unix_nano) == (5, START)


def test_each_kind_goes_by_its_own_preference() -> None:
    """An exporter may want differences of counters only."""
    before = snapshot(20, failures=2, restarts=(0.5,))
    measured = MetricBatch(ORIGIN, snapshot(60, failures=5, restarts=(0.5, 3.0)), before)
    _, (counter, histogram, _) = encoded(measured, frozenset({Kind.COUNTER}))
    assert counter.sum.data_points[0].as_int == 3
    [point] = histogram.histogram.data_points
    assert (point.count, point.start_time_unix_nano) == (2, START)


def test_an_exemplar_leads_to_its_trace_where_that_is_kept() -> None:
    """From a failure that was counted to what happened."""
    _, metrics = encoded(MetricBatch(ORIGIN, snapshot(60, failures=1)))
    [exemplar] = metrics[0].sum.data_points[0].exemplars
    assert (exemplar.trace_id.hex(), exemplar.span_id.hex(), exemplar.as_int) == (TRACE, SPAN, 1)
    assert exemplar.time_unix_nano == START + 1
    _, metrics = encoded(MetricBatch(ORIGIN, snapshot(60, failures=1)), sampler=sample_none)
    assert list(metrics[0].sum.data_points[0].exemplars) == []


@pytest.mark.parametrize(
    ("value", "of_kept", "of_dropped"),
    [("", True, False), ("trace_based", True, False), ("always_on", True, True), ("ALWAYS_OFF", False, False)],
)
def test_the_exemplar_filter_is_opentelemetrys(value: str, of_kept: bool, of_dropped: bool) -> None:
    """Applied by providers, so by nobody when there is none."""
    goes = exemplar_sampler({"OTEL_METRICS_EXEMPLAR_FILTER": value}, pytest.fail, lambda trace_id: trace_id == "kept")
    assert (goes("kept"), goes("dropped")) == (of_kept, of_dropped)


def test_a_filter_that_there_is_not_is_named() -> None:
    """And the default is used."""
    said: list[str] = []
    assert exemplar_sampler({"OTEL_METRICS_EXEMPLAR_FILTER": "some"}, said.append, sample_none) is sample_none
    assert "OTEL_METRICS_EXEMPLAR_FILTER='some' is not allowed" in said[0]


@pytest.mark.parametrize("package", ["grpc", "http"])
@pytest.mark.parametrize(
    ("preference", "deltas"),
    [("", frozenset()), ("cumulative", frozenset()), ("delta", EVERY_KIND), ("lowmemory", EVERY_KIND)],
)
def test_an_exporters_preference_is_read(package: str, preference: str, deltas: frozenset[Kind]) -> None:
    """OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: it is known to the exporter alone."""
    import importlib

    module = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{package}.metric_exporter")
    variables = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference} if preference else {}
    with environment(variables):
        assert delta_kinds(module.OTLPMetricExporter()) == deltas


def test_who_has_no_preference_gets_cumulative_numbers() -> None:
    """The console's is None."""
    assert delta_kinds(ConsoleMetricExporter()) == delta_kinds(object()) == frozenset()


@pytest.mark.parametrize("kind", [Kind.COUNTER, Kind.HISTOGRAM])
def test_a_value_of_the_wrong_kind_is_a_value_error(kind: Kind) -> None:
    """It is refused before an encoder meets it."""
    good = snapshot(1, restarts=(1.0,)).metrics[1 if kind is Kind.COUNTER else 0].points
    bad = Snapshot(START, START, (Metric("m", "s", "d", kind, tuple(Point({}, point.value) for point in good)),))
    with pytest.raises(ValueError, match="instead of a"):
        metrics_data(MetricBatch(ORIGIN, bad), frozenset())
