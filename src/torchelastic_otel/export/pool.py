"""The exporters of a process and their threads: one route for each exporter of logs or spans, or of metrics.

What always holds: an exporter has one thread, whoever leads to it; what is new after the start is started at once;
where the system has no thread to spare, whoever asked is told, and asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torchelastic_otel.export.batch_worker import BatchExportWorker
from torchelastic_otel.export.config import ExportConfig
from torchelastic_otel.export.destinations import Exporter
from torchelastic_otel.export.metric_worker import MetricSource, PeriodicMetricWorker
from torchelastic_otel.export.result import Sender
from torchelastic_otel.export.sources import (
    ExporterState,
    Read,
    SpoolSource,
    read_event,
    read_event_but_heartbeats,
    read_spans_that,
)
from torchelastic_otel.model.signals import Signal


class ExporterPool:
    """See the header of this file.

    Args:
        make_sender: Makes an exporter's sender; called on the exporter's own thread.
        terms: How routes go about it.
        numbers: This process's numbers; ``None`` where it has none.
        sources: The spools of this process, as they are at the time of asking.
    """

    def __init__(
        self,
        make_sender: Callable[[Exporter], Sender[Any]],
        terms: ExportConfig,
        numbers: MetricSource | None,
        sources: Callable[[], Sequence[SpoolSource]],
    ) -> None:
        self._make_sender = make_sender
        self._terms = terms
        self._numbers = numbers
        self._sources = sources
        self._prepared = self._started = False
        self.exporters: dict[str, Exporter] = {}
        self.routes: dict[str, BatchExportWorker] = {}
        self.metrics: dict[str, PeriodicMetricWorker] = {}

    @property
    def threads(self) -> list[BatchExportWorker | PeriodicMetricWorker]:
        """All of them."""
        return [*self.routes.values(), *self.metrics.values()]

    @property
    def states(self) -> list[ExporterState]:
        """What each is at."""
        return [thread.state for thread in self.threads]

    def prepare(self) -> None:
        """Have the threads ready, of what there is and of whatever comes.

        Raises:
            RuntimeError: The system has no thread to spare; what lacks one gets it when this is called again.
        """
        self._prepared = True
        for thread in self.threads:
            thread.prepare()

    def start(self) -> None:
        """Start what there is, and from here on whatever comes."""
        self._started = True
        for thread in self.threads:
            try:
                thread.start()
            except RuntimeError:  # no thread: whoever added it was told, and comes again
                continue

    def add(self, exporters: Iterable[Exporter]) -> None:
        """Give a thread to each exporter that has none, and the sources that it has a cursor in.

        Raises:
            RuntimeError: The system has no thread to spare; what lacks one gets it when this is called again.
        """
        exporters = tuple(exporters)
        for exporter in exporters:
            if exporter.cursor not in self.exporters:
                self._metrics_route(exporter) if exporter.signal is Signal.METRICS else self._route(exporter)
                self.exporters[exporter.cursor] = exporter
        for exporter in exporters:
            thread = self.routes.get(exporter.cursor) or self.metrics[exporter.cursor]
            if self._started:
                thread.start()
            elif self._prepared:
                thread.prepare()

    def read(self, source: SpoolSource) -> None:
        """Have every route read this source that has a cursor in it."""
        for route in self.routes.values():
            if route.name in source.spool.cursors():
                route.add(source)

    def _route(self, exporter: Exporter) -> None:
        terms = self._terms
        read: Read = read_event if terms.heartbeats else read_event_but_heartbeats
        if exporter.signal is Signal.TRACES:
            read = read_spans_that(terms.keeps)
        pace = terms.pace(exporter.signal)
        route = self.routes[exporter.cursor] = BatchExportWorker(
            exporter.cursor, lambda: self._make_sender(exporter), pace, read=read
        )
        for source in self._sources():
            if route.name in source.spool.cursors():
                route.add(source)

    def _metrics_route(self, exporter: Exporter) -> None:
        self.metrics[exporter.cursor] = PeriodicMetricWorker(
            exporter.cursor,
            lambda: self._make_sender(exporter),
            self._terms.metrics,
            self._terms.metrics_interval_ns,
            numbers=self._numbers,
            own=lambda: self._sources()[-1] if self._sources() else None,
        )
