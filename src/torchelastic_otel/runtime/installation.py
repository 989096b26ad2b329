"""One installation in a process: the inlet, the hooks, and the landing that the writer thread makes.

What always holds: making one costs the main thread little, since what is heavy is imported and opened on the
writer thread; ``uninstall`` leaves torch and the drop-in events package as they were found; an exit is held
up no longer than the flush timeout.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torchelastic_otel.agent.coordination.store import wait_for_pending_calls
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
"""The longest that an agent on a torch older than 2.4 waits at its start for our threads to be idle."""
MIN_FLUSH_NS: Final = NS_PER_S // 20
"""What a disk that answers is given at ``uninstall`` to keep what was said before."""


@dataclass(frozen=True, slots=True)
class Status:
    """What an installation is at.

    Attributes:
        why: What activated it.
        exporters: Names of the exporters that torch's own destinations reach.
        spool: The file that events wait in; ``None`` for memory or "not yet".
        hooks: The hooks against this torch; empty where torch is not watched.
        routes: The exporters at work.
        waiting: Events handed over and not yet kept.
        lost: Events that could not be kept.
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
        settings: Our settings.
        registry: Which exporters a destination leads to.
        environ: The environment.
        why: What activated it, in a sentence.
        redact: Called with every event before it is kept; returns the event to keep.
        watch: The packages whose agents are watched: torch's own, copies of it, or none.
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
        """Watch the agents of a package too: torch's own, or a copy that a project brings."""
        if elastic not in self._hooks:
            self._hooks[elastic] = TorchHooks(
                self._queue,
                self.registry.local_names(),
                self.check_destination,
                set_traceparent=self.settings.worker_context == "link",
                elastic=elastic,
                at_end=self.load_exporters,
            )
            self._hooks[elastic].install()

    def _torch_metrics(self) -> dict[str, TorchMetric]:
        return {
            name: value for hooks in list(self._hooks.values()) for name, value in hooks.torch_metrics.read().items()
        }

    def _make_writer(self) -> RecordWriter:
        """On the writer thread; in each process once, and again where that failed: then with the same landing."""
        from torchelastic_otel.ingest.writer import Writer
        from torchelastic_otel.runtime.process import ProcessRuntime

        landing = self._own_runtime
        if landing is None:
            if self._runtime is not None:
                # never closed, never collected: its connections came through a fork and are the parent's
                self._inherited.append(self._runtime)
            landing = ProcessRuntime(self.settings, self.registry, self._environ, self._torch_metrics)
            self._runtime, self._runtime_pid = landing, os.getpid()
        writer = Writer(landing, self._redact)
        landing.set_metric_source(writer)
        return writer

    @property
    def _own_runtime(self) -> ProcessRuntime | None:
        return self._runtime if self._runtime_pid == os.getpid() else None

    # --- destinations

    def bind(self, destination: str) -> None:
        """Make a destination known to torch and to the drop-in, or lead it elsewhere."""
        handlers.bind(destination, SpoolHandler(destination, self._queue))
        for hooks in list(self._hooks.values()):
            hooks.bind(destination)

    def unbind(self, destination: str) -> None:
        """Make a destination unknown again."""
        handlers.unbind(destination)
        for hooks in list(self._hooks.values()):
            hooks.unbind(destination)

    def check_destination(self, name: str) -> None:
        """Raise for a destination that nobody knows; make torch know one that a package brought."""
        self.registry.exporters_of(name)
        if name not in self.registry.local_names():
            self.bind(name)

    # --- the end

    def ready(self, timeout_ns: int) -> bool:
        """Wait until what is recorded next is kept at once; whether it is."""
        return not self._uninstalled and self._queue.flush(timeout_ns / NS_PER_S)

    def loaded(self, timeout_ns: int) -> bool:
        """Wait until the SDK and the exporters are imported; whether they are."""
        landing = self._own_runtime
        return landing is not None and landing.pipeline.wait_until_started(timeout_ns)

    def flush(self, timeout_ns: int) -> bool:
        """Deliver what there is now; whether nothing is left. Waits at most ``timeout_ns`` nanoseconds."""
        if self._uninstalled:
            return False  # asking the writer would start it anew
        until = time.monotonic_ns() + timeout_ns
        drained = self._queue.flush(timeout_ns / NS_PER_S)
        landing = self._own_runtime
        return drained and landing is not None and landing.pipeline.flush(max(0, until - time.monotonic_ns()))

    def load_exporters(self) -> None:
        """Wait until exporters are loaded, where that cannot be done any more once the main thread has ended.

        The SDK's import (OpenTelemetry Python 1.45: ``Resource.create``) needs a thread, and Python 3.12 gives none out
        from then on. What this takes of the flush timeout, the flush takes no more.
        """
        landing = self._own_runtime
        if sys.version_info >= (3, 12) and landing is not None:
            began = time.monotonic_ns()
            landing.pipeline.wait_until_started(max(0, self.settings.flush_timeout_ns - self._exit_wait_ns))
            self._exit_wait_ns += time.monotonic_ns() - began

    def flush_at_end(self) -> None:
        """Flush while threads can still be started; what this takes of the flush timeout, ``close`` takes no more."""
        if self._queue.used:
            began = time.monotonic_ns()
            self.flush(max(0, self.settings.flush_timeout_ns - self._exit_wait_ns))
            self._exit_wait_ns += time.monotonic_ns() - began

    def close(self, *, for_good: bool = False) -> bool:
        """Flush within the flush timeout and stop; what is left is in the spool for the next agent.

        Args:
            for_good: Whether the process goes on without us: what is said from here on is not kept, and the spool is
                let go of.

        Returns:
            Whether nothing is left. In a forked child that recorded nothing there is nothing to do.
        """
        if not self._queue.used:
            return True
        timeout_ns = max(0, self.settings.flush_timeout_ns - self._exit_wait_ns)
        until = time.monotonic_ns() + timeout_ns
        delivered = self.flush(timeout_ns)
        kept = False
        if delivered or for_good:
            # a heartbeat of torch's that comes later would find a spool that is closed; one that came is kept in it
            self._queue.close()
            kept = self._queue.flush(max(MIN_FLUSH_NS if for_good else 0, until - time.monotonic_ns()) / NS_PER_S)
            delivered &= kept
        lost = self._queue.lost + self._queue.pending
        if lost:
            logger.warning("%d events could not be kept and are lost", lost)
        landing = self._own_runtime
        if landing is not None:
            if not delivered and landing.path is not None:
                logger.warning(
                    "not all events are delivered; they are kept in %s, and the next agent of this user on this node"
                    " delivers them, or `torchelastic-otel flush`",
                    landing.path.parent,
                )
            # what the writer has in hand still, it keeps in a spool that stays open
            landing.close(max(0, until - time.monotonic_ns()), drained=delivered, for_good=for_good and kept)
        if not for_good:
            wait_for_pending_calls(until)
        return delivered

    def uninstall(self) -> None:
        """Leave torch and the drop-in as they were found; deliver what there is."""
        for hooks in reversed(list(self._hooks.values())):
            hooks.uninstall()
        handlers.resolve_with(None)
        for destination in handlers.bound():
            handlers.unbind(destination)
        self.close(for_good=True)
        self._uninstalled = True
        # a logger of the program's may hold a handler of ours still
        self._queue.close()
        self._queue.stop()

    # --- looking at it

    @property
    def status(self) -> Status:
        """What it is at."""
        landing = self._own_runtime
        return Status(
            self.why,
            tuple(dict.fromkeys(exporter.name for exporter in self.registry.exporters_of("null"))),
            landing.path if landing is not None else None,
            tuple(report for hooks in list(self._hooks.values()) for report in hooks.reports),
            tuple(landing.pipeline.states) if landing is not None else (),
            self._queue.pending,
            self._queue.lost,
        )
