"""What became of one batch, in the words that the pipeline acts on.

An exporter's own answer is not enough: ``SUCCESS`` covers partial rejections and, over HTTP,
redirects; ``FAILURE`` covers a refused batch as well as a collector that is away.
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
    """Not now: the same batch again, after a backoff."""
    REJECTED = "refused"
    """Something in the batch is not acceptable: split it down to that one record."""
    BLOCKED = "hold"
    """Nobody's data is at fault (401, 403, 404): keep everything, warn, ask again now and then."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The fate of one batch.

    Attributes:
        verdict: What to do next.
        reason: For a person, one line, without secrets: ``HTTP 503 Service Unavailable``.
        rejected: Items of a delivered batch that the receiver says it did not take (OTLP partial success).
        retry_after_ns: How long the receiver asked us to wait, nanoseconds, where it did.
    """

    disposition: Disposition
    reason: str = ""
    rejected_count: int = 0
    retry_after_ns: int | None = None


class Sender(Protocol[Batch]):
    """One exporter as the pipeline sees it. ``send`` is called by one thread only, never torch's.

    A batch is a sequence of events or of spans, or a measurement, by the exporter's signal.
    """

    def send(self, batch: Batch) -> ExportResult:
        """Project and export a batch; every fault of the exporter comes back as an outcome."""
        ...

    def cancel(self) -> None:
        """Called from another thread: make a ``send`` that is under way come back soon."""
        ...

    def close(self) -> None:
        """Release what the exporter holds. No ``send`` follows."""
        ...
