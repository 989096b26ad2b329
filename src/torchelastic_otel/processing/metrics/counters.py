"""The counters, histograms, gauges and exemplars of one run.

Guarantees: they are frozen and bounded, and counters never decrease.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.serialization import REQUIRED, stored_as
from torchelastic_otel.processing.metrics.catalogue import HISTOGRAM_BOUNDS, series_key
from torchelastic_otel.processing.metrics.durations import StateDurations
from torchelastic_otel.processing.metrics.failures import Failures, decide

MAX_EXEMPLARS: Final = 2
"""Exemplars of one series between two snapshots; the newest ones."""

StoredHistogram = tuple[tuple[int, ...], float, float | None, float | None]
"""A histogram's buckets, sum, smallest and largest."""
StoredExemplar = tuple[float, int, str, str]
"""An exemplar's value, time, trace and span."""


@dataclass(frozen=True, slots=True)
class RunCounters:
    """One run's numbers.

    Attributes:
        id: The run's id; ``None`` until an event names it.
        counts: Counters by :func:`~torchelastic_otel.processing.metrics.catalogue.series_key`; those at 0 are left out.
        histograms: Histograms by key; empty ones are left out.
        exemplars: Exemplars that no acknowledged snapshot contained yet, by key.
        gauges: The newest values, by metric.
        durations: Where the time went.
        failures: Which workers failed.
        round: The round that this agent joined last.
        keep_alive_ns: When the last heartbeat was sent, monotonic nanoseconds; ``None`` while none is due.
        rendezvous_ns: What a rendezvous took of which it is not known yet how it ended.
        was_reporter: Whether this agent was ever the job reporter, so that it exports the metrics of the job.
        hosts_store: Whether its process hosts the job's store, so that it reports for the first rendezvous.
        exported_scopes: The scopes whose series an acknowledged snapshot contained.
    """

    id: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    histograms: Mapping[str, StoredHistogram] = field(
        default_factory=dict, metadata=stored_as("measured", required=True)
    )
    exemplars: Mapping[str, tuple[StoredExemplar, ...]] = field(
        default_factory=dict, metadata=stored_as("examples", required=True)
    )
    gauges: Mapping[str, int] = field(default_factory=dict)
    durations: StateDurations = field(default_factory=StateDurations, metadata=stored_as("times", required=True))
    failures: Failures = field(default_factory=Failures, metadata=REQUIRED)
    round: int | None = None
    keep_alive_ns: int | None = field(default=None, metadata=stored_as("beat_ns"))
    rendezvous_ns: int | None = None
    was_reporter: bool = field(default=False, metadata=stored_as("ever_spoke"))
    hosts_store: bool = False
    exported_scopes: frozenset[str] = field(default=frozenset(), metadata=stored_as("shown", required=True))

    @property
    def exists(self) -> bool:
        """Whether it has series: those that begin before their run is known would end when it is."""
        return self.id is not None or bool(self.counts)


def count(run: RunCounters, series: str, by: int = 1) -> RunCounters:
    """One counter raised."""
    return replace(run, counts={**run.counts, series: run.counts.get(series, 0) + by})


def observe(run: RunCounters, series: str, value: float) -> RunCounters:
    """One histogram with one more value."""
    bounds = HISTOGRAM_BOUNDS[series.partition("|")[0]]
    buckets, total, least, most = run.histograms.get(series, ((0,) * (len(bounds) + 1), 0.0, None, None))
    place = bisect.bisect_left(bounds, value)
    histograms: StoredHistogram = (
        (*buckets[:place], buckets[place] + 1, *buckets[place + 1 :]),
        total + value,
        value if least is None else min(least, value),
        value if most is None else max(most, value),
    )
    return replace(run, histograms={**run.histograms, series: histograms})


def add_exemplar(
    run: RunCounters, series: str, value: float, time_ns: int, trace_id: str | None, span_id: str | None
) -> RunCounters:
    """Add an exemplar, if the value has a trace."""
    if trace_id is None or span_id is None:
        return run
    exemplars = (*run.exemplars.get(series, ()), (value, time_ns, trace_id, span_id))[-MAX_EXEMPLARS:]
    return replace(run, exemplars={**run.exemplars, series: exemplars})


def count_failures(run: RunCounters, agreed: ElasticEvent | None = None) -> RunCounters:
    """Count the failures whose role is known (:func:`~torchelastic_otel.processing.metrics.failures.decide`)."""
    failures, decided = decide(run.failures, agreed)
    run = replace(run, failures=failures)
    for failure in decided:
        series = series_key(semconv.METRIC_FAILURES, failure.kind, failure.role)
        run = add_exemplar(count(run, series), series, 1, failure.time_ns, failure.trace_id, failure.span_id)
    return run
