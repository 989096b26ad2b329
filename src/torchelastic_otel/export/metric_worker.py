"""The worker of a metric exporter: a snapshot every interval, the newest only, and the last ones of orphaned spools.

Guarantees:

- State, not a backlog: a snapshot that could not be sent is replaced by a newer one. Only an exporter of deltas gets
  the difference that was computed before its first attempt again, unchanged, until it is accepted or rejected; the next
  one begins where it ended.
- A snapshot that the receiver rejects is dropped and counted.
- The first value of a counter or histogram for a receiver is 0, whatever another receiver has received.
- A snapshot is stored in the spool before it is sent, so that an adopter sends the remaining values, once and without
  gauges, and no counter ever falls.
- Its thread has the guarantees of :mod:`~torchelastic_otel.export.worker`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol, cast

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export import metric_delta
from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.export.metric_checkpoints import FinalSnapshots, MetricCheckpoints, final_snapshots
from torchelastic_otel.export.metric_delta import MetricBatch
from torchelastic_otel.export.result import Disposition, ExportResult, Sender
from torchelastic_otel.export.sources import SpoolSource
from torchelastic_otel.export.worker import ExportWorker, Wait, wait_until_urgent
from torchelastic_otel.model.metric import Kind, Snapshot

logger = logging.getLogger("torchelastic_otel")

_MAX_CONSECUTIVE: Final = 3
"""Snapshots that are sent without a pause when a flush requests everything."""


class MetricSource(Protocol):
    """This process's metrics; called on the threads of metric exporters, except ``should_collect``."""

    def collect(self) -> Snapshot:
        """All metrics at this moment; a snapshot without metrics is not sent."""
        ...

    def commit(self, snapshot: Snapshot) -> bool:
        """A receiver has accepted a snapshot; whether another one should follow soon."""
        ...

    def should_collect(self) -> bool:
        """Whether a snapshot is due before the interval ends; called at each commit, on the writer's thread."""
        ...


class MetricsSender(Sender[MetricBatch], Protocol):
    """A sender of metrics."""

    @property
    def delta_kinds(self) -> frozenset[Kind]:
        """The instruments that the exporter wants as deltas."""
        ...


