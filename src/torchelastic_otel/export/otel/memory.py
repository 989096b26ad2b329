"""The ``memory`` exporters: lists in the process, for tests.

What always holds: there is one list of each signal in a process, which outlives installations until it is cleared.
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
"""The log records that were exported, in order."""
finished_spans: list[ReadableSpan] = []
"""The spans that were exported, in order."""
finished_metrics: list[MetricsData] = []
"""The snapshots that were exported, in order."""


class MemoryExporter(LogRecordExporter):
    """Appends every record to :data:`finished`."""

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Keep the records."""
        finished.extend(batch)
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing: the list stays."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back here."""
        return True


class MemorySpanExporter(SpanExporter):
    """Appends every span to :data:`finished_spans`."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep the spans."""
        finished_spans.extend(spans)
        return SpanExportResult.SUCCESS


class MemoryMetricExporter(MetricExporter):
    """Appends every snapshot to :data:`finished_metrics`; cumulative."""

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Keep the snapshot."""
        finished_metrics.append(metrics_data)
        return MetricExportResult.SUCCESS

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing: the list stays."""

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is held back here."""
        return True


EXPORTERS: Final = {
    Signal.LOGS: MemoryExporter,
    Signal.TRACES: MemorySpanExporter,
    Signal.METRICS: MemoryMetricExporter,
}
