"""Delivering what dead processes left: which spools this process takes over, for how long, and what became of them.

What always holds:

- A dead process's spool is read only by routes that this process has anyway, under the lock of the spool, and
  keeps its own resource. What nobody here can deliver is left as it is.
- One spool that cannot be read, or that an exporter does not take, keeps no other waiting.
- A spool is closed only when no exporter's thread has it in hand: what it is sending would be sent again by the next.
- Nothing here runs on a thread of torch's.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torchelastic_otel.errors import SpoolCorruptError, SpoolError
from torchelastic_otel.export.batch_worker import BatchExportWorker
from torchelastic_otel.export.destinations import EPHEMERAL_EXPORTERS
from torchelastic_otel.export.metric_worker import PeriodicMetricWorker
from torchelastic_otel.export.sources import SpoolSource
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import Origin
from torchelastic_otel.processing.processor import ORIGIN_KEY, process_remaining
from torchelastic_otel.spool import adoption
from torchelastic_otel.spool.records import CursorState

logger = logging.getLogger("torchelastic_otel")

MOST_AT_ONCE: Final = 8
_REMEMBERED: Final = 1_000


@dataclass(frozen=True, slots=True)
class Adopted:
    """What became of a spool that a dead process left.

    Attributes:
        path: Its file when it was adopted.
        origin: The process it is from.
        events: Rows that were pending when it was adopted.
        left: Rows that are pending still.
        before: Its cursors when it was adopted, by the exporters' names.
        after: Its cursors when it was let go.
        numbers: The metrics exporters that were told the last of its numbers.
    """

    path: Path
    origin: Origin
    events: int
    left: int
    before: Mapping[str, CursorState]
    after: Mapping[str, CursorState]
    numbers: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Adoption:
    owned: adoption.OwnedSpool
    source: SpoolSource
    routes: tuple[BatchExportWorker, ...]
    metrics: tuple[PeriodicMetricWorker, ...]
    pending: int
    cursors: Mapping[str, CursorState]

    @property
    def exporters(self) -> tuple[BatchExportWorker | PeriodicMetricWorker, ...]:
        """Who delivers it here."""
        return (*self.routes, *self.metrics)


class OrphanAdopter:
    """See the header of this file.

    Args:
        directory: Where dead processes' spools are looked for.
        max_bytes: The bound of a spool, bytes.
        routes: The routes of this process by name, as they are at the time of asking.
        metrics: Its metrics routes, likewise.
        pause_ns: How long nothing is taken over after something got nowhere, nanoseconds.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        routes: Callable[[], Mapping[str, BatchExportWorker]],
        metrics: Callable[[], Mapping[str, PeriodicMetricWorker]],
        pause_ns: int = 0,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._routes = routes
        self._metrics = metrics
        self._pause_ns = pause_ns
        self._not_before_ns = 0
        self._adoptions: list[_Adoption] = []
        self._leaving: list[_Adoption] = []
        self._adopted: deque[Adopted] = deque(maxlen=_REMEMBERED)

    @property
    def busy(self) -> bool:
        """Whether a dead process's spool is being delivered."""
        return bool(self._adoptions or self._leaving)

    @property
    def held(self) -> frozenset[Path]:
        """The spools of dead processes that this one holds now."""
        return frozenset(each.owned.path for each in (*self._adoptions, *self._leaving))

    def report(self) -> list[Adopted]:
        """What was let go since this was asked last, delivered or not."""
        done = list(self._adopted)
        self._adopted.clear()
        return done

    def scan(self) -> None:
        """Let go of what is delivered or gets nowhere, and take over what dead processes left.

        Where something got nowhere, nothing is taken over for a while: opening a large spool is work.
        """
        if self.release():
            self._not_before_ns = time.monotonic_ns() + self._pause_ns
        if self.busy or time.monotonic_ns() < self._not_before_ns or not (self._routes() or self._metrics()):
            return
        adoption.delete_expired(self._directory, time.time_ns(), self._max_bytes)
        for owned in adoption.adopt(self._directory, self._max_bytes):
            self._judge(owned)
            if len(self._adoptions) >= MOST_AT_ONCE:
                break

    def run_once(self, attempt: Callable[[int], object], timeout_ns: int) -> None:
        """Take over each dead process's spool in turn and give it one attempt; on the caller's thread.

        Args:
            attempt: Delivers what there is, once, within nanoseconds.
            timeout_ns: When to begin no further attempt, nanoseconds.
        """
        until = time.monotonic_ns() + timeout_ns

        def try_once() -> None:
            if self._adoptions:
                attempt(max(0, until - time.monotonic_ns()))
                self.release(everything=True)

        adoption.delete_expired(self._directory, time.time_ns(), self._max_bytes)
        for owned in adoption.adopt(self._directory, self._max_bytes):
            self._judge(owned)
            if len(self._adoptions) >= MOST_AT_ONCE:
                try_once()
            if time.monotonic_ns() >= until:
                break
        try_once()

    def _judge(self, owned: adoption.OwnedSpool) -> None:
        """Take over a spool or let go of it; one that cannot be read must not keep the others waiting."""
        with guard:
            try:
                if not self._take_over(owned):
                    owned.release()
            except (SpoolCorruptError, ValueError) as error:
                owned.quarantine(f"spool {owned.path}: {error}")
            except Exception as error:
                # a full disk, or a fault of ours: others may do better, and must not find it locked
                logger.warning("spool %s cannot be taken over: %s", owned.path, error)
                owned.release(owes=True)
                if not isinstance(error, (SpoolError, OSError)):
                    raise

    def _take_over(self, owned: adoption.OwnedSpool) -> bool:
        text = owned.spool.meta(ORIGIN_KEY)
        if text is None:
            return False  # its process died before it kept anything
        process_remaining(owned.spool)
        cursors = owned.spool.cursors()
        for name in EPHEMERAL_EXPORTERS & cursors.keys():
            owned.spool.acknowledge(name, owned.spool.last_sequence)
        owed = {name for name, cursor in cursors.items() if cursor.pending} - EPHEMERAL_EXPORTERS
        own = self._routes()
        routes = tuple(own[name] for name in owed if name in own)
        source = SpoolSource(owned.spool, Origin.from_json(text))
        metrics = tuple(each for each in list(self._metrics().values()) if each.owes(source))
        if not routes and not metrics:
            return False
        adopted = _Adoption(owned, source, routes, metrics, owned.spool.pending(), owned.spool.cursors())
        self._adoptions.append(adopted)
        try:
            for route in adopted.exporters:
                route.add(source)
        except SpoolError as error:
            # one exporter may be at it already: it is closed at the next look, as any other
            logger.warning("%s; it is left to a later look", error)
            self._leave(adopted)
        return True

    def release(self, *, everything: bool = False) -> bool:
        """Let go of what is delivered, and of what nobody gets on with; what is left, a later look takes up again.

        Args:
            everything: Also of what may still get on.

        Returns:
            Whether something is left of what was let go of.
        """
        left = False
        for adopted in list(self._adoptions):
            with guard:
                if everything or not self._gets_on(adopted):
                    self._leave(adopted)
        for adopted in list(self._leaving):
            if not any(route.is_at(adopted.source) for route in adopted.exporters):
                self._leaving.remove(adopted)
                with guard:
                    left |= self._close(adopted)
        return left

    def _gets_on(self, adopted: _Adoption) -> bool:
        """Whether there is something left to do with it, by somebody who is not in trouble."""
        try:
            cursors = adopted.owned.spool.cursors()
        except SpoolError:
            return False
        owing = [route for route in adopted.routes if cursors[route.name].pending]
        silent = [each for each in adopted.metrics if each.owes(adopted.source)]
        both: tuple[BatchExportWorker | PeriodicMetricWorker, ...] = (*owing, *silent)
        return any(not route.state.trouble for route in both)

    def _leave(self, adopted: _Adoption) -> None:
        """Have nobody begin anything with it any more; it is closed once nobody has it in hand."""
        for route in adopted.exporters:
            route.remove(adopted.source)
        self._adoptions.remove(adopted)
        self._leaving.append(adopted)

    def _close(self, adopted: _Adoption) -> bool:
        """Close it, retire it where everything is told, and note what became of it; whether something is left."""
        owned = adopted.owned
        try:
            left, cursors = owned.spool.pending(), owned.spool.cursors()
        except SpoolCorruptError as error:
            owned.quarantine(str(error))
            return True
        except SpoolError as error:
            logger.warning("%s; left as it is", error)
            owned.release(owes=True)
            return True
        silent = [each for each in adopted.metrics if each.owes(adopted.source)]
        told = tuple(each.name for each in adopted.metrics if each not in silent)
        origin = adopted.source.origin
        self._adopted.append(Adopted(owned.path, origin, adopted.pending, left, adopted.cursors, cursors, told))
        owned.release(owes=bool(silent))
        return bool(left or silent)
