"""What all senders share, whatever their transport: an exporter, and the projection into what it takes.

Guarantees: every error of a projection or an exporter is returned as a result.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any

from torchelastic_otel.export.otel.cancellation import AttemptFinished, CancellationScope, one_line
from torchelastic_otel.export.otel.projection import Projection, encode, rejected_count
from torchelastic_otel.export.result import Disposition, ExportResult
from torchelastic_otel.model.metric import Kind


class ProjectingSender(ABC):
    """A :class:`~torchelastic_otel.export.result.Sender` around one exporter of one signal.

    Args:
        exporter: The exporter.
        projection: Makes what it takes.
    """

    def __init__(self, exporter: Any, projection: Projection) -> None:
        self.exporter = exporter
        self.projection = projection

    @property
    def delta_kinds(self) -> frozenset[Kind]:
        """The instruments that the exporter wants as deltas; metrics only."""
        return self.projection.delta_kinds

    def send(self, batch: Any) -> ExportResult:
        """Project and export a batch."""
        try:
            data = self.projection.project(batch)
        except Exception as error:  # noqa: BLE001 - whatever a projection raises, the data is the cause
            return _rejected("cannot be projected", error)
        return self._export(data)

    def probe(self) -> ExportResult:
        """Export an empty batch, to see the receiver's response."""
        return self._export(self.projection.empty)

    @abstractmethod
    def _export(self, data: Any) -> ExportResult:
        """One attempt to export what the projection made."""

    def cancel(self) -> None:
        """Make a running ``send`` return soon, if that is possible."""
        return

    def close(self) -> None:
        """Shut the exporter down."""
        with contextlib.suppress(Exception):
            self.exporter.shutdown()


class ObservingSender(ProjectingSender):
    """A sender that observes the responses to its exporter's requests.

    A response that accepts data is added to :attr:`accepted`; any other ends the attempt by ``AttemptFinished``.

    Args:
        exporter: The exporter.
        projection: Makes what it takes.
        attempt_timeout_ns: How long one attempt may take, nanoseconds.
    """

    def __init__(self, exporter: Any, projection: Projection, attempt_timeout_ns: int) -> None:
        super().__init__(exporter, projection)
        self.cancellation = CancellationScope(attempt_timeout_ns)
        self.accepted: list[ExportResult] = []

    def _export(self, data: Any) -> ExportResult:
        self.accepted.clear()
        try:
            with self.cancellation.attempt():
                result = self.exporter.export(data)
        except AttemptFinished as finished:
            return finished.result
        except Exception as error:  # noqa: BLE001 - every error of an exporter is a result
            return exception_result(error)
        if self.accepted:
            rejected = sum(each.rejected_count for each in self.accepted)
            return ExportResult(Disposition.DELIVERED, self.accepted[-1].reason, rejected_count=rejected)
        if result.name == "SUCCESS":
            return ExportResult(Disposition.DELIVERED)
        # it failed without a request: its data cannot be encoded, or it used a transport that is not observed
        try:
            encode(self.projection.signal, data)
        except Exception as error:  # noqa: BLE001 - whatever the encoder raises, the data is the cause
            return _rejected("cannot be encoded", error)
        return ExportResult(Disposition.RETRY, "the exporter failed and no response was observed")

    def cancel(self) -> None:
        """Cancel the running attempt."""
        self.cancellation.cancel()

    def accept(self, reason: str, response: Any) -> None:
        """Add an OTLP response that accepts the batch, at least in part."""
        rejected = rejected_count(self.projection.signal, response)
        message = one_line(response.partial_success.error_message)
        if rejected:
            reason += f": {rejected} rejected: {message}"
        elif message:
            reason += f": warning: {message}"
        self.accepted.append(ExportResult(Disposition.DELIVERED, reason, rejected_count=rejected))


def exception_result(error: Exception) -> ExportResult:
    """The result of an exporter that raised: the data may be the cause."""
    return ExportResult(Disposition.REJECTED, f"the exporter raised {type(error).__name__}: {one_line(str(error))}")


def _rejected(what: str, error: Exception) -> ExportResult:
    return ExportResult(Disposition.REJECTED, f"{what}: {type(error).__name__}: {one_line(str(error))}")
