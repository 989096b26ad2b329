"""On the writer thread: what was seen becomes rows, and once nobody waits, the rows become events.

What always holds: rows stand in the spool in the order in which they were handed over; they are kept raw first,
since a caller of torch's waits for that, and settled right after; with a redaction hook they are read first,
since what it takes away must be on no disk; when a spool on disk fails, everything goes on in memory, once and with
one warning; one row that is at fault costs no other; a redaction hook that fails hides more, never less.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.standing import Standing
from torchelastic_otel.settling import STANDING_KEY, raw_payload, read
from torchelastic_otel.spool.store import Spool, SpoolError, SpoolTooSmallError, row_bytes

if TYPE_CHECKING:
    from torchelastic_otel.capture.inlet import Observation

logger = logging.getLogger("torchelastic_otel")

MAX_RAW: Final = 64 * 1024
"""Characters of a text that is kept raw; a longer one is read, and so bounded, first."""

Redact = Callable[[ElasticEvent], ElasticEvent]


class Landing(Protocol):
    """Where the writer gets its spools from, and whom it tells."""

    def open_spool(self) -> Spool:
        """A new spool for this process, on disk or in memory."""
        ...

    def open_memory(self, first_sequence: int) -> Spool:
        """A spool in memory that goes on where one on disk failed."""
        ...

    def seen(self, destinations: Iterable[str]) -> Mapping[str, str]:
        """Rows of these destinations come next; the key that rows of each are kept under."""
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
        self._unsettled: list[tuple[int, str, str]] = []
        self._dropped = 0
        self._redaction_failed = False

    def keep(self, observations: Sequence[Observation]) -> int:
        """Keep a batch; how many of it could not be kept, not even in memory. :meth:`settle` comes next."""
        raw = [(destination, raw_payload(text, *times)) for destination, text, *times in observations]
        if self._redact is None and all(len(payload) <= MAX_RAW for _, payload in raw):
            return sum(self._append(portion, raw=True) for portion in _portions(raw, self._spool.append_limit))
        self._standing, events = read(self._standing, raw)
        rows = [(event.destination, self._written(event)) for event in events]
        return sum(self._append(portion, raw=False) for portion in _portions(rows, self._spool.append_limit))

    def settle(self) -> None:
        """Make events of what was kept raw, and tell the landing; nobody of torch's waits for this."""
        if self._unsettled:
            unsettled, self._unsettled = self._unsettled, []
            self._standing, events = read(self._standing, [(destination, raw) for _, destination, raw in unsettled])
            written = [event.to_json() for event in events]
            sequences = [sequence for sequence, _, _ in unsettled]
            try:
                self._spool.settle(list(zip(sequences, written, strict=True)), (STANDING_KEY, self._standing.to_json()))
            except SpoolError as error:
                # they stay raw in the spool that failed; whoever adopts it delivers them again, with the same uid
                self._go_on_in_memory(error, sequences[0])
                self._append(
                    [(event.destination, line) for event, line in zip(events, written, strict=True)], raw=False
                )
        self._landing.committed()
        self._spool.tidy()

    def _append(self, rows: list[tuple[str, str]], *, raw: bool) -> int:
        try:
            keys = self._landing.seen({destination for destination, _ in rows})
            first, dropped = self._spool.append([(keys[destination], row) for destination, row in rows], raw=raw)
        except SpoolError as error:
            if self._spool.path is None or isinstance(error, SpoolTooSmallError):
                guard.kept_in(error)
                return len(rows)
            self.settle()
            self._go_on_in_memory(error, self._spool.last_sequence + 1)
            return self._append(rows, raw=raw)
        if raw:
            self._unsettled += [(first + i, *row) for i, row in enumerate(rows)]
        if dropped and not self._dropped:
            logger.warning(
                "the spool is full: the oldest undelivered events are dropped, and counted (torchelastic-otel"
                " doctor); raise TORCHELASTIC_OTEL_SPOOL_MAX_BYTES, or bring the collector back"
            )
        self._dropped += dropped
        return 0

    def _go_on_in_memory(self, why: SpoolError, first_sequence: int) -> None:
        if self._spool.path is not None:
            logger.warning("%s; events are kept in memory from here on and are lost if the agent is killed", why)
            self._spool = self._landing.open_memory(first_sequence)

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
            if not self._redaction_failed:
                self._redaction_failed = True
                logger.warning("the redaction hook failed (%s): the texts of such events are withheld", error)
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
