"""On the writer thread: what was seen becomes events, and events become rows.

What always holds: rows stand in the spool in the order in which they were handed over; the agent's standing
moves with them; when a spool on disk fails, everything goes on in memory, once and with one warning; one
row that is at fault costs no other; a redaction hook that fails hides more, never less.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.normalise import normalise
from torchelastic_otel.model.standing import Standing, enrich
from torchelastic_otel.spool.store import Spool, SpoolError, SpoolTooSmallError, row_bytes

if TYPE_CHECKING:
    from torchelastic_otel.capture.inlet import Observation

logger = logging.getLogger("torchelastic_otel")

Redact = Callable[[ElasticEvent], ElasticEvent]


class Landing(Protocol):
    """Where the writer gets its spools from, and whom it tells."""

    def open_spool(self) -> Spool:
        """A new spool for this process, on disk or in memory."""
        ...

    def open_memory(self, first_sequence: int) -> Spool:
        """A spool in memory that goes on where one on disk failed."""
        ...

    def seen(self, destinations: Iterable[str]) -> None:
        """Rows of these destinations come next."""
        ...

    def committed(self) -> None:
        """New rows can be read."""
        ...


class Writer:
    """Keeps observations in a spool. See the header of this file.

    Args:
        landing: Gives the spool, and is told of new rows.
        redact: Called with every event before it is kept; returns the event to keep.
    """

    def __init__(self, landing: Landing, redact: Redact | None = None) -> None:
        self._landing = landing
        self._redact = redact
        self._spool = landing.open_spool()
        self._standing = Standing(restart_count=0)
        self._dropped = 0

    def keep(self, observations: Iterable[Observation]) -> int:
        """Keep a batch; how many of it could not be kept, not even in memory."""
        rows = []
        for destination, text, wall_ns, monotonic_ns in observations:
            event = normalise(text, destination, time_ns=wall_ns, observed_ns=wall_ns, monotonic_ns=monotonic_ns)
            self._standing, event = enrich(self._standing, event)
            rows.append((destination, self._written(event)))
        return sum(self._append(portion) for portion in _portions(rows, self._spool.append_limit))

    def _append(self, rows: list[tuple[str, str]]) -> int:
        try:
            self._landing.seen({destination for destination, _ in rows})
            _, dropped = self._spool.append(rows)
        except SpoolError as error:
            if self._spool.path is None or isinstance(error, SpoolTooSmallError):
                guard.kept_in(error)
                return len(rows)
            logger.warning("%s; events are kept in memory from here on and are lost if the agent is killed", error)
            self._spool = self._landing.open_memory(self._spool.last_sequence + 1)
            return self._append(rows)
        if dropped and not self._dropped:
            logger.warning(
                "the spool is full: the oldest undelivered events are dropped, and counted (torchelastic-otel"
                " doctor); raise TORCHELASTIC_OTEL_SPOOL_MAX_BYTES, or bring the collector back"
            )
        self._dropped += dropped
        self._landing.committed()
        return 0

    def _written(self, event: ElasticEvent) -> str:
        """The event as the redaction hook lets it out, as JSON."""
        if self._redact is None:
            return event.to_json()
        try:
            redacted = self._redact(event)
            if not isinstance(redacted, ElasticEvent):
                raise TypeError(f"a redaction hook returns an ElasticEvent, this one {type(redacted).__name__}")
            return redacted.to_json()
        except BaseException as error:  # noqa: BLE001 - a hook that calls sys.exit() is broken like any other
            guard.kept_in(error)
        # what a broken hook was to hide must not get out because it is broken, and any text may be that
        kept = {name: value for name, value in event.attributes.items() if isinstance(value, (bool, int, float))}
        return replace(event, body="[withheld: the redaction hook failed]", attributes=kept).to_json()


def _portions(rows: Iterable[tuple[str, str]], max_bytes: int) -> Iterator[list[tuple[str, str]]]:
    """The rows in portions that a spool takes at once; a row that is larger has one of its own."""
    portion: list[tuple[str, str]] = []
    size = 0
    for row in rows:
        length = row_bytes(*row)
        if portion and size + length > max_bytes:
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += length
    if portion:
        yield portion
