"""Any other push exporter: only the result or exception of ``export()`` is known.

Not guaranteed: a time limit. Such an exporter cannot be cancelled from outside; it has a thread of its own.
"""

from __future__ import annotations

from typing import Any

from torchelastic_otel.export.otel.cancellation import one_line, without_instrumentation
from torchelastic_otel.export.otel.sender import ProjectingSender, exception_result
from torchelastic_otel.export.result import Disposition, ExportResult


class GenericSender(ProjectingSender):
    """A :class:`~torchelastic_otel.export.result.Sender` around anything with an ``export(batch)``."""

    def _export(self, data: Any) -> ExportResult:
        """Export; ``SUCCESS`` or ``None`` is delivered, any other result a failure.

        An exception rejects the batch, so that splitting finds the one bad record; but an ``OSError`` (a connection, a
        file, any exception of requests) is not about the records and is retried.
        """
        try:
            with without_instrumentation():
                result = self.exporter.export(data)
        except OSError as error:
            return ExportResult(
                Disposition.RETRY, f"the exporter raised {type(error).__name__}: {error.strerror or ''}".strip()
            )
        except Exception as error:  # noqa: BLE001 - every error of an exporter is a result
            return exception_result(error)
        name = getattr(result, "name", "SUCCESS" if result is None else str(result))
        if name == "SUCCESS":
            return ExportResult(Disposition.DELIVERED)
        return ExportResult(Disposition.RETRY, f"the exporter returned {one_line(name, 40)}")
