"""Stands for tests of routes: a sender that does as it is told, and spools of literal events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.collector import LONGEST_S
from torchelastic_otel.export.result import Disposition, ExportResult
from torchelastic_otel.export.sources import SpoolSource
from torchelastic_otel.model.event import ElasticEvent, Origin, StoredEvent
from torchelastic_otel.spool import store

BOUND = 1 << 22
DELIVERED = ExportResult(Disposition.DELIVERED)


class TestSender:
    """A sender that answers as it is told.

    Attributes:
        answer: An outcome, or a function from the bodies of a batch to one; may block or raise.
        batches: The uids of every batch that was sent, taken or not.
        taken: The uids of what was taken, in order.
        aborted: Set by ``abort``.
        closed: Set by ``close``.
    """

    __test__ = False

    def __init__(self, answer: ExportResult | Callable[[list[str]], ExportResult] = DELIVERED) -> None:
        self.answer = answer
        self.batches: list[list[str]] = []
        self.taken: list[str] = []
        self.aborted = threading.Event()
        self.closed = threading.Event()
        self.changed = threading.Condition()

    def send(self, batch: Sequence[StoredEvent]) -> ExportResult:
        """See ``Sender``."""
        uids = [delivery.uid for delivery in batch]
        with self.changed:
            self.batches.append(uids)
            self.changed.notify_all()
        answer = self.answer
        outcome = answer([delivery.event.body for delivery in batch]) if callable(answer) else answer
        with self.changed:
            if outcome.disposition is Disposition.DELIVERED:
                self.taken += uids
            self.changed.notify_all()
        return outcome

    def cancel(self) -> None:
        """See ``Sender``."""
        self.aborted.set()

    def close(self) -> None:
        """See ``Sender``."""
        self.closed.set()

    def wait_for_batches(self, count: int, timeout: float = LONGEST_S) -> bool:
        """Until so many batches were sent."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.batches) >= count, timeout)

    def wait_for_taken(self, count: int, timeout: float = LONGEST_S) -> bool:
        """Until so many events were taken."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.taken) >= count, timeout)


def refusing(*bad: str) -> Callable[[list[str]], ExportResult]:
    """A receiver that refuses any batch with one of these bodies in it."""

    def answer(bodies: list[str]) -> ExportResult:
        return ExportResult(Disposition.REJECTED, "HTTP 400") if set(bad) & set(bodies) else DELIVERED

    return answer


def event(body: str, destination: str = "null") -> tuple[str, str]:
    """One row."""
    return destination, ElasticEvent("torchelastic.event", destination, body, 1, 2).to_json()


def origin(name: str = "a") -> Origin:
    """A process that never was."""
    return Origin(name, "host-" + name, 1, 1)


def fill(spool: store.Spool, *bodies: str, exporters: Sequence[str] = ("x",)) -> store.Spool:
    """Subscribe, and append."""
    spool.subscribe({name: ["null"] for name in exporters})
    for body in bodies:
        spool.append([event(body)])
    return spool


def source(*bodies: str, name: str = "a", path: Path | None = None, exporters: Sequence[str] = ("x",)) -> SpoolSource:
    """A spool with these events, of an origin of this name."""
    spool = store.create_in_memory(BOUND) if path is None else store.create(path, BOUND)
    return SpoolSource(fill(spool, *bodies, exporters=exporters), origin(name))
