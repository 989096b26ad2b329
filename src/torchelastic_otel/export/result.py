"""The result of one export attempt, in the terms that the pipeline acts on.

An exporter's own result does not suffice: ``SUCCESS`` includes partial rejections and, over HTTP, redirects;
``FAILURE`` includes a rejected batch as well as a collector that is down.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol, TypeVar

Batch = TypeVar("Batch", contravariant=True)


class Disposition(enum.Enum):
    """What the pipeline does next."""

    DELIVERED = "delivered"
    """Accepted: acknowledge the batch."""
    RETRY = "retry"
    """A temporary failure: send the same batch again after a backoff."""
    REJECTED = "rejected"
    """Something in the batch is not acceptable: split it down to that one record."""
    BLOCKED = "blocked"
    """No data is at fault (401, 403, 404): keep everything, warn, retry rarely."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The result of one export attempt.

    Attributes:
        disposition: What to do next.
        reason: One line without secrets: ``HTTP 503 Service Unavailable``.
        rejected_count: Items of a delivered batch that the receiver rejected (OTLP partial success).
        retry_after_ns: The delay that the receiver requested, nanoseconds.
    """

    disposition: Disposition
    reason: str = ""
    rejected_count: int = 0
    retry_after_ns: int | None = None


class Sender(Protocol[Batch]):
    """One exporter, to the pipeline. ``send`` is called by one thread only, never torch's.

    A batch is a sequence of events or of spans, or a :class:`~torchelastic_otel.export.metric_delta.MetricBatch`.
    """

    def send(self, batch: Batch) -> ExportResult:
        """Project and export a batch; every error of the exporter is returned as a result."""
        ...

    def cancel(self) -> None:
        """Called from another thread: make a running ``send`` return soon."""
        ...

    def close(self) -> None:
        """Release the exporter's resources. No ``send`` follows."""
        ...
