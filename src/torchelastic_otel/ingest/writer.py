"""On the writer thread: records become rows of the spool, and once no caller waits, the rows become events.

Guarantees: rows are stored in the order in which they were submitted; they are stored unprocessed first, since torch's
thread waits for that, and processed right after; with a redaction hook they are processed first, since what it removes
must be on no disk; if a spool on disk fails, everything continues in memory, with one warning; a row that fails affects
no other; a redaction hook that fails hides more, never less.
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
"""Characters of a text that is stored unprocessed; a longer one is processed, and so bounded, first."""

_NO_META: Final[Mapping[str, str]] = {}
Redact = Callable[[ElasticEvent], ElasticEvent]


class SpoolProvider(Protocol):
    """Provides the writer's spools, and is notified of new rows."""

    @property
    def started_ns(self) -> int:
        """When the process began to be observed, wall clock nanoseconds."""
        ...

    def open_spool(self) -> Spool:
        """This process's spool, on disk or in memory."""
        ...

    def open_memory(self, first_sequence: int) -> Spool:
        """A spool in memory that continues one on disk that failed."""
        ...

    def register(self, destinations: Iterable[str]) -> Mapping[str, str]:
        """Prepare for rows of these destinations; returns the storage key of each."""
        ...

    def on_commit(self) -> None:
        """New rows can be read."""
        ...

    def self_metrics(self) -> SelfMetrics:
        """The metrics of this process that do not come from its events."""
        ...


