"""The worker of an exporter of logs or traces: its cursor in each spool, and the fate of every row.

Guarantees:

- A row is acknowledged after the exporter accepted it, after the receiver rejected it alone and it was quarantined, or
  after it was filtered out; nothing else moves a cursor. So every row is exported at least once, in order for each
  spool.
- Its thread has the guarantees of :mod:`~torchelastic_otel.export.worker`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from torchelastic_otel.errors import SpoolCorruptError, SpoolError
from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.export.result import Disposition, ExportResult, Sender
from torchelastic_otel.export.sources import Item, RowReader, SpoolSource, read_event
from torchelastic_otel.export.worker import ExportWorker, Wait, wait_until_urgent
from torchelastic_otel.spool.records import Row
from torchelastic_otel.units import NS_PER_S

logger = logging.getLogger("torchelastic_otel")

MAX_BATCH_BYTES: Final = 512 * 1024
"""Bytes of event JSON in a batch; encoded it is smaller than 1 MiB (a test checks it)."""
_MAX_READ_FAILURES: Final = 3
_DELIVERED: Final = ExportResult(Disposition.DELIVERED)


class BatchExportWorker(ExportWorker[Sequence[Any]]):
    """See the module's docstring; ``read`` makes items of rows, other arguments are those of :class:`ExportWorker`."""

    disabled_effect = "its records stay in the spool"

    def __init__(
        self,
        name: str,
        make_sender: Callable[[], Sender[Sequence[Any]]],
        config: BatchConfig,
        *,
        read: RowReader = read_event,
        jitter: Callable[[], float] | None = None,
        wait: Wait = wait_until_urgent,
    ) -> None:
        super().__init__(name, make_sender, config, jitter=jitter, wait=wait)
        self._read = read
        self._read_failures: Counter[int] = Counter()  # by identity, consecutive ones

    def add(self, source: SpoolSource) -> None:
        """Export this source, too, from the position of its cursor."""
        source.positions[self.name] = source.spool.cursors()[self.name].position
        self._read_failures.pop(id(source), None)
        super().add(source)
        self._wake.set()

    def has_unsent(self, source: SpoolSource) -> bool:
        """Whether rows are pending for this exporter."""
        cursor = source.spool.cursors().get(self.name)
        return cursor is not None and cursor.pending > 0

    # --- on the worker's thread

    def _attempt(self, sender: Sender[Sequence[Any]], *, flushing: bool) -> int | None:
        """Export what there is, a batch of each source in turn; how long to wait after a failure."""
        more, unreadable = True, False
        while more and not self._stopping:
            more, unreadable = False, False
            for source in self._sources:
                try:
                    with self._sources.use(source) as present:
                        rows = self._read_batch(source) if present else []
                        if not rows:
                            continue
                        result = self._process(sender, source, rows)
                except SpoolError as error:
                    if isinstance(error, SpoolCorruptError) or self._is_abandoned(source):
                        logger.warning("%s; it is not exported from here on", error)
                        self.remove(source)
                    else:
                        self._error, unreadable = str(error), True
                    continue
                if result.disposition is not Disposition.DELIVERED:
                    return self._failed(result)
                self._backoff.reset()
                self._error = ""
                more = True
        return self._failed(ExportResult(Disposition.RETRY, self._error)) if unreadable else None

    def _read_batch(self, source: SpoolSource) -> list[Row]:
        predecessor = source.predecessor
        if predecessor is not None and predecessor in self._sources and self._is_unfinished(predecessor):
            return []
        rows = source.spool.read(self.name, source.positions[self.name], self._config.max_rows, MAX_BATCH_BYTES)
        self._read_failures.pop(id(source), None)
        return rows

    def _is_unfinished(self, source: SpoolSource) -> bool:
        try:
            return bool(source.spool.read(self.name, source.positions[self.name], 1, 1))
        except SpoolError:
            return True  # its own turn counts the failure, and abandons it in time

    def _is_abandoned(self, source: SpoolSource) -> bool:
        """Whether an unreadable source blocks the one that continues it; an adopter of the spool tries again."""
        self._read_failures[id(source)] += 1
        return self._read_failures[id(source)] >= _MAX_READ_FAILURES and any(
            other.predecessor is source for other in self._sources
        )

    def _process(self, sender: Sender[Sequence[Any]], source: SpoolSource, rows: Sequence[Row]) -> ExportResult:
        """Export rows in order; DELIVERED once the cursor is behind the last."""
        items: list[Item] = []
        for row in rows:
            try:
                item = self._read(row, source.origin)
            except ValueError as error:
                # what is before it goes first, so that it is quarantined once, however often that has to be tried
                result = self._export(sender, source, items)
                if result.disposition is not Disposition.DELIVERED:
                    return result
                items = []
                self._quarantine(source, row.sequence, str(error))
            else:
                if item is not None:
                    items.append(item)
        result = self._export(sender, source, items)
        if result.disposition is Disposition.DELIVERED and source.positions[self.name] < rows[-1].sequence:
            self._acknowledge(source, rows[-1].sequence)  # the last rows were filtered out
        return result

    def _export(self, sender: Sender[Sequence[Any]], source: SpoolSource, items: Sequence[Item]) -> ExportResult:
        """Send a batch; a rejected one is halved."""
        if not items:
            return _DELIVERED
        if self._stopping:
            return ExportResult(Disposition.RETRY, "stopping")
        result = self._send(sender, items)
        if result.disposition is Disposition.DELIVERED:
            if result.rejected_count:
                self._log_once(
                    f"the receiver rejected {result.rejected_count} of {len(items)} records: {result.reason}"
                )
            self._acknowledge(source, items[-1].sequence, len(items) - result.rejected_count, result.rejected_count)
            return _DELIVERED
        if result.disposition is not Disposition.REJECTED:
            return result
        if len(items) == 1:
            self._quarantine(source, items[0].sequence, result.reason)
            return _DELIVERED
        half = len(items) // 2
        first = self._export(sender, source, items[:half])
        return first if first.disposition is not Disposition.DELIVERED else self._export(sender, source, items[half:])

    def _acknowledge(self, source: SpoolSource, position: int, delivered: int = 0, rejected: int = 0) -> None:
        source.positions[self.name] = position
        self._delivered += delivered
        self._rejected += rejected
        try:
            source.spool.acknowledge(self.name, position, delivered=delivered, rejected=rejected)
        except SpoolError as error:
            # a disk that cannot store the position: this process does not send the rows again
            logger.debug("%s", error)

    def _quarantine(self, source: SpoolSource, sequence: int, reason: str) -> None:
        self._quarantined += 1
        self._log_once(f"a rejected record is quarantined: {reason}")
        try:
            source.spool.quarantine(self.name, sequence, reason)
        except SpoolError as error:
            logger.debug("%s", error)
        self._acknowledge(source, sequence)

    def _failed(self, result: ExportResult) -> int:
        self._failures += 1
        self._error = result.reason
        if self._stopping:
            return 0
        if result.disposition is Disposition.BLOCKED:
            seconds = self._config.blocked_delay_ns // NS_PER_S
            self._log_once(f"{result.reason}; all records are kept, next attempt every {seconds} s")
        else:
            self._log_once(f"{result.reason}; all records are kept, retrying until they are delivered")
        return self._backoff.next_delay_ns(result)