class PeriodicMetricWorker(ExportWorker[MetricBatch]):
    """See the module's docstring; arguments that are not listed are those of :class:`ExportWorker`.

    Args:
        interval_ns: Time from one snapshot to the next, nanoseconds (``OTEL_METRIC_EXPORT_INTERVAL``).
        metric_source: Returns this process's metrics; ``None`` if it has none yet.
        final_snapshots: Makes the last snapshots of an orphaned spool.
        current_source: This process's newest spool.
        clock_ns: A monotonic clock, nanoseconds.
    """

    disabled_effect = "its metrics are not exported"

    def __init__(
        self,
        name: str,
        make_sender: Callable[[], Sender[MetricBatch]],
        config: BatchConfig,
        interval_ns: int,
        *,
        metric_source: Callable[[], MetricSource | None],
        final_snapshots: FinalSnapshots = final_snapshots,
        current_source: Callable[[], SpoolSource | None],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        jitter: Callable[[], float] | None = None,
        wait: Wait = wait_until_urgent,
    ) -> None:
        super().__init__(name, make_sender, config, jitter=jitter, wait=wait)
        self._interval_ns = interval_ns
        self._metric_source = metric_source
        self._checkpoints = MetricCheckpoints(name, final_snapshots)
        self._current_source = current_source
        self._clock_ns = clock_ns
        self._base: Snapshot | None = None
        self._retained: MetricBatch | None = None  # of deltas, until it is accepted or rejected
        self._started_series: set[object] = set()
        self._is_partial = False  # series of the last snapshot were sent as 0
        self._due_ns = 0

    def wake(self) -> None:
        """New data is there; a series that has started is sent at once, as 0, before it rises."""
        super().wake()
        if self._should_collect():
            self._wake_at_once()

    def _should_collect(self) -> bool:
        # after an error the backoff decides
        metric_source = self._metric_source()
        return metric_source is not None and not self._error and metric_source.should_collect()

    def add(self, source: SpoolSource) -> None:
        """Send the remaining metrics of an orphaned spool."""
        super().add(source)
        self._wake_at_once()

    def has_unsent(self, source: SpoolSource) -> bool:
        """Whether metrics of an orphaned spool are to be sent; not if they cannot be read."""
        return bool(self._unsent(source))

    def _unsent(self, source: SpoolSource) -> list[MetricBatch]:
        try:
            return self._checkpoints.unsent(source)
        except (ValueError, SpoolError) as error:
            logger.debug("%s", error)
            return []

    # --- on the worker's thread

    def _attempt(self, sender: Sender[MetricBatch], *, flushing: bool) -> int | None:
        waits = [self._send_remaining(sender, source) for source in self._sources]
        metric_source = self._metric_source()
        if metric_source is not None:
            waits.append(self._send_current(cast(MetricsSender, sender), metric_source, flushing))
        return min((wait for wait in waits if wait is not None), default=None)

    def _send_current(self, sender: MetricsSender, metric_source: MetricSource, flushing: bool) -> int | None:
        """Send a snapshot if it is due; how long to wait, ``None`` if there is nothing to send yet."""
        early_ns = self._due_ns - self._clock_ns()
        if early_ns > 0 and not flushing and not self._should_collect():
            return early_ns
        for _ in range(_MAX_CONSECUTIVE):
            is_retry = self._retained is not None
            batch = self._retained or self._collect(metric_source)
            if batch is None:
                return None
            if self._stopping:
                break
            result = self._export(sender, batch)
            if result.disposition in (Disposition.RETRY, Disposition.BLOCKED):
                self._retained = None  # cumulative values are collected again
                if sender.delta_kinds:
                    self._retained = replace(batch, snapshot=metric_delta.without_gauges(batch.snapshot))
                return self._schedule(self._backoff.next_delay_ns(result))
            self._retained = None
            source = self._current_source()
            if source is not None:
                self._checkpoints.save(source.spool, replace(batch, base=batch.snapshot))
            more = False
            if result.disposition is Disposition.DELIVERED:
                self._started_series |= metric_delta.cumulative_values(batch.snapshot).keys()
                more = metric_source.commit(batch.snapshot) or self._is_partial
            if not (is_retry or (more and flushing)):
                return self._schedule(min(self._config.delay_ns, self._interval_ns) if more else self._interval_ns)
        return self._schedule(self._interval_ns)

    def _collect(self, metric_source: MetricSource) -> MetricBatch | None:
        """The newest snapshot, with the one that was sent before it; stored in the spool."""
        source = self._current_source()
        if source is None:
            return None
        collected = metric_source.collect()
        if not collected.metrics:
            return None
        snapshot = metric_delta.with_zero_starts(collected, self._started_series)
        self._is_partial = metric_delta.cumulative_values(snapshot) != metric_delta.cumulative_values(collected)
        batch = MetricBatch(source.origin, snapshot, self._base)
        self._checkpoints.save(source.spool, batch)
        self._base = snapshot
        return batch

    def _export(self, sender: Sender[MetricBatch], batch: MetricBatch) -> ExportResult:
        """Send, count, and log what went wrong."""
        result = self._send(sender, batch)
        if result.disposition is Disposition.DELIVERED:
            self._error = ""
            self._backoff.reset()
            self._delivered += batch.points - result.rejected_count
            self._rejected += result.rejected_count
            if result.rejected_count:
                self._log_once(f"the receiver rejected {result.rejected_count} data points: {result.reason}")
            return result
        self._failures += 1
        self._error = result.reason
        if result.disposition is Disposition.REJECTED:
            self._quarantined += batch.points
            self._log_once(f"{result.reason}; this snapshot is dropped")
        else:
            self._log_once(f"{result.reason}; retrying with the newest values")
        return result

    def _schedule(self, wait_ns: int) -> int:
        self._due_ns = self._clock_ns() + wait_ns
        return wait_ns

    def _send_remaining(self, sender: Sender[MetricBatch], source: SpoolSource) -> int | None:
        """Send what an orphaned spool has not sent; how long to wait after a failure."""
        with self._sources.use(source) as present:
            for batch in self._unsent(source) if present else ():
                self._checkpoints.save(source.spool, batch)
                if self._export(sender, batch).disposition in (Disposition.RETRY, Disposition.BLOCKED):
                    return self._config.max_backoff_ns
                self._checkpoints.save(source.spool, replace(batch, base=batch.snapshot))
            self.remove(source)
        return None
