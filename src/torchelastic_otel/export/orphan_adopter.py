"""Export of orphaned spools: which ones this process adopts, for how long, and the result for each.

Guarantees:

- An orphaned spool is read only by workers that this process has anyway, under the lock of the spool, and keeps its own
  resource. Rows for exporters that this process does not have are not touched.
- A spool that cannot be read, or that an exporter does not accept, blocks no other.
- A spool is closed only when no worker uses it: what is being sent would be sent again by the next adopter.
- Nothing here runs on torch's threads.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torchelastic_otel.errors import SpoolCorruptError, SpoolError
from torchelastic_otel.export.destinations import EPHEMERAL_EXPORTERS
from torchelastic_otel.export.metric_worker import PeriodicMetricWorker
from torchelastic_otel.export.sources import SpoolSource
from torchelastic_otel.export.worker import ExportWorker
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import Origin
from torchelastic_otel.processing.processor import ORIGIN_KEY, process_remaining
from torchelastic_otel.spool import adoption
from torchelastic_otel.spool.records import CursorState

logger = logging.getLogger("torchelastic_otel")

MAX_CONCURRENT: Final = 8
_MAX_RESULTS: Final = 1_000


@dataclass(frozen=True, slots=True)
class AdoptedSpool:
    """The result of the adoption of one orphaned spool.

    Attributes:
        path: Its file when it was adopted.
        origin: The process that wrote it.
        pending_before: Rows that were pending when it was adopted.
        pending_after: Rows that were pending when it was released.
        cursors_before: Its cursors when it was adopted, by exporter.
        cursors_after: Its cursors when it was released.
        metric_exporters: The metric exporters that received its last metrics.
    """

    path: Path
    origin: Origin
    pending_before: int
    pending_after: int
    cursors_before: Mapping[str, CursorState]
    cursors_after: Mapping[str, CursorState]
    metric_exporters: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Adoption:
    owned: adoption.OwnedSpool
    source: SpoolSource
    workers: tuple[ExportWorker[Any], ...]
    pending: int
    cursors: Mapping[str, CursorState]


class OrphanAdopter:
    """See the module's docstring.

    Args:
        directory: The directory that is scanned.
        max_bytes: The size limit of a spool, bytes.
        workers: The workers of this process, at the time of the call.
        pause_ns: The time without adoptions after one that made no progress, nanoseconds.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        workers: Callable[[], Sequence[ExportWorker[Any]]],
        pause_ns: int = 0,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._workers = workers
        self._pause_ns = pause_ns
        self._not_before_ns = 0
        self._active: list[_Adoption] = []
        self._releasing: list[_Adoption] = []
        self._results: deque[AdoptedSpool] = deque(maxlen=_MAX_RESULTS)

    @property
    def busy(self) -> bool:
        """Whether an orphaned spool is being exported."""
        return bool(self._active or self._releasing)

    @property
    def held_paths(self) -> frozenset[Path]:
        """The orphaned spools that this process owns now."""
        return frozenset(each.owned.path for each in (*self._active, *self._releasing))

    def take_results(self) -> list[AdoptedSpool]:
        """The spools that were released since the last call, exported or not."""
        results = list(self._results)
        self._results.clear()
        return results

    def scan(self) -> None:
        """Release what is exported or makes no progress, and adopt orphaned spools.

        After an adoption without progress nothing is adopted for a while: opening a large spool is work.
        """
        if self.release():
            self._not_before_ns = time.monotonic_ns() + self._pause_ns
        if self.busy or time.monotonic_ns() < self._not_before_ns or not self._workers():
            return
        adoption.delete_expired(self._directory, time.time_ns(), self._max_bytes)
        for owned in adoption.adopt(self._directory, self._max_bytes):
            self._try_adopt(owned)
            if len(self._active) >= MAX_CONCURRENT:
                break

    def run_once(self, attempt: Callable[[int], object], timeout_ns: int) -> None:
        """Adopt each orphaned spool in turn and make one export attempt; on the caller's thread.

        Args:
            attempt: Exports what there is, once, within nanoseconds.
            timeout_ns: The time after which no further attempt begins, nanoseconds.
        """
        until = time.monotonic_ns() + timeout_ns

        def export() -> None:
            if self._active:
                attempt(max(0, until - time.monotonic_ns()))
                self.release(everything=True)

        adoption.delete_expired(self._directory, time.time_ns(), self._max_bytes)
        for owned in adoption.adopt(self._directory, self._max_bytes):
            self._try_adopt(owned)
            if len(self._active) >= MAX_CONCURRENT:
                export()
            if time.monotonic_ns() >= until:
                break
        export()

    def _try_adopt(self, owned: adoption.OwnedSpool) -> None:
        """Adopt a spool or release it; one that cannot be read must not block the others."""
        with guard:
            try:
                if not self._adopt(owned):
                    owned.release()
            except (SpoolCorruptError, ValueError) as error:
                owned.quarantine(f"spool {owned.path}: {error}")
            except Exception as error:
                # a full disk, or a fault of this package: other processes may succeed, and must not find it locked
                logger.warning("spool %s cannot be adopted: %s", owned.path, error)
                owned.release(incomplete=True)
                if not isinstance(error, (SpoolError, OSError)):
                    raise

    def _adopt(self, owned: adoption.OwnedSpool) -> bool:
        text = owned.spool.meta(ORIGIN_KEY)
        if text is None:
            return False  # its process died before it stored anything
        process_remaining(owned.spool)
        for name in EPHEMERAL_EXPORTERS & owned.spool.cursors().keys():
            owned.spool.acknowledge(name, owned.spool.last_sequence)
        source = SpoolSource(owned.spool, Origin.from_json(text))
        workers = tuple(worker for worker in self._workers() if worker.has_unsent(source))
        if not workers:
            return False
        adopted = _Adoption(owned, source, workers, owned.spool.pending(), owned.spool.cursors())
        self._active.append(adopted)
        try:
            for worker in workers:
                worker.add(source)
        except SpoolError as error:
            # a worker may use it already: the next scan closes it, as any other
            logger.warning("%s; it is adopted again later", error)
            self._begin_release(adopted)
        return True

    def release(self, *, everything: bool = False) -> bool:
        """Release what is exported or makes no progress; what remains is adopted again later.

        Args:
            everything: Also release what makes progress.

        Returns:
            Whether a released spool has something left to export.
        """
        left = False
        for adopted in list(self._active):
            with guard:
                if everything or not self._makes_progress(adopted):
                    self._begin_release(adopted)
        for adopted in list(self._releasing):
            if not any(worker.is_using(adopted.source) for worker in adopted.workers):
                self._releasing.remove(adopted)
                with guard:
                    left |= self._close(adopted)
        return left

    def _makes_progress(self, adopted: _Adoption) -> bool:
        """Whether a worker without an error has something left to export."""
        try:
            return any(worker.has_unsent(adopted.source) and not worker.state.error for worker in adopted.workers)
        except SpoolError:
            return False

    def _begin_release(self, adopted: _Adoption) -> None:
        """Let no worker begin anything more with it; it is closed once none uses it."""
        for worker in adopted.workers:
            worker.remove(adopted.source)
        self._active.remove(adopted)
        self._releasing.append(adopted)

    def _close(self, adopted: _Adoption) -> bool:
        """Close it, retire it if everything is exported, and store the result; whether something is left."""
        owned, source = adopted.owned, adopted.source
        try:
            pending, cursors = owned.spool.pending(), owned.spool.cursors()
            unsent = [worker for worker in adopted.workers if worker.has_unsent(source)]
        except SpoolCorruptError as error:
            owned.quarantine(str(error))
            return True
        except SpoolError as error:
            logger.warning("%s; it is not changed", error)
            owned.release(incomplete=True)
            return True
        metrics = tuple(
            worker.name
            for worker in adopted.workers
            if isinstance(worker, PeriodicMetricWorker) and worker not in unsent
        )
        self._results.append(
            AdoptedSpool(owned.path, source.origin, adopted.pending, pending, adopted.cursors, cursors, metrics)
        )
        owned.release(incomplete=bool(unsent))
        return bool(pending or unsent)
