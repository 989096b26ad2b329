"""A log exporter of somebody else's, which appends the names of what it gets to a file, and who brings it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult


class NamesToFile(LogRecordExporter):
    """Appends each record's event name to the file ``EXPORTER_FILE``."""

    def export(self, batch: Sequence[Any]) -> LogRecordExportResult:
        """Append them."""
        with open(os.environ["EXPORTER_FILE"], "a") as file:
            file.writelines(f"{each.log_record.event_name}\n" for each in batch)
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is held."""

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """Nothing is held."""
        return True


def exporters() -> list[NamesToFile]:
    """What the entry point names."""
    return [NamesToFile()]
