"""The ``file`` destination for spans and metrics, on real files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LogRecordLimits
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.trace.export import SpanExportResult

from tests.support.metric_snapshots import TRACE as METRIC_TRACE
from tests.support.metric_snapshots import snapshot
from tests.support.spans import TRACE, span_delivery
from tests.support.stored_events import ORIGIN, delivery
from torchelastic_otel.export.metric_delta import MetricBatch
from torchelastic_otel.export.otel import file
from torchelastic_otel.export.otel.limits import span_limits
from torchelastic_otel.export.otel.logs import log_record
from torchelastic_otel.export.otel.metrics import metrics_data
from torchelastic_otel.export.otel.otlp_json import from_json
from torchelastic_otel.export.otel.spans import readable_span
from torchelastic_otel.model.signals import Signal


def written(directory: Path) -> list[Path]:
    """The files of a directory, by name."""
    return sorted(directory.glob("*.jsonl"))


def test_spans_and_metrics_have_files_of_their_own(tmp_path: Path) -> None:
    """A Collector reads all three; each signal's exporter writes on a thread of its own."""
    logs, spans, metrics = (cast(Any, file.EXPORTERS[signal](tmp_path)) for signal in Signal)
    assert logs.export([log_record(delivery(), LogRecordLimits())]) is LogRecordExportResult.SUCCESS
    assert spans.export([readable_span(span_delivery(), span_limits({}, pytest.fail))]) is SpanExportResult.SUCCESS
    told = metrics_data(MetricBatch(ORIGIN, snapshot(1, failures=1)), frozenset())
    assert metrics.export(told) is MetricExportResult.SUCCESS
    found = {next(iter(json.loads(path.read_text()))): path.name for path in written(tmp_path)}
    assert found.keys() == {"resourceLogs", "resourceSpans", "resourceMetrics"}
    assert found["resourceSpans"].endswith(f"-{os.getpid()}.traces.000001.jsonl")
    assert found["resourceMetrics"].endswith(f"-{os.getpid()}.metrics.000001.jsonl")
    [of_spans] = [from_json(Path(tmp_path, found["resourceSpans"]).read_text(), ExportTraceServiceRequest())]
    assert of_spans.resource_spans[0].scope_spans[0].spans[0].trace_id.hex() == TRACE
    [of_metrics] = [from_json(Path(tmp_path, found["resourceMetrics"]).read_text(), ExportMetricsServiceRequest())]
    [failures, *_] = of_metrics.resource_metrics[0].scope_metrics[0].metrics
    assert failures.sum.data_points[0].exemplars[0].trace_id.hex() == METRIC_TRACE
    for exporter in (logs, spans, metrics):
        exporter.shutdown()
    assert spans.export([]) is SpanExportResult.SUCCESS
    assert metrics.export(told) is MetricExportResult.FAILURE


def test_the_oldest_file_of_one_signal_goes_and_none_of_another(tmp_path: Path) -> None:
    """Each signal's bound is its own."""
    spans = file.OtlpJsonSpanFileExporter(tmp_path, max_file_bytes=1, max_files=2)
    logs = file.OtlpJsonFileExporter(tmp_path, max_file_bytes=1, max_files=2)
    one = readable_span(span_delivery(), span_limits({}, pytest.fail))
    for _ in range(4):
        logs.export([log_record(delivery(), LogRecordLimits())])
        spans.export([one])
    names = [path.name.partition(f"-{os.getpid()}.")[2] for path in written(tmp_path)]
    assert names == ["000003.jsonl", "000004.jsonl", "traces.000003.jsonl", "traces.000004.jsonl"]
