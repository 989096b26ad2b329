"""Where the two stairs meet, in one process: its spool, the pipeline that reads it, and its numbers.

What always holds: made and used on the writer thread, so that nothing of it costs torch's threads time; a
forked child makes one of its own and never touches its parent's; where the system has no thread to spare, rows are
kept all the same, and delivered once there is one.
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
from typing import Any, Final, Protocol

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export.config import export_config
from torchelastic_otel.export.destinations import Exporter, Registry
from torchelastic_otel.export.pipeline import Pipeline
from torchelastic_otel.export.query_runner import query_runner, run_with_timeout
from torchelastic_otel.export.result import Sender
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import AttributeValue, Origin
from torchelastic_otel.model.job_environment import JOB_VARIABLES, configured_host_name
from torchelastic_otel.model.metric import Snapshot
from torchelastic_otel.model.text import bounded
from torchelastic_otel.processing.metrics.self_metrics import SelfMetrics, TorchMetric
from torchelastic_otel.settings import Settings
from torchelastic_otel.spool import adoption, store
from torchelastic_otel.spool.location import spool_directory, warn_memory_only
from torchelastic_otel.units import NS_PER_MS

logger = logging.getLogger("torchelastic_otel")

THREAD_RETRY_NS: Final = 1_000 * NS_PER_MS
"""How long after the system had no thread to spare it is asked for one again."""
MAX_STOP_NS: Final = 60_000 * NS_PER_MS
"""The longest that the spool waits, after ``uninstall``, for threads to end, so that it can be closed."""
MIN_STOP_NS: Final = 50 * NS_PER_MS
"""What threads that have nothing left to do are given to end, so that the spool can be closed."""


class MetricSource(Protocol):
    """Who counts what this process says: the writer."""

    def collect(self, outside: SelfMetrics) -> Snapshot:
        """The numbers at this moment; ``outside`` are those that do not come from events."""
        ...

    def commit(self, accepted: Snapshot) -> bool:
        """A snapshot was accepted; whether something was held back, so that more is wanted."""
        ...

    def should_collect(self) -> bool:
        """Whether a snapshot is wanted soon."""
        ...


class ProcessRuntime:
    """The spool and the pipeline of this process.

    Args:
        settings: Our settings.
        registry: Which exporters a destination leads to.
        environ: The environment, as it was at installation.
        measured: What torch measured of its own agent so far; from any thread.

    Attributes:
        started_ns: When the process began to be watched, wall clock nanoseconds.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        environ: Mapping[str, str],
        measured: Callable[[], Mapping[str, TorchMetric]] = dict,
    ) -> None:
        self._settings = settings
        self._torch_metrics = measured
        self._counting: MetricSource | None = None
        self._registry = registry
        self._environ = environ
        self._directory = spool_directory(settings, logger.warning)
        self._owned: adoption.OwnedSpool | None = None
        self._opened: store.Spool | None = None
        self._lock_lost = False
        self._started = self._closed = False
        self._without_thread: set[str] = set()  # destinations of which an exporter has no thread yet
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
            metric_source=self,
            detect=self._detect,
            directory=self._directory,
            max_bytes=settings.spool_max_bytes,
            on_scan=self._touch,
        )

    @property
    def path(self) -> Path | None:
        """The spool's file; ``None`` where it is in memory."""
        return self._owned.path if self._owned is not None else None

    # --- capture.writer.Landing

    def open_spool(self) -> store.Spool:
        """This process's spool, the same one each time; the exporters begin to load."""
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
            # a disk that was full after the first pages
            warn_memory_only(error, logger.warning)
            owned.discard()
            return None
        self._owned = owned
        return owned.spool

    def open_memory(self, first_sequence: int) -> store.Spool:
        """Where events go on when the spool's disk fails."""
        spool = store.create_in_memory(self._settings.spool_max_bytes, first_sequence)
        self.pipeline.add(spool, self._origin)
        return spool

    def register(self, destinations: Iterable[str]) -> Mapping[str, str]:
        """Rows of these destinations come next; the key that rows of each are kept under."""
        keys = {destination: self._registry.storage_key(destination) for destination in destinations}
        self._start_exporters(keys.values())
        return keys

    def on_commit(self) -> None:
        """New rows can be read."""
        self._start()
        self.pipeline.wake()

    def _start_exporters(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self._without_thread:
                try:
                    self.pipeline.subscribe((key,))
                except RuntimeError as error:  # its rows have their cursors already
                    self._without_thread.add(key)
                    self._warn_no_thread(error)

    def _start(self) -> None:
        """Start what is not started; where the system has no thread to spare, again a while later."""
        if (self._started and not self._without_thread) or self._closed or time.monotonic_ns() < self._retry_threads_ns:
            return
        try:
            if not self._started:
                self.pipeline.start()
                self._started = True
            unled, self._without_thread = self._without_thread, set()
            self._start_exporters(unled)
        except RuntimeError as error:
            self._warn_no_thread(error)
        except SpoolError as error:
            logger.debug("%s", error)  # whoever keeps the next row meets it too

    def _warn_no_thread(self, error: RuntimeError) -> None:
        if not self._retry_threads_ns:
            logger.warning("no thread can be had (%s): events are kept, and delivered once there is one", error)
        self._retry_threads_ns = time.monotonic_ns() + THREAD_RETRY_NS

    # --- deliver.metrics_route.Numbers

    def set_metric_source(self, counting: MetricSource) -> None:
        """Who counts; before that there are no numbers."""
        self._counting = counting

    def collect(self) -> Snapshot:
        """The numbers of this process at this moment."""
        if self._counting is None:
            return Snapshot(self.started_ns, self.started_ns)
        outside = self.pipeline.self_metrics(time.time_ns())
        return self._counting.collect(replace(outside, torch_metrics=self._torch_metrics()))

    def commit(self, snapshot: Snapshot) -> bool:
        """A receiver has accepted a snapshot; whether another one is wanted soon."""
        return self._counting is not None and self._counting.commit(snapshot)

    def should_collect(self) -> bool:
        """Whether a snapshot is wanted before the interval is over."""
        return self._counting is not None and self._counting.should_collect()

    # --- the end

    def close(self, timeout_ns: int, *, drained: bool, for_good: bool = False) -> None:
        """Stop the threads that stop in time; where everything is delivered, the spool becomes history.

        Args:
            timeout_ns: How long to wait, nanoseconds.
            drained: Whether everything is delivered.
            for_good: Whether nothing is kept any more and the process goes on: then the spool is let go of, delivered
                or not, as soon as all threads have ended.
        """
        self._closed = True
        timeout_ns = max(timeout_ns, MIN_STOP_NS if drained else 0)
        ended = self._stop(timeout_ns)
        if for_good or (ended and drained):
            # who asked does not wait for longer; the thread that is asked stays until it is done
            run_with_timeout(timeout_ns, lambda: self._release(owes=not drained))
        query_runner.stop()

    def _stop(self, timeout_ns: int) -> bool:
        try:
            return self.pipeline.stop(timeout_ns)
        except RuntimeError:  # its caretaker is a thread that could not be had
            return False

    def _release(self, *, owes: bool) -> None:
        """Close the spool and free its lock once nobody uses it."""
        with guard:
            if self._owned is not None and self._stop(MAX_STOP_NS):
                try:
                    self._owned.release(owes=owes)
                except (SpoolError, OSError) as error:
                    logger.debug("%s", error)  # a disk that failed: the writer has said so

    # --- inside

    def _touch(self) -> None:
        """Touch the spool's files, and have its lock again where it was removed: cleaners go by age (tmpfiles.d)."""
        if self._owned is None or self._closed:
            return
        try:
            self._owned.refresh()
        except OSError as error:
            if not self._lock_lost:
                self._lock_lost = True
                logger.warning(
                    "somebody removed spool %s or its lock, or has taken it (%s): its events may be delivered a second"
                    " time, and what is not delivered when this process ends may be lost",
                    self._owned.path,
                    error,
                )

    def _detect(self) -> dict[str, AttributeValue]:
        # all of the SDK, in time: see runtime._flush_before_threads_end; and by one thread, since Python refuses
        # threads that import in a circle: see runtime.install
        from torchelastic_otel.export.otel import factory
        from torchelastic_otel.export.otel.resource import detect

        factory.preload(self._registry.exporters_of("null"), self._environ)
        return detect(self._environ)

    def _make_sender(self, exporter: Exporter) -> Sender[Any]:
        from torchelastic_otel.export.otel.factory import make_sender

        return make_sender(exporter, self._environ, settings=self._settings, folder=self._directory)
