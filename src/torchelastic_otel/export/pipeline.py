"""The export pipeline of a process: its export workers and the spools they read, its own and orphaned ones.

Guarantees:

- Nothing here runs on torch's threads: one maintenance thread starts the workers and scans for orphaned spools.
- There is one worker for each exporter of a subscribed destination, and none for any other.
- Spans and metrics go to the exporters of torch's own destinations; other destinations receive events only.
- ``flush`` keeps its deadline whatever the exporters do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export.batch_worker import BatchExportWorker
from torchelastic_otel.export.config import ExportConfig
from torchelastic_otel.export.destinations import GENERATION_SEPARATOR, TORCH_DESTINATIONS, Exporter
from torchelastic_otel.export.metric_checkpoints import save_metric_exporters
from torchelastic_otel.export.metric_worker import MetricSource, PeriodicMetricWorker
from torchelastic_otel.export.orphan_adopter import AdoptedSpool, OrphanAdopter
from torchelastic_otel.export.query_runner import MIN_TIMEOUT_NS, query_runner, run_with_timeout
from torchelastic_otel.export.result import Sender
from torchelastic_otel.export.self_metrics import collect_self_metrics
from torchelastic_otel.export.sources import (
    ExporterState,
    RowReader,
    SpoolSource,
    read_event,
    read_event_without_heartbeats,
    span_reader,
)
from torchelastic_otel.export.worker import ExportWorker
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import AttributeValue, Origin
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.processing.metrics.self_metrics import SelfMetrics
from torchelastic_otel.processing.processor import ORIGIN_KEY, SPANS
from torchelastic_otel.spool.store import Spool
from torchelastic_otel.units import NS_PER_S

logger = logging.getLogger("torchelastic_otel")

ADOPTION_INTERVAL_S: Final = 30.0
_BUSY_INTERVAL_S: Final = 0.2


class Pipeline:
    """See the module's docstring.

    Args:
        make_sender: Makes an exporter's sender; called on the exporter's own thread.
        exporters_of: Resolves a destination to its exporters.
        config: Batch sizes, delays and sampling.
        metric_source: Returns this process's metrics, on the threads of metric exporters; ``None`` if it has none yet.
        detect: Runs OpenTelemetry's resource detectors; called once, on the maintenance thread.
        directory: The directory that is scanned for orphaned spools; ``None`` for no scan.
        max_bytes: The size limit of a spool, bytes.
        adoption_interval_s: The time between two scans, seconds; ``None`` for no scan by the maintenance thread:
            the caller runs :meth:`adopt_pass`.
        on_scan: Called on the maintenance thread after each scan.
    """

    def __init__(
        self,
        make_sender: Callable[[Exporter], Sender[Any]],
        exporters_of: Callable[[str], tuple[Exporter, ...]],
        *,
        config: ExportConfig,
        metric_source: Callable[[], MetricSource | None] = lambda: None,
        detect: Callable[[], dict[str, AttributeValue]] | None = None,
        directory: Path | None = None,
        max_bytes: int = 64 << 20,
        adoption_interval_s: float | None = ADOPTION_INTERVAL_S,
        on_scan: Callable[[], object] | None = None,
    ) -> None:
        self._make_sender = make_sender
        self._exporters_of = exporters_of
        self._config = config
        self._metric_source = metric_source
        self._detect = detect
        self._interval_s = adoption_interval_s
        self._on_scan = on_scan
        self._sources: list[SpoolSource] = []
        self._destinations: set[str] = set()
        self._exporters: dict[str, Exporter] = {}
        self._workers_by_cursor: dict[str, ExportWorker[Any]] = {}
        self._adopter = (
            OrphanAdopter(
                directory,
                max_bytes,
                lambda: self._workers,
                pause_ns=int((adoption_interval_s or 0) * NS_PER_S),
            )
            if directory is not None
            else None
        )
        self._lock = threading.RLock()  # never taken on torch's threads
        self._prepared = False
        self._started = threading.Event()
        self._stop = threading.Event()
        self._workers_stopped = threading.Event()
        self._maintenance_thread: threading.Thread | None = None

    @property
    def _workers(self) -> list[ExportWorker[Any]]:
        # metric workers last: one that hangs must not use up the time in which logs and traces stop
        return sorted(self._workers_by_cursor.values(), key=lambda worker: isinstance(worker, PeriodicMetricWorker))

    # --- sources and exporters; called on the writer's thread or before anything runs

    def add(self, spool: Spool, origin: Origin, *, continues: bool = True) -> None:
        """Export this process's spool.

        Args:
            spool: The spool.
            origin: The process that writes it.
            continues: Whether it continues the spool that was added before it and has its origin.
        """
        with self._lock:
            predecessor = self._sources[-1] if self._sources and continues else None
            source = SpoolSource(spool, predecessor.origin if predecessor else origin, predecessor)
            spool.put_meta(ORIGIN_KEY, source.origin.to_json())
            for destination in list(self._destinations):
                self._add_cursors(source, self._resolve(destination), destination)
            self._sources.append(source)
            for worker in self._workers:
                self._attach(worker, source)

    def subscribe(self, destinations: Iterable[str]) -> None:
        """Give each exporter of these destinations a cursor and a worker.

        Raises:
            RuntimeError: The system cannot start a thread; the worker gets one when this is called again.
        """
        for destination in destinations:
            if destination in self._destinations or destination == SPANS:
                continue
            with self._lock:
                exporters = self._resolve(destination)
                for source in self._sources:
                    try:
                        self._add_cursors(source, exporters, destination)
                    except SpoolError:
                        # new rows go to the newest source; an older one may be on the disk that failed
                        if source is self._sources[-1]:
                            raise
                self._add_workers(exporters)
                self._destinations.add(destination)

    def _add_cursors(self, source: SpoolSource, exporters: Iterable[Exporter], destination: str) -> None:
        rows_of = {Signal.LOGS: destination, Signal.TRACES: SPANS}
        source.spool.subscribe(
            {exporter.cursor: [rows_of[exporter.signal]] for exporter in exporters if exporter.signal in rows_of}
        )
        # an adopter must know which exporters have received this process's metrics
        known = (*exporters, *self._exporters.values())
        save_metric_exporters(source.spool, {each.cursor for each in known if each.signal is Signal.METRICS})

    def _resolve(self, destination: str) -> tuple[Exporter, ...]:
        try:
            exporters = self._exporters_of(destination)
        except Exception as error:  # noqa: BLE001 - a destination of another package may raise anything
            logger.warning("destination %s: %s; its events are stored but not exported", destination, error)
            return ()
        if destination.partition(GENERATION_SEPARATOR)[0] in TORCH_DESTINATIONS:
            return exporters
        return tuple(exporter for exporter in exporters if exporter.signal is Signal.LOGS)

    def _add_workers(self, exporters: tuple[Exporter, ...]) -> None:
        """Give each exporter a worker and, once started, a thread."""
        for exporter in exporters:
            if exporter.cursor not in self._exporters:
                worker = self._make_worker(exporter)
                for source in self._sources:
                    self._attach(worker, source)
                self._exporters[exporter.cursor] = exporter
                self._workers_by_cursor[exporter.cursor] = worker
        for exporter in exporters:
            worker = self._workers_by_cursor[exporter.cursor]
            if self._started.is_set():
                worker.start()
            elif self._prepared:
                worker.prepare()

    def _make_worker(self, exporter: Exporter) -> ExportWorker[Any]:
        config = self._config

        def make_sender() -> Sender[Any]:
            return self._make_sender(exporter)

        if exporter.signal is Signal.METRICS:
            return PeriodicMetricWorker(
                exporter.cursor,
                make_sender,
                config.metrics,
                config.metrics_interval_ns,
                metric_source=self._metric_source,
                current_source=lambda: self._sources[-1] if self._sources else None,
            )
        read: RowReader = read_event if config.heartbeats else read_event_without_heartbeats
        if exporter.signal is Signal.TRACES:
            read = span_reader(config.sampler)
        return BatchExportWorker(exporter.cursor, make_sender, config.batch_config(exporter.signal), read=read)

    @staticmethod
    def _attach(worker: ExportWorker[Any], source: SpoolSource) -> None:
        if worker.name in source.spool.cursors():
            worker.add(source)

    def start(self) -> None:
        """Start the maintenance thread, which starts the workers.

        Raises:
            RuntimeError: The system cannot start a thread; call this again later.
        """
        query_runner.start()
        self._prepared = True
        for worker in self._workers:
            worker.prepare()
        thread = threading.Thread(target=self._maintain, name="torchelastic-otel-maintenance", daemon=True)
        thread.start()
        self._maintenance_thread = thread  # only now: a thread that has not started cannot be joined

    def wake(self) -> None:
        """New rows are in this process's spool."""
        for worker in self._workers:
            worker.wake()

    # --- state

    @property
    def states(self) -> list[ExporterState]:
        """The state of each export worker."""
        return [worker.state for worker in self._workers]

    def self_metrics(self, now_ns: int) -> SelfMetrics:
        """The pipeline's own metrics; reads the spool, so not for a thread that must not block.

        Args:
            now_ns: Wall clock, nanoseconds since the epoch.
        """
        return collect_self_metrics(self._exporters, self.states, list(self._sources), now_ns)

    def pending(self) -> int:
        """Rows of this process that at least one exporter has not received."""
        return sum(source.spool.pending() for source in self._sources)

    def adopted(self) -> list[AdoptedSpool]:
        """The orphaned spools that were released since the last call."""
        return self._adopter.take_results() if self._adopter is not None else []

    @property
    def held_spools(self) -> frozenset[Path]:
        """The orphaned spools that this process owns now."""
        return self._adopter.held_paths if self._adopter is not None else frozenset()

    def adopt_once(self, timeout_ns: int) -> list[AdoptedSpool]:
        """Adopt each orphaned spool and make one export attempt, on the caller's thread.

        Args:
            timeout_ns: The time after which no further attempt begins, nanoseconds.

        Returns:
            The adopted spools, exported or not.
        """
        if self._adopter is not None and self._workers:
            self._adopter.run_once(self.flush, timeout_ns)
        return self.adopted()

    # --- shutdown

    def wait_until_started(self, timeout_ns: int) -> bool:
        """Wait until the SDK is imported and the workers have started; whether they have in time."""
        return self._started.wait(timeout_ns / NS_PER_S)

    def flush(self, timeout_ns: int) -> bool:
        """Export what is stored, at once; whether nothing of this process is pending afterwards.

        A worker whose attempt fails is not waited for any longer.
        """
        until = time.monotonic_ns() + timeout_ns
        # the maintenance thread starts the workers after the first import of the SDK
        self._started.wait(timeout_ns / NS_PER_S)
        for done in [worker.flush() for worker in self._workers]:
            done.acquire(True, max(0.0, (until - time.monotonic_ns()) / NS_PER_S))
        # on another thread: a disk that hangs must not block the caller
        return run_with_timeout(max(0, until - time.monotonic_ns()), lambda: self.pending() == 0) is True

    def stop(self, timeout_ns: int) -> bool:
        """Stop all threads; whether they have ended in time. Those that have not are daemons."""
        self._stop.set()
        until = time.monotonic_ns() + timeout_ns
        ended = True
        for worker in self._workers:
            ended &= worker.stop(max(0.0, (until - time.monotonic_ns()) / NS_PER_S))
        self._workers_stopped.set()
        if self._maintenance_thread is not None:
            left_ns = max(until - time.monotonic_ns(), MIN_TIMEOUT_NS if ended else 0)
            self._maintenance_thread.join(left_ns / NS_PER_S)
            ended &= not self._maintenance_thread.is_alive()
        return ended

    # --- on the maintenance thread

    def _maintain(self) -> None:
        with guard:
            self._detect_resource()
        with self._lock:
            self._started.set()
            for worker in self._workers:
                try:
                    worker.start()
                except RuntimeError:  # no thread: subscribe() has raised it, and its caller calls again
                    continue
        while not self._stop.is_set():
            if self._adopter is None or self._interval_s is None:
                self._stop.wait()
                break
            with guard:
                self._adopter.scan()
            with guard:
                if self._on_scan is not None:
                    self._on_scan()
            self._stop.wait(_BUSY_INTERVAL_S if self._adopter.busy else self._interval_s)
        # the workers finish their attempts first
        self._workers_stopped.wait()
        with guard:
            if self._adopter is not None:
                self._adopter.release(everything=True)

    def _detect_resource(self) -> None:
        """Store the detected resource attributes in the spool, for any process that exports it."""
        detected = self._detect() if self._detect is not None else {}
        with self._lock:
            for source in self._sources:
                source.origin = replace(source.origin, detected=detected)
                try:
                    source.spool.put_meta(ORIGIN_KEY, source.origin.to_json())
                except SpoolError as error:
                    logger.debug("%s", error)  # a disk that failed; the next source is elsewhere
