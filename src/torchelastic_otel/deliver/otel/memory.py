"""The ``memory`` exporter: a list in the process, for tests.

What always holds: there is one list in a process, which outlives installations until it is cleared.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult

finished: list[ReadableLogRecord] = []
"""What was exported, in order."""


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
