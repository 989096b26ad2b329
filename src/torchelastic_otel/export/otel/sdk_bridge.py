"""The ``sdk`` exporter: into the application's own OpenTelemetry logger provider. Logs only, best effort.

What always holds: the provider is asked for at each batch and never set or replaced. Not promised: delivery.
A provider says nothing of what became of a record, so what it was given counts as delivered.
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
        """Nothing: the provider is the application's."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back here."""
        return True


EXPORTERS: Final = {Signal.LOGS: SdkBridgeExporter}
