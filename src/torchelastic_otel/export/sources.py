"""What an exporter's thread reads, and what it says of itself.

What always holds: a row becomes the same item at every attempt; what is withheld is acknowledged like what is sent,
and counted as neither delivered nor lost.
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
    """A spool that is delivered from, and whose rows they are.

    Attributes:
        spool: The spool.
        origin: The process the rows come from.
        before: A source of the same process whose rows all come before these.
        positions: How far each route is, also where the spool could not note it.
    """

    spool: Spool
    origin: Origin
    predecessor: SpoolSource | None = None
    positions: dict[str, int] = field(default_factory=dict)


class SourceSet:
    """The spools that one exporter's thread goes through; other threads of ours put them there and take them away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: tuple[SpoolSource, ...] = ()
        self._in_use: SpoolSource | None = None

    def __iter__(self) -> Iterator[SpoolSource]:
        return iter(self._sources)

    def add(self, source: SpoolSource) -> None:
        """Have the thread go through it too, after the others."""
        with self._lock:
            self._sources = (*self._sources, source)

    def remove(self, source: SpoolSource) -> None:
        """Have the thread leave it alone, once it is through with what it has in hand."""
        with self._lock:
            self._sources = tuple(other for other in self._sources if other is not source)

    def is_in_use(self, source: SpoolSource) -> bool:
        """Whether the thread reads it, or sends what it read of it, at this moment: it must not be closed."""
        with self._lock:
            return self._in_use is source

    @contextmanager
    def use(self, source: SpoolSource) -> Iterator[bool]:
        """On the thread: whether it is still here; then it is not closed while the block runs."""
        with self._lock:
            there = source in self._sources
            self._in_use = source if there else None
        try:
            yield there
        finally:
            with self._lock:
                self._in_use = None


@dataclass(frozen=True, slots=True)
class ExporterState:
    """What an exporter's thread is at, for ``doctor``, ``flush``, metrics and tests.

    Attributes:
        name: The exporter's name.
        delivered: Rows accepted since the process started; for metrics, data points.
        rejected: Those of accepted batches that the receiver says it did not take.
        set_aside: Those refused for good.
        failures: Attempts that failed.
        trouble: Why it is not getting on, or the empty string.
    """

    name: str
    delivered: int
    rejected: int
    quarantined: int
    failures: int
    error: str


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """One span on its way to an exporter: the span, where it stands in its spool, where it is from.

    Attributes:
        sequence: Its number in the spool of its origin.
        span: The span.
        origin: The process it comes from.
    """

    sequence: int
    span: ElasticSpan
    origin: Origin


Item: TypeAlias = StoredEvent | StoredSpan
RowReader: TypeAlias = Callable[[Row, Origin], Item | None]
"""The item of a row; ``None`` for one that is not to be sent. Raises ``ValueError`` for one that cannot be read."""


def read_event(row: Row, origin: Origin) -> StoredEvent:
    """The event of a row."""
    return StoredEvent(row.sequence, ElasticEvent.from_json(row.payload), origin)


def read_event_without_heartbeats(row: Row, origin: Origin) -> StoredEvent | None:
    """The event of a row; heartbeats are metrics unless they are asked for as logs."""
    delivery = read_event(row, origin)
    return None if delivery.event.name in semconv.HEARTBEATS else delivery


def span_reader(sampler: Callable[[str], bool]) -> RowReader:
    """A reader of spans that withholds those whose trace is not kept.

    Args:
        sampler: Whether a trace is sampled, by its id.
    """

    def read(row: Row, origin: Origin) -> StoredSpan | None:
        span = ElasticSpan.from_json(row.payload)
        return StoredSpan(row.sequence, span, origin) if sampler(span.trace_id) else None

    return read
