"""One installation in a process: the ingest queue, the hooks, and the process runtime that the writer thread makes.

Guarantees: creating one takes little time of the main thread, since everything heavy is imported and opened on the
writer thread; ``uninstall`` leaves torch and the drop-in events package as they were found; an exit is delayed no
longer than the flush timeout.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torchelastic_otel.agent.coordination.job_store import wait_for_pending_calls
from torchelastic_otel.events import handlers
from torchelastic_otel.export.destinations import Registry
from torchelastic_otel.ingest.handler import SpoolHandler
from torchelastic_otel.ingest.queue import IngestQueue
from torchelastic_otel.instrument.events_hook import HookReport, TorchHooks, store_needs_idle_threads
from torchelastic_otel.settings import Settings
from torchelastic_otel.units import NS_PER_S

if TYPE_CHECKING:
    from pathlib import Path

    from torchelastic_otel.export.sources import ExporterState
    from torchelastic_otel.ingest.queue import RecordWriter
    from torchelastic_otel.ingest.writer import Redact
    from torchelastic_otel.processing.metrics.self_metrics import TorchMetric
    from torchelastic_otel.runtime.process import ProcessRuntime

logger = logging.getLogger("torchelastic_otel")

MAX_LOAD_NS: Final = 5 * NS_PER_S
"""The longest that an agent on a torch older than 2.4 waits at its start for the other threads to be idle."""
MIN_FLUSH_NS: Final = NS_PER_S // 20
"""The shortest time, at ``uninstall``, to store what was recorded before."""


@dataclass(frozen=True, slots=True)
class Status:
    """The status of an installation.

    Attributes:
        why: What activated it.
        exporters: Names of the exporters of torch's own destinations.
        spool: The file that events are stored in; ``None`` for memory, or if there is none yet.
        hooks: The hooks in this torch; empty if torch is not observed.
        routes: The running exporters.
        waiting: Events that are submitted and not yet stored.
        lost: Events that could not be stored.
    """

    why: str
    exporters: tuple[str, ...]
    spool: Path | None
    hooks: tuple[HookReport, ...]
    routes: tuple[ExporterState, ...]
    waiting: int
    lost: int


class Installation:
    """See the header of this file.

    Args:
        settings: The settings.
        registry: Resolves a destination to its exporters.
        environ: The environment.
        why: What activated it.
        redact: Called with every event before it is stored; returns the event to store.
        watch: The packages whose agents are observed: torch's own, copies of it, or none.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        environ: Mapping[str, str],
        *,
        why: str,
        redact: Redact | None = None,
        watch: Iterable[str],
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.why = why
        self._environ = dict(environ)
        self._redact = redact
        self._queue = IngestQueue(self._make_writer)
        self._hooks: dict[str, TorchHooks] = {}
        self._runtime: ProcessRuntime | None = None
        self._runtime_pid = 0
        self._inherited: list[ProcessRuntime] = []
        self._exit_wait_ns = 0
        self._uninstalled = False
        for elastic in watch:
            self.watch(elastic)
        for destination in registry.local_names():
            handlers.bind(destination, SpoolHandler(destination, self._queue))
        handlers.resolve_with(self.check_destination)
        # the spool is opened and the exporters are loaded before the first event needs them
        self._queue.start()
        if self._hooks and store_needs_idle_threads():
            self.flush(MAX_LOAD_NS)

    def watch(self, elastic: str) -> None:
        """Observe the agents of another package: torch's own, or a copy that a project brings."""
        if elastic not in self._hooks:
            self._hooks[elastic] = TorchHooks(
                self._queue,
                self.registry.local_names(),
                self.check_destination,
                set_traceparent=self.settings.worker_context == "link",
                set_evidence=self.settings.worker_evidence,
                elastic=elastic,
                at_end=self.load_exporters,
            )
            self._hooks[elastic].install()

    def _torch_metrics(self) -> dict[str, TorchMetric]:
        return {key: value for hooks in list(self._hooks.values()) for key, value in hooks.torch_metrics.read().items()}

    def _make_writer(self) -> RecordWriter:
        """On the writer thread; once in each process, and again after a failure: then with the same runtime."""
        from torchelastic_otel.ingest.writer import Writer
        from torchelastic_otel.runtime.process import ProcessRuntime

        runtime = self._own_runtime
        if runtime is None:
            if self._runtime is not None:
                # never closed, never collected: after a fork its connections are the parent's
                self._inherited.append(self._runtime)
            runtime = ProcessRuntime(self.settings, self.registry, self._environ, self._torch_metrics)
            self._runtime, self._runtime_pid = runtime, os.getpid()
        runtime.metric_source = writer = Writer(runtime, self._redact)
        return writer

    @property
    def _own_runtime(self) -> ProcessRuntime | None:
        return self._runtime if self._runtime_pid == os.getpid() else None

    # --- destinations

    def bind(self, destination: str) -> None:
        """Make a destination known to torch and to the drop-in, or change its exporters."""
        handlers.bind(destination, SpoolHandler(destination, self._queue))
        for hooks in list(self._hooks.values()):
            hooks.bind(destination)

    def unbind(self, destination: str) -> None:
        """Make a destination unknown again."""
        handlers.unbind(destination)
        for hooks in list(self._hooks.values()):
            hooks.unbind(destination)

    def check_destination(self, name: str) -> None:
        """Raise for an unknown destination; make torch know one that a package brought."""
        self.registry.exporters_of(name)
        if name not in self.registry.local_names():
            self.bind(name)

    # --- the end

    def wait_until_ready(self, timeout_ns: int) -> bool:
        """Wait until what is recorded next is stored at once; returns whether it is."""
        return not self._uninstalled and self._queue.flush(timeout_ns / NS_PER_S)

    def wait_until_loaded(self, timeout_ns: int) -> bool:
        """Wait until the SDK and the exporters are imported; returns whether they are."""
        runtime = self._own_runtime
        return runtime is not None and runtime.pipeline.wait_until_started(timeout_ns)

    def flush(self, timeout_ns: int) -> bool:
        """Deliver what is stored now; returns whether nothing is left. Waits at most ``timeout_ns`` nanoseconds."""
        if self._uninstalled:
            return False  # a request would start the writer again
        until = time.monotonic_ns() + timeout_ns
        stored = self._queue.flush(timeout_ns / NS_PER_S)
        runtime = self._own_runtime
        return stored and runtime is not None and runtime.pipeline.flush(max(0, until - time.monotonic_ns()))

    def _remaining_ns(self) -> int:
        """What is left of the flush timeout."""
        return max(0, self.settings.flush_timeout_ns - self._exit_wait_ns)

    def load_exporters(self) -> None:
        """Wait until exporters are loaded, if that is impossible once the main thread has ended.

        The SDK's import (OpenTelemetry Python 1.45: ``Resource.create``) needs a thread, and Python 3.12 starts none
        from then on. The time counts towards the flush timeout.
        """
        if sys.version_info >= (3, 12) and self._own_runtime is not None:
            began = time.monotonic_ns()
            self.wait_until_loaded(self._remaining_ns())
            self._exit_wait_ns += time.monotonic_ns() - began

    def flush_at_end(self) -> None:
        """Flush while threads can still be started. The time counts towards the flush timeout."""
        if self._queue.used:
            began = time.monotonic_ns()
            self.flush(self._remaining_ns())
            self._exit_wait_ns += time.monotonic_ns() - began

    def close(self, *, for_good: bool = False) -> bool:
        """Flush within the flush timeout and stop; what is left stays in the spool for the next agent.

        Args:
            for_good: Whether the process goes on without this installation: then later events are not stored, and the
                spool is released.

        Returns:
            Whether nothing is left. In a forked child that recorded nothing there is nothing to do.
        """
        if not self._queue.used:
            return True
        timeout_ns = self._remaining_ns()
        until = time.monotonic_ns() + timeout_ns
        delivered = self.flush(timeout_ns)
        stored = False
        if delivered or for_good:
            # a later heartbeat of torch's would find a closed spool; an earlier one is stored in it
            self._queue.close()
            wait_ns = max(MIN_FLUSH_NS if for_good else 0, until - time.monotonic_ns())
            stored = self._queue.flush(wait_ns / NS_PER_S)
            delivered &= stored
        lost = self._queue.lost + self._queue.pending
        if lost:
            logger.warning("%d events could not be stored and are lost", lost)
        runtime = self._own_runtime
        if runtime is not None:
            if not delivered and runtime.path is not None:
                logger.warning(
                    "some events are not delivered; they are stored in %s, and the next agent of this user on this node"
                    " delivers them, or `torchelastic-otel flush`",
                    runtime.path.parent,
                )
            # if the writer is still storing, the spool stays open
            runtime.close(max(0, until - time.monotonic_ns()), drained=delivered, for_good=for_good and stored)
        if not for_good:
            wait_for_pending_calls(until)
        return delivered

    def uninstall(self) -> None:
        """Leave torch and the drop-in as they were found; deliver what is stored."""
        for hooks in reversed(list(self._hooks.values())):
            hooks.uninstall()
        handlers.resolve_with(None)
        for destination in handlers.bound():
            handlers.unbind(destination)
        self.close(for_good=True)
        self._uninstalled = True
        # a logger of the program may still have one of the handlers
        self._queue.close()
        self._queue.stop()

    @property
    def status(self) -> Status:
        """The current status."""
        runtime = self._own_runtime
        return Status(
            self.why,
            tuple(dict.fromkeys(exporter.name for exporter in self.registry.exporters_of("null"))),
            runtime.path if runtime is not None else None,
            tuple(report for hooks in list(self._hooks.values()) for report in hooks.reports),
            tuple(runtime.pipeline.states) if runtime is not None else (),
            self._queue.pending,
            self._queue.lost,
        )
