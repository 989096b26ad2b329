"""The spool of one process and the pipeline that exports from it.

Guarantees: created and used on the writer thread, so that it takes no time of torch's threads; a forked child creates
its own and never touches its parent's; if the system cannot start a thread, records are stored all the same, and
exported once it can.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export.config import export_config
from torchelastic_otel.export.destinations import Exporter, Registry
from torchelastic_otel.export.metric_worker import MetricSource
from torchelastic_otel.export.pipeline import Pipeline
from torchelastic_otel.export.query_runner import query_runner, run_with_timeout
from torchelastic_otel.export.result import Sender
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import AttributeValue, Origin
from torchelastic_otel.model.job_environment import JOB_VARIABLES, configured_host_name
from torchelastic_otel.model.text import bounded
from torchelastic_otel.processing.metrics.self_metrics import SelfMetrics, TorchMetric
from torchelastic_otel.settings import Settings
from torchelastic_otel.spool import adoption, store
from torchelastic_otel.spool.location import spool_directory, warn_memory_only
from torchelastic_otel.units import NS_PER_MS, NS_PER_S

logger = logging.getLogger("torchelastic_otel")

THREAD_RETRY_NS: Final = NS_PER_S
"""The time between two attempts to start a thread."""
MAX_STOP_NS: Final = 60 * NS_PER_S
"""The longest wait, after ``uninstall``, for threads to end, so that the spool can be closed."""
MIN_STOP_NS: Final = 50 * NS_PER_MS
"""The shortest wait for threads that have nothing left to do, so that the spool can be closed."""


class ProcessRuntime:
    """The spool and the pipeline of this process.

    Args:
        settings: The settings.
        registry: Resolves a destination to its exporters.
        environ: The environment, as it was at installation.
        torch_metrics: Reads torch's metrics of its own agent; called from any thread.

    Attributes:
        started_ns: When the process began to be observed, wall clock nanoseconds.
        metric_source: This process's metrics; the writer.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        environ: Mapping[str, str],
        torch_metrics: Callable[[], Mapping[str, TorchMetric]] = dict,
    ) -> None:
        self._settings = settings
        self._torch_metrics = torch_metrics
        self.metric_source: MetricSource | None = None
        self._registry = registry
        self._environ = environ
        self._directory = spool_directory(settings, logger.warning)
        self._owned: adoption.OwnedSpool | None = None
        self._opened: store.Spool | None = None
        self._lock_lost = False
        self._started = self._closed = False
        self._without_thread: set[str] = set()  # storage keys whose exporters have no thread yet
        self._retry_threads_ns = 0
        self._origin = Origin(
            id=uuid.uuid4().hex,
            host_name=bounded(configured_host_name(environ) or socket.gethostname()),
            pid=os.getpid(),
            started_ns=time.time_ns(),
            environment={name: environ[name] for name in JOB_VARIABLES if name in environ},
        )
        self.started_ns = self._origin.started_ns
        self.pipeline = Pipeline(
            self._make_sender,
            registry.exporters_of,
            config=export_config(environ, settings, logger.warning),
            metric_source=lambda: self.metric_source,
            detect=self._detect,
            directory=self._directory,
            max_bytes=settings.spool_max_bytes,
            on_scan=self._touch,
        )

    @property
    def path(self) -> Path | None:
        """The spool's file; ``None`` if it is in memory."""
        return self._owned.path if self._owned is not None else None

    # --- SpoolProvider

    def open_spool(self) -> store.Spool:
        """This process's spool, the same one at each call; starts the exporters."""
        if self._opened is None:
            self.register(("null", "dynamic_rendezvous"))
            self._opened = self._on_disk() or self.open_memory(1)
        self._start()
        return self._opened

    def _on_disk(self) -> store.Spool | None:
        if self._directory is None:
            return None
        try:
            owned = adoption.create(self._directory, self._origin.id, self._settings.spool_max_bytes)
        except SpoolError as error:
            warn_memory_only(error, logger.warning)
            return None
        try:
            self.pipeline.add(owned.spool, self._origin)
        except SpoolError as error:
            # the disk was full after the first pages
            warn_memory_only(error, logger.warning)
            owned.discard()
            return None
        self._owned = owned
        return owned.spool

    def open_memory(self, first_sequence: int) -> store.Spool:
        """A spool in memory, for when the disk fails."""
        spool = store.create_in_memory(self._settings.spool_max_bytes, first_sequence)
        self.pipeline.add(spool, self._origin)
        return spool

    def register(self, destinations: Iterable[str]) -> Mapping[str, str]:
        """Prepare for records of these destinations; returns the storage key of each."""
        keys = {destination: self._registry.storage_key(destination) for destination in destinations}
        self._start_exporters(keys.values())
        return keys

    def on_commit(self) -> None:
        """New records can be read."""
        self._start()
        self.pipeline.wake()

    def _start_exporters(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self._without_thread:
                try:
                    self.pipeline.subscribe((key,))
                except RuntimeError as error:  # its cursors exist already
                    self._without_thread.add(key)
                    self._warn_no_thread(error)

    def _start(self) -> None:
        """Start what is not started; if the system cannot start a thread, retry later."""
        if (self._started and not self._without_thread) or self._closed or time.monotonic_ns() < self._retry_threads_ns:
            return
        try:
            if not self._started:
                self.pipeline.start()
                self._started = True
            waiting, self._without_thread = self._without_thread, set()
            self._start_exporters(waiting)
        except RuntimeError as error:
            self._warn_no_thread(error)
        except SpoolError as error:
            logger.debug("%s", error)  # the next append fails with it, too

    def _warn_no_thread(self, error: RuntimeError) -> None:
        if not self._retry_threads_ns:
            logger.warning(
                "cannot start a thread (%s): events are stored, and exported once a thread can be started", error
            )
        self._retry_threads_ns = time.monotonic_ns() + THREAD_RETRY_NS

    def self_metrics(self) -> SelfMetrics:
        """The metrics of this process that do not come from its events."""
        return replace(self.pipeline.self_metrics(time.time_ns()), torch_metrics=self._torch_metrics())

    # --- the end

    def close(self, timeout_ns: int, *, drained: bool, for_good: bool = False) -> None:
        """Stop the threads that stop in time; if everything is delivered, retire the spool.

        Args:
            timeout_ns: How long to wait, nanoseconds.
            drained: Whether everything is delivered.
            for_good: Whether the process goes on without storing any more: then the spool is released, delivered or
                not, as soon as all threads have ended.
        """
        self._closed = True
        timeout_ns = max(timeout_ns, MIN_STOP_NS if drained else 0)
        ended = self._stop(timeout_ns)
        if for_good or (ended and drained):
            # the caller waits no longer than that; the thread goes on until it is done
            run_with_timeout(timeout_ns, lambda: self._release(incomplete=not drained))
        query_runner.stop()

    def _stop(self, timeout_ns: int) -> bool:
        try:
            return self.pipeline.stop(timeout_ns)
        except RuntimeError:  # its maintenance thread could not be started
            return False

    def _release(self, *, incomplete: bool) -> None:
        """Close the spool and free its lock once no thread uses it."""
        with guard:
            if self._owned is not None and self._stop(MAX_STOP_NS):
                try:
                    self._owned.release(incomplete=incomplete)
                except (SpoolError, OSError) as error:
                    logger.debug("%s", error)  # a disk that failed: the writer has logged it

    # --- inside

    def _touch(self) -> None:
        """Touch the spool's files, and restore its lock if it was removed: cleaners remove old files (tmpfiles.d)."""
        if self._owned is None or self._closed:
            return
        try:
            self._owned.refresh()
        except OSError as error:
            if not self._lock_lost:
                self._lock_lost = True
                logger.warning(
                    "spool %s or its lock was removed, or another process took it (%s): its events may be delivered"
                    " twice, and events that are undelivered when this process ends may be lost",
                    self._owned.path,
                    error,
                )

    def _detect(self) -> dict[str, AttributeValue]:
        # the whole SDK, early: see api._register_early_flush; and on one thread, since Python rejects threads that
        # import each other's modules: see api.install
        from torchelastic_otel.export.otel import factory
        from torchelastic_otel.export.otel.resource import detect

        factory.preload(self._registry.exporters_of("null"), self._environ)
        return detect(self._environ)

    def _make_sender(self, exporter: Exporter) -> Sender[Any]:
        from torchelastic_otel.export.otel.factory import make_sender

        return make_sender(exporter, self._environ, settings=self._settings, folder=self._directory)
