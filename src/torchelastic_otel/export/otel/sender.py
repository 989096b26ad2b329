"""What every sender has, whatever its transport: an exporter, and the projection into what that takes.

What always holds: every fault of a projection or an exporter comes back as an outcome.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any

from torchelastic_otel.export.otel.cancellation import one_line
from torchelastic_otel.export.otel.projection import Projection
from torchelastic_otel.export.result import Disposition, ExportResult
from torchelastic_otel.model.metric import Kind


class ProjectingSender(ABC):
    """A :class:`~torchelastic_otel.export.result.Sender` around one exporter of one signal.

    Args:
        exporter: The exporter.
        projection: Makes what it takes.
    """

    def __init__(self, exporter: Any, projection: Projection[Any]) -> None:
        self.exporter = exporter
        self.projection = projection

    @property
    def deltas(self) -> frozenset[Kind]:
        """The instruments of which the exporter wants differences; metrics only."""
        return self.projection.deltas

    def send(self, batch: Any) -> ExportResult:
        """Project and export a batch, and say what became of it."""
        try:
            data = self.projection.data(batch)
        except Exception as error:  # noqa: BLE001 - whatever a projection raises, the data is at fault
            return ExportResult(Disposition.REFUSED, f"cannot be told: {type(error).__name__}: {one_line(str(error))}")
        return self._export(data)

    def ask(self) -> ExportResult:
        """Export nothing, for what the receiver answers."""
        return self._export(self.projection.nothing)

    @abstractmethod
    def _export(self, data: Any) -> ExportResult:
        """One attempt to export what the projection made."""

    def abort(self) -> None:
        """Make a ``send`` that is under way come back soon; nothing, where there is no way in."""
        return

    def close(self) -> None:
        """Shut the exporter down, where it can be."""
        with contextlib.suppress(Exception):
            self.exporter.shutdown()

    def delivered(self, protocol_says: str, response: Any) -> ExportResult:
        """The outcome of an OTLP response that accepts the batch, be it in part."""
        rejected = self.projection.rejected(response)
        message = one_line(response.partial_success.error_message)
        if rejected:
            protocol_says += f": {rejected} rejected: {message}"
        elif message:
            protocol_says += f": warning: {message}"
        return ExportResult(Disposition.DELIVERED, protocol_says, rejected=rejected)


def raised(error: Exception) -> ExportResult:
    """The outcome of an exporter that raised: the data may be why."""
    return ExportResult(Disposition.REFUSED, f"the exporter raised {type(error).__name__}: {one_line(str(error))}")


def all_of(outcomes: list[ExportResult]) -> ExportResult:
    """The outcome of a batch that an exporter sent in several requests, all of them delivered."""
    return ExportResult(
        Disposition.DELIVERED, outcomes[-1].reason, rejected=sum(outcome.rejected for outcome in outcomes)
    )
