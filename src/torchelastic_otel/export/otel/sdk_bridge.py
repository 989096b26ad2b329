"""The ``sdk`` exporter: to the application's own OpenTelemetry logger provider. Logs only, best effort.

Guarantees: the provider is looked up at each batch and never set or replaced. Not guaranteed: delivery. A provider does
not report the result for a record, so what it received counts as delivered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry._logs import get_logger_provider
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult

from torchelastic_otel import semconv
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.version import __version__


class SdkBridgeExporter(LogRecordExporter):
    """Emits every record by a logger of the application's provider; the resource is the application's."""

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Emit the records."""
        logger = get_logger_provider().get_logger(
            semconv.SCOPE_NAME, version=__version__, schema_url=semconv.SCHEMA_URL
        )
        for readable in batch:
            logger.emit(readable.log_record)
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing to do: the provider belongs to the application."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is buffered: always ``True``."""
        return True


EXPORTERS: Final = {Signal.LOGS: SdkBridgeExporter}
