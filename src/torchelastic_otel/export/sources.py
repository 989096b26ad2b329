"""What an export worker reads, and its state.

Guarantees: a row becomes the same item at every attempt; a row that is filtered out is acknowledged like one that is
sent, and counted as neither delivered nor lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent, Origin, StoredEvent
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.spool.records import Row
from torchelastic_otel.spool.store import Spool


@dataclass(slots=True, eq=False)
class SpoolSource:
    """A spool and its origin.

    Attributes:
        spool: The spool.
        origin: The process that wrote the rows.
        predecessor: A source of the same process whose rows all come before these.
        positions: The position of each worker, also if the spool could not store it.
    """

    spool: Spool
    origin: Origin
    predecessor: SpoolSource | None = None
    positions: dict[str, int] = field(default_factory=dict)


class SourceSet:
    """The spools that one worker exports; other threads add and remove them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: tuple[SpoolSource, ...] = ()
        self._in_use: SpoolSource | None = None

    def __iter__(self) -> Iterator[SpoolSource]:
        return iter(self._sources)

    def add(self, source: SpoolSource) -> None:
        """Export it, too, after the others."""
        with self._lock:
            self._sources = (*self._sources, source)

    def remove(self, source: SpoolSource) -> None:
        """Begin nothing more with it."""
        with self._lock:
            self._sources = tuple(other for other in self._sources if other is not source)

    def is_in_use(self, source: SpoolSource) -> bool:
        """Whether the worker reads it, or sends what it read of it, now: then it must not be closed."""
        with self._lock:
            return self._in_use is source

    @contextmanager
    def use(self, source: SpoolSource) -> Iterator[bool]:
        """On the worker's thread: whether it is still present; then it is not closed while the block runs."""
        with self._lock:
            present = source in self._sources
            self._in_use = source if present else None
        try:
            yield present
        finally:
            with self._lock:
                self._in_use = None


@dataclass(frozen=True, slots=True)
class ExporterState:
    """The state of an export worker.

    Attributes:
        name: The name of the exporter's cursor.
        delivered: Rows that were accepted since the process started; for metrics, data points.
        rejected: Those of accepted batches that the receiver rejected (OTLP partial success).
        quarantined: Those that were rejected alone.
        failures: Attempts that failed.
        error: Why the last attempt failed, or the empty string.
    """

    name: str
    delivered: int
    rejected: int
    quarantined: int
    failures: int
    error: str


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """One span of a spool.

    Attributes:
        sequence: Its number in the spool of its origin.
        span: The span.
        origin: The process that wrote it.
    """

    sequence: int
    span: ElasticSpan
    origin: Origin


Item: TypeAlias = StoredEvent | StoredSpan
RowReader: TypeAlias = Callable[[Row, Origin], Item | None]
"""The item of a row; ``None`` for one that is filtered out. Raises ``ValueError`` for one that cannot be read."""


def read_event(row: Row, origin: Origin) -> StoredEvent:
    """The event of a row."""
    return StoredEvent(row.sequence, ElasticEvent.from_json(row.payload), origin)


def read_event_without_heartbeats(row: Row, origin: Origin) -> StoredEvent | None:
    """The event of a row; heartbeats, which are metrics, are filtered out."""
    stored = read_event(row, origin)
    return None if stored.event.name in semconv.HEARTBEATS else stored


def span_reader(sampler: Callable[[str], bool]) -> RowReader:
    """A reader of spans that filters out those whose trace is not sampled."""

    def read(row: Row, origin: Origin) -> StoredSpan | None:
        span = ElasticSpan.from_json(row.payload)
        return StoredSpan(row.sequence, span, origin) if sampler(span.trace_id) else None

    return read
