"""From the state to the metrics of one moment, and the state after their export.

Guarantees:

- No series of a counter or histogram begins with anything but 0: a backend takes the first sample for the beginning,
  so that a failure counted in it would be none (Prometheus, ``increase``). Until an accepted snapshot contained a
  series, it is exported as 0, and its value is withheld.
- Counters and histograms never decrease, and the times of an agent's snapshots rise, also if the wall clock steps back.
- The metrics of the job are exported by agents that were job reporter; gauges only while they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue
from torchelastic_otel.model.metric import Distribution, Exemplar, Kind, Metric, Point, Snapshot
from torchelastic_otel.processing.metrics.catalogue import (
    EXPORT_DELIVERED,
    EXPORT_FAILED,
    EXPORT_REJECTED,
    METRICS,
    SPOOL_AGE,
    SPOOL_DROPPED,
    SPOOL_SIZE,
    MetricDefinition,
    Scope,
    series_key,
)
from torchelastic_otel.processing.metrics.counters import RunCounters, count_failures
from torchelastic_otel.processing.metrics.durations import advance
from torchelastic_otel.processing.metrics.self_metrics import SelfMetrics
from torchelastic_otel.processing.metrics.state import MetricState
from torchelastic_otel.processing.metrics.torch_metrics import torch_series

_MIN_STEP_NS: Final = 1_000_000
"""Backends keep milliseconds: two snapshots must not be one."""
_SCOPE_MARKERS: Final = (semconv.METRIC_EVENTS, Scope.AGENT), (semconv.METRIC_RESTARTS, Scope.JOB)
"""A metric of each scope that is in every snapshot that has the scope at all."""
_Value = int | float | Distribution


def snapshot(
    state: MetricState,
    *,
    now_wall_ns: int,
    now_monotonic_ns: int,
    self_metrics: SelfMetrics = SelfMetrics(),  # noqa: B008 - frozen
    final: bool = False,
) -> tuple[Snapshot, MetricState]:
    """All metrics of one moment, and the state to go on with.

    Call it on the thread that calls ``update``, store the state (also in the spool, before anything is sent: counters
    never decrease), and call :func:`acknowledge` once the snapshot was accepted.

    Args:
        state: The state so far.
        now_wall_ns: The moment, nanoseconds since the epoch.
        now_monotonic_ns: The same by the monotonic clock of the state's process.
        self_metrics: What does not come from events.
        final: Whether the process is gone: its time ends with its last event, gauges are left out, and no
            agreement about failures will follow.
    """
    now_ns = state.last_ns if final else now_monotonic_ns
    runs = tuple(replace(run, durations=advance(run.durations, now_ns)) for run in state.runs)
    if final:
        runs = tuple(count_failures(run) for run in runs)
    builder = _Builder(state.exported_series, gauges=not final)
    for run in runs:
        if run.exists:
            builder.add_run(run, now_ns, current=run is runs[-1])
    if runs[-1].exists:
        builder.add_self_metrics(runs[-1], self_metrics)
    time_ns = max(now_wall_ns, state.start_ns, state.sent_ns + _MIN_STEP_NS)
    state = replace(state, runs=runs, sent_ns=time_ns, withheld=builder.withheld)
    return Snapshot(state.start_ns, time_ns, builder.metrics()), state


def acknowledge(state: MetricState, accepted: Snapshot) -> MetricState:
    """The state after a snapshot was accepted: its series have begun, and its exemplars are not exported again."""
    names = {metric.name: metric for metric in accepted.metrics}
    scopes: dict[AttributeValue | None, set[str]] = {}
    for name, scope in _SCOPE_MARKERS:
        for point in names[name].points if name in names else ():
            scopes.setdefault(point.attributes.get(semconv.RUN_ID), set()).add(scope.value)
    exported = {
        (exemplar.time_ns, exemplar.trace_id, exemplar.span_id)
        for metric in accepted.metrics
        for point in metric.points
        for exemplar in point.exemplars
    }
    runs = []
    for run in state.runs:
        examples = {series: tuple(e for e in es if e[1:] not in exported) for series, es in run.exemplars.items()}
        shown = run.exported_scopes | scopes.get(run.id, set())
        runs.append(
            replace(run, exported_scopes=shown, exemplars={series: es for series, es in examples.items() if es})
        )
    table = {definition.name for definition in METRICS}
    outside = {
        _series(metric.name, point.attributes)
        for metric in accepted.metrics
        if metric.name not in table and metric.kind is not Kind.GAUGE
        for point in metric.points
    }
    # names that are there no longer are left out, so that it stays as small as a snapshot
    return replace(state, runs=tuple(runs), exported_series=frozenset(outside) if outside else state.exported_series)


def should_collect(state: MetricState) -> bool:
    """Whether a snapshot is wanted before the interval is over: series have appeared that must begin with 0."""
    agent, job = Scope.AGENT.value, Scope.JOB.value
    return any(
        run.exists and (agent not in run.exported_scopes or (run.was_reporter and job not in run.exported_scopes))
        for run in state.runs
    )


class _Builder:
    """Collects points, metric by metric."""

    def __init__(self, shown: frozenset[str], *, gauges: bool) -> None:
        self._exported_series = shown
        self._gauges = gauges
        self._metrics: dict[str, tuple[MetricDefinition, list[Point]]] = {}
        self.withheld = False

    def metrics(self) -> tuple[Metric, ...]:
        """What was collected."""
        return tuple(
            Metric(each.name, each.unit, each.description, each.kind, tuple(points))
            for each, points in self._metrics.values()
        )

    def add_run(self, run: RunCounters, now_ns: int, *, current: bool) -> None:
        """What was folded from events."""
        for definition in METRICS:
            if definition.scope is Scope.JOB and not run.was_reporter:
                continue
            if definition.kind is Kind.GAUGE:
                value = _gauge(definition, run, now_ns)
                if value is not None and current:
                    self._add(definition, _with_run_id(run, {}), value)
                continue
            shown = definition.scope.value in run.exported_scopes
            for series, attributes in definition.all_series():
                value, examples = _value(definition, series, run), run.exemplars.get(series, ())
                if not shown:
                    value, examples = self._withhold(value), ()
                exemplars = tuple(Exemplar(*example) for example in examples)
                self._add(definition, _with_run_id(run, attributes), value, exemplars)

    def add_self_metrics(self, run: RunCounters, self_metrics: SelfMetrics) -> None:
        """Add what does not come from events."""
        if self_metrics.spool_bytes is not None:
            self._add_self_metric(run, SPOOL_SIZE, {}, self_metrics.spool_bytes)
        if self_metrics.spool_age_ns is not None:
            self._add_self_metric(run, SPOOL_AGE, {}, self_metrics.spool_age_ns / SPOOL_AGE.divisor)
        self._add_self_metric(run, SPOOL_DROPPED, {}, self_metrics.spool_dropped)
        for (destination, signal), exports in self_metrics.exports.items():
            attributes = {semconv.EXPORT_DESTINATION: destination, semconv.EXPORT_SIGNAL: signal.value}
            self._add_self_metric(run, EXPORT_DELIVERED, attributes, exports.delivered)
            self._add_self_metric(run, EXPORT_FAILED, attributes, exports.failed)
            self._add_self_metric(run, EXPORT_REJECTED, attributes, exports.rejected)
        for series in torch_series(self_metrics.torch_metrics):
            self._add_self_metric(run, series.definition, series.attributes, series.value)

    def _add_self_metric(
        self, run: RunCounters, definition: MetricDefinition, attributes: Mapping[str, str], value: _Value
    ) -> None:
        named = _with_run_id(run, attributes)
        if definition.kind is not Kind.GAUGE and _series(definition.name, named) not in self._exported_series:
            value = self._withhold(value)
        self._add(definition, named, value)

    def _withhold(self, value: _Value) -> _Value:
        nothing = (
            Distribution(value.bounds, (0,) * len(value.buckets), 0.0, None, None)
            if isinstance(value, Distribution)
            else 0
        )
        self.withheld = self.withheld or value != nothing
        return nothing

    def _add(
        self,
        definition: MetricDefinition,
        attributes: Mapping[str, AttributeValue],
        value: _Value,
        exemplars: tuple[Exemplar, ...] = (),
    ) -> None:
        if definition.kind is not Kind.GAUGE or self._gauges:
            _, points = self._metrics.setdefault(definition.name, (definition, []))
            points.append(Point(attributes, value, exemplars))


def _value(definition: MetricDefinition, series: str, run: RunCounters) -> _Value:
    if definition.kind is Kind.HISTOGRAM:
        nothing = ((0,) * (len(definition.bounds) + 1), 0.0, None, None)
        return Distribution(definition.bounds, *run.histograms.get(series, nothing))
    if definition.name in (semconv.METRIC_TIME, semconv.METRIC_AGENT_TIME):
        times = run.durations.job if definition.name == semconv.METRIC_TIME else run.durations.agent
        return times.get(series.partition("|")[2], 0) / definition.divisor
    return run.counts.get(series, 0)


def _gauge(definition: MetricDefinition, run: RunCounters, now_ns: int) -> _Value | None:
    if definition.name == semconv.METRIC_KEEP_ALIVE_AGE:
        return None if run.keep_alive_ns is None else max(0, now_ns - run.keep_alive_ns) / definition.divisor
    return run.gauges.get(definition.name)


def _with_run_id(run: RunCounters, attributes: Mapping[str, AttributeValue]) -> Mapping[str, AttributeValue]:
    return attributes if run.id is None else {semconv.RUN_ID: run.id, **attributes}


def _series(name: str, attributes: Mapping[str, AttributeValue]) -> str:
    return series_key(name, *(str(value) for value in attributes.values()))
