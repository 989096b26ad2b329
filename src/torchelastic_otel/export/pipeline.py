"""All routes of a process, and the spools they read: its own, and those of dead processes.

What always holds:

- Nothing here runs on a thread of torch's: one caretaker thread starts the routes and looks for dead
  processes' spools.
- A route exists for every exporter that a seen destination leads to, and for no other.
- Spans and metrics go where torch's own destinations lead; what a program records elsewhere is events only.
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
from torchelastic_otel.export.config import ExportConfig
from torchelastic_otel.export.destinations import GENERATION, TORCH_ELASTIC, Exporter
from torchelastic_otel.export.metric_checkpoints import note_exporters
from torchelastic_otel.export.metric_worker import MetricSource
from torchelastic_otel.export.orphan_adopter import Adopted, OrphanAdopter
from torchelastic_otel.export.pool import ExporterPool
from torchelastic_otel.export.query_runner import SHORTEST_ANSWER_NS, query_runner, run_with_timeout
from torchelastic_otel.export.result import Sender
from torchelastic_otel.export.self_metrics import numbers_of
from torchelastic_otel.export.sources import ExporterState, SpoolSource
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import AttributeValue, Origin
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.processing.metrics.self_metrics import SelfMetrics
from torchelastic_otel.processing.processor import ORIGIN_KEY, SPANS
from torchelastic_otel.spool.store import Spool
from torchelastic_otel.units import NS_PER_S

logger = logging.getLogger("torchelastic_otel")

ADOPTION_INTERVAL_S: Final = 30.0
_LOOK_AFTER_S: Final = 0.2


class Pipeline:
    """See the header of this file.

    Args:
        make_sender: Makes an exporter's sender; called on the exporter's own thread.
        exporters_of: The registry's answer for a destination.
        terms: How routes go about it.
        numbers: This process's numbers, asked for on the threads of metrics exporters; ``None`` where it has none.
        detect: Runs OpenTelemetry's resource detectors; called once, on the caretaker's thread.
        directory: Where dead processes' spools are looked for; ``None`` for nowhere.
        max_bytes: The bound of a spool, bytes.
        adoption_interval_s: How often the caretaker looks for dead processes' spools, seconds; ``None`` for never:
            the caller does, by :meth:`adopt_pass`.
        at_each_look: Called on the caretaker's thread at each of its looks.
    """

    def __init__(
        self,
        make_sender: Callable[[Exporter], Sender[Any]],
        exporters_of: Callable[[str], tuple[Exporter, ...]],
        *,
        terms: ExportConfig,
        numbers: MetricSource | None = None,
        detect: Callable[[], dict[str, AttributeValue]] | None = None,
        directory: Path | None = None,
        max_bytes: int = 64 << 20,
        adoption_interval_s: float | None = ADOPTION_INTERVAL_S,
        at_each_look: Callable[[], object] | None = None,
    ) -> None:
        self._exporters_of = exporters_of
        self._detect = detect
        self._interval_s = adoption_interval_s
        self._at_each_look = at_each_look
        self._sources: list[SpoolSource] = []
        self._fleet = ExporterPool(make_sender, terms, numbers, lambda: self._sources)
        self._seen: set[str] = set()
        self._adopter = (
            OrphanAdopter(
                directory,
                max_bytes,
                lambda: self._fleet.routes,
                lambda: self._fleet.metrics,
                pause_ns=int((adoption_interval_s or 0) * NS_PER_S),
            )
            if directory is not None
            else None
        )
        self._changing = threading.RLock()  # among our own threads only
        self._started = threading.Event()
        self._stop = threading.Event()
        self._exporters_ended = threading.Event()
        self._caretaker: threading.Thread | None = None

    # --- sources and routes; called on the writer's thread or before anything runs

    def add(self, spool: Spool, origin: Origin, *, goes_on: bool = True) -> None:
        """Deliver this process's spool.

        Args:
            spool: The spool.
            origin: Whose it is.
            goes_on: Whether a second one goes on where the first failed; else it is of an origin of its own.
        """
        with self._changing:
            before = self._sources[-1] if self._sources and goes_on else None
            source = SpoolSource(spool, before.origin if before else origin, before)
            spool.put_meta(ORIGIN_KEY, source.origin.to_json())
            for destination in list(self._seen):
                self._subscribe(source, self._known_exporters(destination), destination)
            self._sources.append(source)
            self._fleet.read(source)

    def see(self, destinations: Iterable[str]) -> None:
        """Make sure that the exporters of these destinations have a route and a cursor."""
        for destination in destinations:
            if destination in self._seen or destination == SPANS:
                continue
            with self._changing:
                exporters = self._known_exporters(destination)
                for source in self._sources:
                    try:
                        self._subscribe(source, exporters, destination)
                    except SpoolError:
                        # new rows go to the newest one; one before it may be on the disk that failed
                        if source is self._sources[-1]:
                            raise
                self._fleet.add(exporters)
                self._seen.add(destination)

    def _subscribe(self, source: SpoolSource, exporters: Iterable[Exporter], destination: str) -> None:
        rows_of = {Signal.LOGS: destination, Signal.TRACES: SPANS}
        source.spool.subscribe(
            {exporter.cursor: [rows_of[exporter.signal]] for exporter in exporters if exporter.signal in rows_of}
        )
        # whoever adopts it must know whom its numbers were told
        metrics = {exporter.cursor for exporter in exporters if exporter.signal is Signal.METRICS}
        note_exporters(source.spool, metrics | self._fleet.metrics.keys())

    def _known_exporters(self, destination: str) -> tuple[Exporter, ...]:
        try:
            exporters = self._exporters_of(destination)
        except Exception as error:  # noqa: BLE001 - a destination that a package brings may raise anything
            logger.warning("destination %s: %s; its events are kept and go nowhere", destination, error)
            return ()
        if destination.partition(GENERATION)[0] in TORCH_ELASTIC:
            return exporters
        return tuple(exporter for exporter in exporters if exporter.signal is Signal.LOGS)

    def start(self) -> None:
        """Start the caretaker, which starts the routes."""
        query_runner.begin()
        self._fleet.prepare()
        caretaker = threading.Thread(target=self._care, name="torchelastic-otel-caretaker", daemon=True)
        caretaker.start()
        self._caretaker = caretaker  # not before: what has not begun cannot be joined

    def wake(self) -> None:
        """There is something new in this process's spool."""
        for thread in self._fleet.threads:
            thread.wake()

    # --- looking at it

    @property
    def states(self) -> list[ExporterState]:
        """What each route is at."""
        return self._fleet.states

    def outside(self, now_ns: int) -> SelfMetrics:
        """What became of everything so far, in numbers; reads the spool, so not for a thread that must not wait.

        Args:
            now_ns: Wall clock, nanoseconds since the epoch.
        """
        return numbers_of(self._fleet.exporters, self.states, list(self._sources), now_ns)

    def pending(self) -> int:
        """Rows of this process that at least one exporter has not got."""
        return sum(source.spool.pending() for source in self._sources)

    def adopted(self) -> list[Adopted]:
        """What became of dead processes' spools since this was asked last."""
        return self._adopter.report() if self._adopter is not None else []

    @property
    def held(self) -> frozenset[Path]:
        """The spools of dead processes that this one holds now: an exporter is at them still."""
        return self._adopter.held if self._adopter is not None else frozenset()

    def adopt_pass(self, timeout_ns: int) -> list[Adopted]:
        """Give each dead process's spool one attempt, on the caller's thread, where the caretaker does not adopt.

        Args:
            timeout_ns: When to begin no further attempt, nanoseconds.

        Returns:
            What was taken over, delivered or not.
        """
        if self._adopter is not None and self._fleet.threads:
            self._adopter.run_once(self.flush, timeout_ns)
        return self.adopted()

    # --- the end

    def loaded(self, timeout_ns: int) -> bool:
        """Wait until the SDK is imported and the routes have begun; whether they have in time."""
        return self._started.wait(timeout_ns / NS_PER_S)

    def flush(self, timeout_ns: int) -> bool:
        """Deliver what there is, at once, and wait for it; whether nothing of this process is left.

        A route whose attempt fails is not waited for any longer.
        """
        until = time.monotonic_ns() + timeout_ns
        # the caretaker starts the routes after the first import of the SDK
        self._started.wait(timeout_ns / NS_PER_S)
        for done in [thread.flush() for thread in self._fleet.threads]:
            done.acquire(True, max(0.0, (until - time.monotonic_ns()) / NS_PER_S))
        # on a thread of ours: a disk that hangs must not hold up who asks
        return run_with_timeout(max(0, until - time.monotonic_ns()), lambda: self.pending() == 0) is True

    def stop(self, timeout_ns: int) -> bool:
        """End all threads; whether they have ended in time. Those that have not are daemons."""
        self._stop.set()
        until = time.monotonic_ns() + timeout_ns
        ended = True
        for thread in self._fleet.threads:
            ended &= thread.stop(max(0.0, (until - time.monotonic_ns()) / NS_PER_S))
        self._exporters_ended.set()
        if self._caretaker is not None:
            left_ns = max(until - time.monotonic_ns(), SHORTEST_ANSWER_NS if ended else 0)
            self._caretaker.join(left_ns / NS_PER_S)
            ended &= not self._caretaker.is_alive()
        return ended

    # --- on the caretaker's thread

    def _care(self) -> None:
        with guard:
            self._complete_origin()
        with self._changing:
            self._started.set()
            self._fleet.start()
        while not self._stop.is_set():
            if self._adopter is None or self._interval_s is None:
                self._stop.wait()
                break
            with guard:
                self._adopter.scan()
            with guard:
                if self._at_each_look is not None:
                    self._at_each_look()
            self._stop.wait(_LOOK_AFTER_S if self._adopter.busy else self._interval_s)
        # what they have in hand, they have to finish first
        self._exporters_ended.wait()
        with guard:
            if self._adopter is not None:
                self._adopter.release(everything=True)

    def _complete_origin(self) -> None:
        """Keep in the spool what detectors say of this process, so that whoever delivers it can tell."""
        detected = self._detect() if self._detect is not None else {}
        with self._changing:
            for source in self._sources:
                source.origin = replace(source.origin, detected=detected)
                try:
                    source.spool.put_meta(ORIGIN_KEY, source.origin.to_json())
                except SpoolError as error:
                    logger.debug("%s", error)  # the disk that failed; the next source is elsewhere
