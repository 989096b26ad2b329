"""On the writer thread: what was seen becomes rows, and once nobody waits, the rows become events.

What always holds: rows stand in the spool in the order in which they were handed over; they are kept raw first,
since a caller of torch's waits for that, and settled right after; with a redaction hook they are read first,
since what it takes away must be on no disk; when a spool on disk fails, everything goes on in memory, once and with
one warning; one row that is at fault costs no other; a redaction hook that fails hides more, never less.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from torchelastic_otel.errors import SpoolError, SpoolTooSmallError
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.metric import Snapshot
from torchelastic_otel.processing.metrics.self_metrics import SelfMetrics
from torchelastic_otel.processing.metrics.snapshot import acknowledge, should_collect, snapshot
from torchelastic_otel.processing.processor import (
    CONTEXT_KEY,
    METRICS_KEY,
    SPANS,
    ProcessorState,
    ProcessResult,
    encode_record,
    process,
)
from torchelastic_otel.spool.records import row_bytes
from torchelastic_otel.spool.store import Spool

if TYPE_CHECKING:
    from torchelastic_otel.ingest.queue import Record
    from torchelastic_otel.processing.metrics import MetricState

logger = logging.getLogger("torchelastic_otel")

MAX_RAW: Final = 64 * 1024
"""Characters of a text that is kept raw; a longer one is read, and so bounded, first."""

_NO_META: Final[Mapping[str, str]] = {}
Redact = Callable[[ElasticEvent], ElasticEvent]


class SpoolProvider(Protocol):
    """Where the writer gets its spools from, and whom it tells."""

    @property
    def started_ns(self) -> int:
        """When the process began to be watched, wall clock nanoseconds."""
        ...

    def open_spool(self) -> Spool:
        """A new spool for this process, on disk or in memory."""
        ...

    def open_memory(self, first_sequence: int) -> Spool:
        """A spool in memory that goes on where one on disk failed."""
        ...

    def register(self, destinations: Iterable[str]) -> Mapping[str, str]:
        """Rows of these destinations come next; the key that rows of each are kept under."""
        ...

    def on_commit(self) -> None:
        """New rows can be read."""
        ...


class Writer:
    """Keeps observations in a spool. See the header of this file.

    Args:
        landing: Gives the spool, and is told of new rows.
        redact: Called with every event before it is kept; returns the event to keep.
        wall_ns: The wall clock, nanoseconds since the epoch.
        monotonic_ns: The monotonic clock, nanoseconds.
    """

    def __init__(
        self,
        provider: SpoolProvider,
        redact: Redact | None = None,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._provider = provider
        self._redact = redact
        self._spool = provider.open_spool()
        self._state = ProcessorState.initial(provider.started_ns)
        self._state_lock = threading.RLock()  # among our own threads: the numbers are asked for from another one
        self._unprocessed: list[tuple[int, str, str]] = []
        self._dropped = 0
        self._redaction_failed = False

    def append(self, records: Sequence[Record]) -> int:
        """Keep a batch; how many of it could not be kept, not even in memory. :meth:`settle` comes next."""
        raw = [(destination, encode_record(text, *times)) for destination, text, *times in records]
        if self._redact is None and all(len(payload) <= MAX_RAW for _, payload in raw):
            return sum(self._append(portion, raw=True) for portion in _batches(raw, self._spool.append_limit))
        if self._unprocessed:
            self.process()  # what came before is read before
        with self._state_lock:
            self._state, done = process(self._state, raw, None if self._redact is None else self._redacted)
            meta = self._state.to_meta()
            if self._redact is not None:
                del meta[CONTEXT_KEY]  # it is not looked at by the hook, and without raw rows nobody asks for it
            return self._append_all(_rows(done.events) + _rows(done.derived) + _spans(done), meta)

    def process(self) -> None:
        """Make events of what was kept raw, and tell the landing; nobody of torch's waits for this."""
        if self._unprocessed:
            unsettled, self._unprocessed = self._unprocessed, []
            sequences = [sequence for sequence, _, _ in unsettled]
            with self._state_lock:
                self._state, done = process(self._state, [(destination, raw) for _, destination, raw in unsettled])
                meta = self._state.to_meta()
                written = _rows(done.events)
                more = _rows(done.derived) + _spans(done)
                try:
                    keys = self._provider.register({destination for destination, _ in more}) if more else {}
                    keyed = [(keys[destination], row) for destination, row in more]
                    settled = [(sequence, line) for sequence, (_, line) in zip(sequences, written, strict=True)]
                    _, dropped = self._spool.commit_processed(settled, meta, keyed)
                    self._note_dropped(dropped)
                except SpoolError as error:
                    # they stay raw in the spool that failed; whoever adopts it delivers them again, with the same uid
                    self._fall_back_to_memory(error, sequences[0])
                    self._append_all(written + more, meta)
        self._provider.on_commit()
        self._spool.checkpoint()

    def collect(self, outside: SelfMetrics) -> Snapshot:
        """The numbers of this process at this moment; from any thread of ours.

        Args:
            outside: What does not come from events.
        """
        with self._state_lock:
            taken, tally = snapshot(
                self._state.metrics,
                now_wall_ns=self._wall_ns(),
                now_monotonic_ns=self._monotonic_ns(),
                self_metrics=outside,
            )
            self._store_metrics(tally)
        return taken

    def commit(self, accepted: Snapshot) -> bool:
        """A snapshot was accepted: its series have begun; whether it held something back that wants another one."""
        with self._state_lock:
            held_back = self._state.metrics.withheld
            tally = acknowledge(self._state.metrics, accepted)
            self._store_metrics(tally)
        return held_back

    def _store_metrics(self, tally: MetricState) -> None:
        """Keep the numbers as they are told; with the lock, so that older ones never take the place of newer ones."""
        self._state = replace(self._state, metrics=tally)
        try:
            self._spool.put_meta(METRICS_KEY, tally.to_json())
        except SpoolError as error:
            logger.debug("%s", error)  # the next rows go to memory, and the numbers with them

    def should_collect(self) -> bool:
        """Whether there are series that must begin before what they count is told."""
        return should_collect(self._state.metrics)

    def _append_all(self, rows: list[tuple[str, str]], meta: Mapping[str, str]) -> int:
        """Keep rows that are read, and with the last of them what is known then."""
        portions = list(_batches(rows, self._spool.append_limit))
        return sum(
            self._append(portion, raw=False, meta=meta if portion is portions[-1] else _NO_META) for portion in portions
        )

    def _append(self, rows: list[tuple[str, str]], *, raw: bool, meta: Mapping[str, str] = _NO_META) -> int:
        try:
            keys = self._provider.register({destination for destination, _ in rows})
            keyed = [(keys[destination], row) for destination, row in rows]
            first, dropped = self._spool.append(keyed, unprocessed=raw, meta=meta)
        except SpoolError as error:
            if self._spool.path is None or isinstance(error, SpoolTooSmallError):
                guard.suppress(error)
                return len(rows)
            self.process()
            self._fall_back_to_memory(error, self._spool.last_sequence + 1)
            return self._append(rows, raw=raw, meta=meta)
        if raw:
            self._unprocessed += [(first + i, *row) for i, row in enumerate(rows)]
        self._note_dropped(dropped)
        return 0

    def _note_dropped(self, dropped: int) -> None:
        if dropped and not self._dropped:
            logger.warning(
                "the spool is full: the oldest undelivered events are dropped, and counted (torchelastic-otel"
                " doctor); raise TORCHELASTIC_OTEL_SPOOL_MAX_BYTES, or bring the collector back"
            )
        self._dropped += dropped

    def _fall_back_to_memory(self, why: SpoolError, first_sequence: int) -> None:
        if self._spool.path is not None:
            logger.warning("%s; events are kept in memory from here on and are lost if the agent is killed", why)
            self._spool = self._provider.open_memory(first_sequence)

    def _redacted(self, event: ElasticEvent) -> ElasticEvent:
        """The event as the redaction hook lets it out."""
        try:
            redacted = self._redact(event) if self._redact is not None else event
            if not isinstance(redacted, ElasticEvent):
                raise TypeError(f"a redaction hook returns an ElasticEvent, this one {type(redacted).__name__}")
            return ElasticEvent.from_json(redacted.to_json())
        except BaseException as error:  # noqa: BLE001 - a hook that calls sys.exit() is broken like any other
            guard.suppress(error)
            if not self._redaction_failed:
                self._redaction_failed = True
                logger.warning("the redaction hook failed (%s): the texts of such events are withheld", error)
        # what a broken hook was to hide must not get out because it is broken, and any text may be that
        kept = {name: value for name, value in event.attributes.items() if isinstance(value, (bool, int, float))}
        return replace(event, body="[withheld: the redaction hook failed]", attributes=kept)


def _rows(events: Iterable[ElasticEvent]) -> list[tuple[str, str]]:
    return [(event.destination, event.to_json()) for event in events]


def _spans(done: ProcessResult) -> list[tuple[str, str]]:
    return [(SPANS, span.to_json()) for span in done.spans]


def _batches(rows: Iterable[tuple[str, str]], max_bytes: int) -> Iterator[list[tuple[str, str]]]:
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
