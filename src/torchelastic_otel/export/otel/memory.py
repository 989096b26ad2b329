"""The ``memory`` exporters: lists in the process, for tests.

Guarantees: a process has one list of each signal; an installation neither replaces nor clears it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from torchelastic_otel.model.signals import Signal

finished: list[ReadableLogRecord] = []
"""The exported log records, in order."""
finished_spans: list[ReadableSpan] = []
"""The exported spans, in order."""
finished_metrics: list[MetricsData] = []
"""The exported snapshots, in order."""


class _Unbuffered:
    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the list stays."""

    def force_flush(self, *args: Any, **kwargs: Any) -> bool:
        """Nothing is buffered: always ``True``."""
        return True


class MemoryExporter(_Unbuffered, LogRecordExporter):
    """Appends every record to :data:`finished`."""

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Append the records."""
        finished.extend(batch)
        return LogRecordExportResult.SUCCESS


class MemorySpanExporter(_Unbuffered, SpanExporter):
    """Appends every span to :data:`finished_spans`."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans."""
        finished_spans.extend(spans)
        return SpanExportResult.SUCCESS


class MemoryMetricExporter(_Unbuffered, MetricExporter):
    """Appends every snapshot to :data:`finished_metrics`; cumulative."""

    def export(self, metrics_data: MetricsData, *args: Any, **kwargs: Any) -> MetricExportResult:
        """Append the snapshot."""
        finished_metrics.append(metrics_data)
        return MetricExportResult.SUCCESS


EXPORTERS: Final = {
    Signal.LOGS: MemoryExporter,
    Signal.TRACES: MemorySpanExporter,
    Signal.METRICS: MemoryMetricExporter,
}
