"""One run's numbers, and how a counter, a histogram and an exemplar are kept in them.

What always holds: a run's numbers are frozen, bounded, and never fall; ``from_plain`` is the inverse of how a spool
keeps them.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.serialization import REQUIRED
from torchelastic_otel.processing.metrics.catalogue import BOUNDS, key
from torchelastic_otel.processing.metrics.durations import StateDurations
from torchelastic_otel.processing.metrics.failures import Failures, decide

MAX_EXEMPLARS: Final = 2
"""Exemplars of one series between two snapshots; the newest ones."""

Measured = tuple[tuple[int, ...], float, float | None, float | None]
"""A histogram's buckets, sum, smallest and largest."""
Example = tuple[float, int, str, str]
"""An exemplar's value, time, trace and span."""


@dataclass(frozen=True, slots=True)
class RunCounters:
    """One run's numbers.

    Attributes:
        id: The run's id; ``None`` where no event has said it.
        counts: Counters by :func:`~torchelastic_otel.processing.metrics.catalogue.key`; those at 0 are left out.
        measured: Histograms by key; empty ones are left out.
        examples: Exemplars that no acknowledged snapshot has held yet, by key.
        gauges: The newest values, by metric.
        times: Where the time went.
        failures: Which workers failed.
        round: The round that this agent joined last.
        beat_ns: When the last heartbeat was sent, monotonic nanoseconds; ``None`` while none is due.
        rendezvous_ns: What a rendezvous took of which it is not known yet how it ended.
        ever_spoke: Whether this agent ever spoke for the job, so that it exports what is the job's.
        hosts_store: Whether its process hosts the job's store, so that it speaks for the first rendezvous.
        shown: The scopes whose series an acknowledged snapshot has held.
    """

    id: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    measured: Mapping[str, Measured] = field(default_factory=dict, metadata=REQUIRED)
    examples: Mapping[str, tuple[Example, ...]] = field(default_factory=dict, metadata=REQUIRED)
    gauges: Mapping[str, int] = field(default_factory=dict)
    times: StateDurations = field(default_factory=StateDurations, metadata=REQUIRED)
    failures: Failures = field(default_factory=Failures, metadata=REQUIRED)
    round: int | None = None
    beat_ns: int | None = None
    rendezvous_ns: int | None = None
    ever_spoke: bool = False
    hosts_store: bool = False
    shown: frozenset[str] = field(default=frozenset(), metadata=REQUIRED)

    @property
    def exists(self) -> bool:
        """Whether there is anything to tell: series that begin before their run is known would end when it is."""
        return self.id is not None or bool(self.counts)


def count(run: RunCounters, series: str, by: int = 1) -> RunCounters:
    """One counter raised."""
    return replace(run, counts={**run.counts, series: run.counts.get(series, 0) + by})


def measure(run: RunCounters, series: str, value: float) -> RunCounters:
    """One histogram with one more value."""
    bounds = BOUNDS[series.partition("|")[0]]
    buckets, total, least, most = run.measured.get(series, ((0,) * (len(bounds) + 1), 0.0, None, None))
    place = bisect.bisect_left(bounds, value)
    measured: Measured = (
        (*buckets[:place], buckets[place] + 1, *buckets[place + 1 :]),
        total + value,
        value if least is None else min(least, value),
        value if most is None else max(most, value),
    )
    return replace(run, measured={**run.measured, series: measured})


def example(
    run: RunCounters, series: str, value: float, time_ns: int, trace_id: str | None, span_id: str | None
) -> RunCounters:
    """An exemplar kept, where a trace tells of the value."""
    if trace_id is None or span_id is None:
        return run
    examples = (*run.examples.get(series, ()), (value, time_ns, trace_id, span_id))[-MAX_EXEMPLARS:]
    return replace(run, examples={**run.examples, series: examples})


def settle_failures(run: RunCounters, agreed: ElasticEvent | None = None) -> RunCounters:
    """Count the failures whose role is known (:func:`~torchelastic_otel.processing.metrics.failures.decide`)."""
    failures, decided = decide(run.failures, agreed)
    run = replace(run, failures=failures)
    for failure in decided:
        series = key(semconv.METRIC_FAILURES, failure.kind, failure.role)
        run = example(count(run, series), series, 1, failure.time_ns, failure.trace_id, failure.span_id)
    return run
