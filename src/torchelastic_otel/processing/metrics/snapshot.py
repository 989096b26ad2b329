"""From a tally to the metrics of one moment, and what the tally learns from having told them.

What always holds:

- No series of a counter or histogram begins with anything but 0: a backend takes the first sample for the beginning,
  so that a failure counted in it would be none (Prometheus, ``increase``). Until a snapshot that was accepted has
  held a series, it is told as 0, and what it counts is held back.
- Counters and histograms never fall, and the times of an agent's snapshots rise, also where the wall clock steps
  back.
- What is the job's is told by agents that spoke for it; gauges only while they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue
from torchelastic_otel.model.metric import Distribution, Exemplar, Kind, Metric, Point, Snapshot
from torchelastic_otel.processing.metrics.catalogue import TABLE, Row, Scope, key
from torchelastic_otel.processing.metrics.counters import RunCounters, settle_failures
from torchelastic_otel.processing.metrics.durations import advance
from torchelastic_otel.processing.metrics.self_metrics import Exports, SelfMetrics
from torchelastic_otel.processing.metrics.state import MetricState
from torchelastic_otel.processing.metrics.torch_metrics import bridged
from torchelastic_otel.units import NS_PER_S

_LEAST_STEP_NS: Final = 1_000_000
"""Backends keep milliseconds: two snapshots must not be one."""
_FROM_ALL: Final = (semconv.METRIC_EVENTS, Scope.AGENT), (semconv.METRIC_RESTARTS, Scope.JOB)
"""A metric of each scope that is in every snapshot that has the scope at all."""
_Value = int | float | Distribution


def snapshot(
    tally: MetricState,
    *,
    now_wall_ns: int,
    now_monotonic_ns: int,
    outside: SelfMetrics = SelfMetrics(),  # noqa: B008 - frozen
    final: bool = False,
) -> tuple[Snapshot, MetricState]:
    """All metrics of one moment, and the tally to go on with.

    Call it where ``fold`` is called, keep the tally (also in the spool, before anything is sent: what was told must
    never be taken back), and tell :func:`acknowledge` once the snapshot was accepted.

    Args:
        tally: The tally so far.
        now_wall_ns: The moment, nanoseconds since the epoch.
        now_monotonic_ns: The same by the monotonic clock of the tally's process.
        outside: What does not come from events.
        final: Whether the process is gone: its time ends with its last event, no gauge is told, and nobody will
            agree any more on whose fault a failure was.
    """
    now_ns = tally.last_ns if final else now_monotonic_ns
    runs = tuple(replace(run, times=advance(run.times, now_ns)) for run in tally.runs)
    if final:
        runs = tuple(settle_failures(run) for run in runs)
    builder = _Builder(tally.shown, gauges=not final)
    for run in runs:
        if run.exists:
            builder.of_events(run, now_ns, current=run is runs[-1])
    if runs[-1].exists:
        builder.of_outside(runs[-1], outside)
    time_ns = max(now_wall_ns, tally.start_ns, tally.sent_ns + _LEAST_STEP_NS)
    tally = replace(tally, runs=runs, sent_ns=time_ns, held_back=builder.held_back)
    return Snapshot(tally.start_ns, time_ns, builder.metrics()), tally


def acknowledge(tally: MetricState, accepted: Snapshot) -> MetricState:
    """The tally after a snapshot was accepted: its series have begun, and its exemplars need not be told again."""
    names = {metric.name: metric for metric in accepted.metrics}
    scopes: dict[AttributeValue | None, set[str]] = {}
    for name, scope in _FROM_ALL:
        for point in names[name].points if name in names else ():
            scopes.setdefault(point.attributes.get(semconv.RUN_ID), set()).add(scope.value)
    told = {
        (exemplar.time_ns, exemplar.trace_id, exemplar.span_id)
        for metric in accepted.metrics
        for point in metric.points
        for exemplar in point.exemplars
    }
    runs = []
    for run in tally.runs:
        examples = {series: tuple(e for e in es if e[1:] not in told) for series, es in run.examples.items()}
        shown = run.shown | scopes.get(run.id, set())
        runs.append(replace(run, shown=shown, examples={series: es for series, es in examples.items() if es}))
    table = {row.name for row in TABLE}
    outside = {
        _place(metric.name, point.attributes)
        for metric in accepted.metrics
        if metric.name not in table and metric.kind is not Kind.GAUGE
        for point in metric.points
    }
    # names that are there no longer are left out, so that it stays as small as a snapshot
    return replace(tally, runs=tuple(runs), shown=frozenset(outside) if outside else tally.shown)


def is_due(tally: MetricState) -> bool:
    """Whether a snapshot is wanted before the interval is over: series have appeared that must begin with 0."""
    agent, job = Scope.AGENT.value, Scope.JOB.value
    return any(
        run.exists and (agent not in run.shown or (run.ever_spoke and job not in run.shown)) for run in tally.runs
    )


class _Builder:
    """Collects points, metric by metric."""

    def __init__(self, shown: frozenset[str], *, gauges: bool) -> None:
        self._shown = shown
        self._gauges = gauges
        self._metrics: dict[str, tuple[str, str, Kind, list[Point]]] = {}
        self.held_back = False

    def metrics(self) -> tuple[Metric, ...]:
        """What was collected."""
        return tuple(
            Metric(name, unit, description, kind, tuple(points))
            for name, (unit, description, kind, points) in self._metrics.items()
        )

    def of_events(self, run: RunCounters, now_ns: int, *, current: bool) -> None:
        """What was folded from events."""
        for row in TABLE:
            if row.scope is Scope.JOB and not run.ever_spoke:
                continue
            if row.kind is Kind.GAUGE:
                value = _gauge(row, run, now_ns)
                if value is not None and current:
                    self._add(row.name, row.unit, row.description, row.kind, _named(run, {}), value)
                continue
            shown = row.scope.value in run.shown
            for series, attributes in row.series():
                value, examples = _value(row, series, run), run.examples.get(series, ())
                if not shown:
                    value, examples = self._held(value), ()
                exemplars = tuple(Exemplar(*example) for example in examples)
                self._add(row.name, row.unit, row.description, row.kind, _named(run, attributes), value, exemplars)

    def of_outside(self, run: RunCounters, outside: SelfMetrics) -> None:
        """What does not come from events."""
        size, age_ns = outside.spool_bytes, outside.spool_age_ns
        if size is not None:
            self._outside(run, semconv.METRIC_SPOOL_SIZE, "By", "What the spool takes on disk.", Kind.GAUGE, {}, size)
        if age_ns is not None:
            said, age_s = "How long the oldest event has waited for delivery.", age_ns / NS_PER_S
            self._outside(run, semconv.METRIC_SPOOL_AGE, "s", said, Kind.GAUGE, {}, age_s)
        said = "Events that were lost before they could be delivered."
        self._outside(run, semconv.METRIC_SPOOL_DROPPED, "{event}", said, Kind.COUNTER, {}, outside.spool_dropped)
        for (destination, signal), exports in outside.exports.items():
            attributes = {semconv.EXPORT_DESTINATION: destination, semconv.EXPORT_SIGNAL: signal.value}
            for name, said, number in _of_exports(exports):
                self._outside(run, name, "{event}", said, Kind.COUNTER, attributes, number)
        for series in bridged(outside.torch_metrics):
            said, kind = series.description, series.kind
            self._outside(run, series.name, series.unit, said, kind, series.attributes, series.value)

    def _outside(
        self,
        run: RunCounters,
        name: str,
        unit: str,
        said: str,
        kind: Kind,
        attributes: Mapping[str, str],
        value: _Value,
    ) -> None:
        named = _named(run, attributes)
        if kind is not Kind.GAUGE and _place(name, named) not in self._shown:
            value = self._held(value)
        self._add(name, unit, said, kind, named, value)

    def _held(self, value: _Value) -> _Value:
        nothing = (
            Distribution(value.bounds, (0,) * len(value.buckets), 0.0, None, None)
            if isinstance(value, Distribution)
            else 0
        )
        self.held_back = self.held_back or value != nothing
        return nothing

    def _add(
        self,
        name: str,
        unit: str,
        description: str,
        kind: Kind,
        attributes: Mapping[str, AttributeValue],
        value: _Value,
        exemplars: tuple[Exemplar, ...] = (),
    ) -> None:
        if kind is not Kind.GAUGE or self._gauges:
            _, _, _, points = self._metrics.setdefault(name, (unit, description, kind, []))
            points.append(Point(attributes, value, exemplars))


def _value(row: Row, series: str, run: RunCounters) -> _Value:
    if row.kind is Kind.HISTOGRAM:
        nothing = ((0,) * (len(row.bounds) + 1), 0.0, None, None)
        return Distribution(row.bounds, *run.measured.get(series, nothing))
    if row.name in (semconv.METRIC_TIME, semconv.METRIC_AGENT_TIME):
        times = run.times.job if row.name == semconv.METRIC_TIME else run.times.agent
        return times.get(series.partition("|")[2], 0) / row.divisor
    return run.counts.get(series, 0)


def _gauge(row: Row, run: RunCounters, now_ns: int) -> _Value | None:
    if row.name == semconv.METRIC_KEEP_ALIVE_AGE:
        return None if run.beat_ns is None else max(0, now_ns - run.beat_ns) / row.divisor
    return run.gauges.get(row.name)


def _of_exports(exports: Exports) -> tuple[tuple[str, str, int], ...]:
    return (
        (semconv.METRIC_EXPORT_DELIVERED, "Records that a destination accepted.", exports.delivered),
        (semconv.METRIC_EXPORT_FAILED, "Records set aside because no attempt could succeed.", exports.failed),
        (semconv.METRIC_EXPORT_REJECTED, "Records that a receiver said it did not take.", exports.rejected),
    )


def _named(run: RunCounters, attributes: Mapping[str, AttributeValue]) -> Mapping[str, AttributeValue]:
    return attributes if run.id is None else {semconv.RUN_ID: run.id, **attributes}


def _place(name: str, attributes: Mapping[str, AttributeValue]) -> str:
    return key(name, *(str(value) for value in attributes.values()))
