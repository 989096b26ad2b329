"""One exporter's own way through the spools: its cursor in each, and what becomes of every row.

What always holds:

- A row is acknowledged after the exporter accepted it, or set aside after the receiver refused it alone, or withheld
  because nobody asked for it; nothing else moves a cursor. So every row gets there at least once, in order for
  each spool.
- Its thread keeps what :mod:`~torchelastic_otel.export.worker` promises.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from torchelastic_otel.errors import SpoolCorruptError, SpoolError
from torchelastic_otel.export.backoff import Backoff, BatchConfig
from torchelastic_otel.export.result import Disposition, ExportResult, Sender
from torchelastic_otel.export.sources import Item, Read, SourceSet, SpoolSource, read_event
from torchelastic_otel.export.worker import ExportWorker, Rest, rest_until_urgent
from torchelastic_otel.guard import guard
from torchelastic_otel.spool.records import Row
from torchelastic_otel.units import NS_PER_S

logger = logging.getLogger("torchelastic_otel")

MAX_BATCH_BYTES: Final = 512 * 1024
"""Bytes of event JSON in a batch; encoded it stays below 1 MiB (held by a test)."""
_MOST_UNREAD: Final = 3


class BatchExportWorker(ExportWorker[Sequence[Any]]):
    """See the header of this file.

    Args:
        name: The name of the exporter's cursor.
        make_sender: Makes the exporter's sender; called on the route's thread.
        pace: How it goes about it.
        read: Makes items of rows.
        jitter: From 0 to 1, for backoffs.
        rest: In place of the machine's clock.
    """

    when_off = "its events stay in the spool"

    def __init__(
        self,
        name: str,
        make_sender: Callable[[], Sender[Sequence[Any]]],
        pace: BatchConfig,
        *,
        read: Read = read_event,
        jitter: Callable[[], float] | None = None,
        rest: Rest = rest_until_urgent,
    ) -> None:
        super().__init__(name, make_sender, pace, rest)
        self._read = read
        self._patience = Backoff(pace, jitter)
        self._shelf = SourceSet()
        self._unread: Counter[int] = Counter()  # by identity, how often in a row

    def add(self, source: SpoolSource) -> None:
        """Deliver this source too, from where its cursor stands."""
        source.positions[self.name] = source.spool.cursors()[self.name].position
        self._unread.pop(id(source), None)
        self._shelf.put(source)
        self._wake.set()

    def remove(self, source: SpoolSource) -> None:
        """Leave a source alone from the next batch on."""
        self._shelf.take_away(source)

    def is_at(self, source: SpoolSource) -> bool:
        """Whether a batch of this source is being read, sent or acknowledged at this moment."""
        return self._shelf.is_in_hand(source)

    # --- on the route's thread

    def _attempt(self, sender: Sender[Sequence[Any]], *, asked: bool) -> int | None:
        """Deliver what there is, a batch of each source in turn; how long to wait after a failure."""
        more, unread = True, False
        while more and not self._stopping:
            more, unread = False, False
            for source in self._shelf:
                try:
                    with self._shelf.take_in_hand(source) as there:
                        rows = self._next(source) if there else []
                        if not rows:
                            continue
                        outcome = self._send(sender, source, rows)
                except SpoolError as error:
                    if isinstance(error, SpoolCorruptError) or self._is_given_up(source):
                        logger.warning("%s; it is left alone from here on", error)
                        self.remove(source)
                    else:
                        self._trouble, unread = str(error), True
                    continue
                if outcome.verdict is not Disposition.DELIVERED:
                    return self._failed(outcome)
                self._patience.reset()
                self._trouble = ""
                more = True
        return self._failed(ExportResult(Disposition.RETRY, self._trouble)) if unread else None

    def _next(self, source: SpoolSource) -> list[Row]:
        before = source.before
        if before is not None and before in self._shelf and self._is_unfinished(before):
            return []
        rows = source.spool.read(self.name, source.positions[self.name], self._pace.max_rows, MAX_BATCH_BYTES)
        self._unread.pop(id(source), None)
        return rows

    def _is_unfinished(self, before: SpoolSource) -> bool:
        try:
            return bool(before.spool.read(self.name, before.positions[self.name], 1, 1))
        except SpoolError:
            return True  # it is asked for itself, and given up in time

    def _is_given_up(self, source: SpoolSource) -> bool:
        """Whether a disk that cannot be read holds up what is kept elsewhere since; whoever adopts it tries again."""
        self._unread[id(source)] += 1
        return self._unread[id(source)] >= _MOST_UNREAD and any(other.before is source for other in self._shelf)

    def _send(self, sender: Sender[Sequence[Any]], source: SpoolSource, rows: Sequence[Row]) -> ExportResult:
        """Send rows in order; DELIVERED once the cursor stands behind the last."""
        readable: list[Item] = []
        for row in rows:
            try:
                item = self._read(row, source.origin)
            except ValueError as error:
                # what is before it goes first, so that it is set aside once, however often that has to be tried
                outcome = self._export(sender, source, readable)
                if outcome.verdict is not Disposition.DELIVERED:
                    return outcome
                readable = []
                self._put_aside(source, row.sequence, str(error))
            else:
                if item is not None:
                    readable.append(item)
        outcome = self._export(sender, source, readable)
        if outcome.verdict is Disposition.DELIVERED and source.positions[self.name] < rows[-1].sequence:
            self._acknowledge(source, rows[-1].sequence, 0, outcome)  # what came last was withheld
        return outcome

    def _export(self, sender: Sender[Sequence[Any]], source: SpoolSource, items: Sequence[Item]) -> ExportResult:
        """Send a batch, halving what is refused."""
        if not items:
            return ExportResult(Disposition.DELIVERED)
        if self._stopping:
            return ExportResult(Disposition.RETRY, "stopping")
        try:
            outcome = sender.send(items)
        except BaseException as error:  # noqa: BLE001 - a sender promises not to; if it does, the data may be why
            guard.suppress(error)
            outcome = ExportResult(Disposition.REFUSED, f"{type(error).__name__}: {error}")
        if outcome.verdict is Disposition.DELIVERED:
            self._acknowledge(source, items[-1].sequence, len(items), outcome)
            return ExportResult(Disposition.DELIVERED)
        if outcome.verdict is Disposition.REFUSED:
            if len(items) == 1:
                self._put_aside(source, items[0].sequence, outcome.reason)
                return ExportResult(Disposition.DELIVERED)
            half = len(items) // 2
            first = self._export(sender, source, items[:half])
            return first if first.verdict is not Disposition.DELIVERED else self._export(sender, source, items[half:])
        return outcome

    def _acknowledge(self, source: SpoolSource, position: int, rows: int, outcome: ExportResult) -> None:
        source.positions[self.name] = position
        self._delivered += rows - outcome.rejected
        self._rejected += outcome.rejected
        if outcome.rejected:
            self._say(f"the receiver did not take {outcome.rejected} of {rows} records: {outcome.reason}")
        try:
            source.spool.acknowledge(self.name, position, delivered=rows - outcome.rejected, rejected=outcome.rejected)
        except SpoolError as error:
            # a disk that cannot note it: no reason to send it again while this process lives
            logger.debug("%s", error)

    def _put_aside(self, source: SpoolSource, sequence: int, why: str) -> None:
        self._set_aside += 1
        self._say(f"a record is refused and set aside: {why}")
        try:
            source.spool.quarantine(self.name, sequence, why)
        except SpoolError as error:
            logger.debug("%s", error)
        self._acknowledge(source, sequence, 0, ExportResult(Disposition.DELIVERED))

    def _failed(self, outcome: ExportResult) -> int:
        self._failures += 1
        self._trouble = outcome.reason
        if self._stopping:
            return 0
        if outcome.verdict is Disposition.HOLD:
            self._say(f"{outcome.reason}; everything is kept, asking again every {self._pace.hold_ns // NS_PER_S} s")
        else:
            self._say(f"{outcome.reason}; everything is kept, trying again until it is delivered")
        return self._patience.after(outcome)
