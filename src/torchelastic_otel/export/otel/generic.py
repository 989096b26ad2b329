"""Any other push exporter: only what ``export()`` returns or raises is known of what became of a batch.

Not promised: a bound in time. Such an exporter cannot be cut from outside; it has a thread of its own.
"""

from __future__ import annotations

from typing import Any

from torchelastic_otel.export.otel.cancellation import one_line, quietly
from torchelastic_otel.export.otel.sender import ProjectingSender, raised
from torchelastic_otel.export.result import Disposition, ExportResult


class GenericSender(ProjectingSender):
    """A :class:`~torchelastic_otel.export.result.Sender` around anything with an ``export(batch)``."""

    def _export(self, data: Any) -> ExportResult:
        """Export; ``SUCCESS`` or ``None`` is delivered, any other result a failure.

        An exception refuses the batch, so that one bad record is found by splitting; but an ``OSError`` (a
        connection, a file, any exception of requests) says nothing about the records and is tried again.
        """
        try:
            with quietly():
                result = self.exporter.export(data)
        except OSError as error:
            return ExportResult(
                Disposition.RETRY, f"the exporter raised {type(error).__name__}: {error.strerror or ''}".strip()
            )
        except Exception as error:  # noqa: BLE001 - every fault of an exporter is an outcome
            return raised(error)
        name = getattr(result, "name", "SUCCESS" if result is None else str(result))
        if name == "SUCCESS":
            return ExportResult(Disposition.DELIVERED)
        return ExportResult(Disposition.RETRY, f"the exporter answered {one_line(name, 40)}")