class Writer:
    """See the header of this file.

    Args:
        provider: Provides the spool, and is notified of new rows.
        redact: Called with every event before it is stored; returns the event to store.
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
        self._state_lock = threading.RLock()  # metrics are collected on another thread
        self._unprocessed: list[tuple[int, str, str]] = []
        self._dropped = 0
        self._redaction_failed = False

    def append(self, records: Sequence[Record]) -> int:
        """Store a batch; returns how many records could not be stored, not even in memory. :meth:`process` follows."""
        raw = [(destination, encode_record(text, *times)) for destination, text, *times in records]
        if self._redact is None and all(len(payload) <= MAX_RAW for _, payload in raw):
            return sum(self._append(batch, raw=True) for batch in _batches(raw, self._spool.append_limit))
        if self._unprocessed:
            self.process()  # in order
        with self._state_lock:
            self._state, done = process(self._state, raw, None if self._redact is None else self._redacted)
            meta = self._state.to_meta()
            if self._redact is not None:
                del meta[CONTEXT_KEY]  # the hook does not see it, and only unprocessed rows need it
            return self._append_all(_rows(done.events) + _rows(done.derived) + _spans(done), meta)

    def process(self) -> None:
        """Make events of the unprocessed rows, and notify the provider; no thread of torch's waits for this."""
        if self._unprocessed:
            rows, self._unprocessed = self._unprocessed, []
            sequences = [sequence for sequence, _, _ in rows]
            with self._state_lock:
                self._state, done = process(self._state, [(destination, raw) for _, destination, raw in rows])
                meta = self._state.to_meta()
                events, derived = _rows(done.events), _rows(done.derived) + _spans(done)
                try:
                    processed = [(sequence, line) for sequence, (_, line) in zip(sequences, events, strict=True)]
                    _, dropped = self._spool.commit_processed(processed, meta, self._keyed(derived) if derived else [])
                    self._note_dropped(dropped)
                except SpoolError as error:
                    # they stay unprocessed in the failed spool; its adopter delivers them again, with the same uid
                    self._fall_back_to_memory(error, sequences[0])
                    self._append_all(events + derived, meta)
        self._provider.on_commit()
        self._spool.checkpoint()

    # --- MetricSource; on any thread

    def collect(self) -> Snapshot:
        """All metrics of this moment."""
        self_metrics = self._provider.self_metrics()
        with self._state_lock:
            taken, state = snapshot(
                self._state.metrics,
                now_wall_ns=self._wall_ns(),
                now_monotonic_ns=self._monotonic_ns(),
                self_metrics=self_metrics,
            )
            self._store_metrics(state)
        return taken

    def commit(self, accepted: Snapshot) -> bool:
        """A snapshot was accepted, so its series have begun; returns whether another one should follow soon."""
        with self._state_lock:
            held_back = self._state.metrics.withheld
            state = acknowledge(self._state.metrics, accepted)
            self._store_metrics(state)
        return held_back

    def _store_metrics(self, state: MetricState) -> None:
        """Store the metrics; with the lock held, so that older ones never replace newer ones."""
        self._state = replace(self._state, metrics=state)
        try:
            self._spool.put_meta(METRICS_KEY, state.to_json())
        except SpoolError as error:
            logger.debug("%s", error)  # the next rows go to memory, and the metrics with them

    def should_collect(self) -> bool:
        """Whether series must begin, as 0, before they rise."""
        return should_collect(self._state.metrics)

    def _append_all(self, rows: list[tuple[str, str]], meta: Mapping[str, str]) -> int:
        """Store processed rows, and with the last of them the state after them."""
        batches = list(_batches(rows, self._spool.append_limit))
        return sum(self._append(batch, raw=False, meta=meta if batch is batches[-1] else _NO_META) for batch in batches)

    def _append(self, rows: list[tuple[str, str]], *, raw: bool, meta: Mapping[str, str] = _NO_META) -> int:
        try:
            first, dropped = self._spool.append(self._keyed(rows), unprocessed=raw, meta=meta)
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

    def _keyed(self, rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
        keys = self._provider.register({destination for destination, _ in rows})
        return [(keys[destination], row) for destination, row in rows]

    def _note_dropped(self, dropped: int) -> None:
        if dropped and not self._dropped:
            logger.warning(
                "the spool is full: the oldest undelivered events are dropped, and counted (torchelastic-otel"
                " doctor); raise TORCHELASTIC_OTEL_SPOOL_MAX_BYTES, or restore the collector"
            )
        self._dropped += dropped

    def _fall_back_to_memory(self, why: SpoolError, first_sequence: int) -> None:
        if self._spool.path is not None:
            logger.warning("%s; events are stored in memory from here on, and are lost if the agent is killed", why)
            self._spool = self._provider.open_memory(first_sequence)

    def _redacted(self, event: ElasticEvent) -> ElasticEvent:
        """The event as the redaction hook returns it."""
        try:
            redacted = self._redact(event) if self._redact is not None else event
            if not isinstance(redacted, ElasticEvent):
                raise TypeError(f"a redaction hook must return an ElasticEvent, not {type(redacted).__name__}")
            return ElasticEvent.from_json(redacted.to_json())
        except BaseException as error:  # noqa: BLE001 - a hook that calls sys.exit() fails like any other
            guard.suppress(error)
            if not self._redaction_failed:
                self._redaction_failed = True
                logger.warning(
                    "the redaction hook failed (%s): such events are stored without their text fields", error
                )
        # any text may be what the hook was to hide
        kept = {name: value for name, value in event.attributes.items() if isinstance(value, (bool, int, float))}
        return replace(event, body="[withheld: the redaction hook failed]", attributes=kept)


def _rows(events: Iterable[ElasticEvent]) -> list[tuple[str, str]]:
    return [(event.destination, event.to_json()) for event in events]


def _spans(done: ProcessResult) -> list[tuple[str, str]]:
    return [(SPANS, span.to_json()) for span in done.spans]


def _batches(rows: Iterable[tuple[str, str]], max_bytes: int) -> Iterator[list[tuple[str, str]]]:
    """The rows in batches that a spool accepts; a row that is larger has a batch of its own."""
    batch: list[tuple[str, str]] = []
    size = 0
    for row in rows:
        length = row_bytes(*row)
        if batch and size + length > max_bytes:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch
