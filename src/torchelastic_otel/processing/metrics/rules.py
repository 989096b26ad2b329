"""The rules by which one event changes the metrics of a run.

Guarantees: functions of the counters, the event and its monotonic time; an event that lacks what is needed changes
nothing, and never raises.

Facts: the job reporter of a round is agreed after the round was joined, often after its workers run, and is given by
``torchelastic.round.writer``; that a node joined, left or was lost is reported by one agent alone, whether it is the
job reporter or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.cause import REASONS, UNKNOWN
from torchelastic_otel.model.event import ElasticEvent, int_attribute
from torchelastic_otel.model.phases import RESTART_PHASES, Phase
from torchelastic_otel.processing.metrics import durations, failures
from torchelastic_otel.processing.metrics.catalogue import MEMBERSHIP_ATTRIBUTES, series_key
from torchelastic_otel.processing.metrics.counters import RunCounters, add_exemplar, count, count_failures, observe
from torchelastic_otel.processing.metrics.failures import Failures
from torchelastic_otel.torch_events.catalogue import EVENT_NAMES
from torchelastic_otel.units import NS_PER_S

_EVENT_NAMES: Final = frozenset(EVENT_NAMES)
_NOT_OBSERVED: Final = ("terminated", "left")
"""How an agent ends whose rendezvous neither succeeded nor failed."""


def apply_event(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    """The run's numbers after one more event, which happened at a monotonic time."""
    name = event.name if event.name in _EVENT_NAMES else semconv.UNKNOWN_EVENT
    run = count(run, series_key(semconv.METRIC_EVENTS, name))
    rule = _RULES.get(event.name)
    if rule is not None:
        run = rule(run, event, at_ns)
    return _update_reporter(run, event)


def _agent_started(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    run = count_failures(run)
    return replace(
        run, durations=durations.start_agent(run.durations, at_ns), failures=Failures(), round=None, gauges={}
    )


def _phase_entered(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    try:
        phase = Phase(event.attributes.get(semconv.PHASE))
    except ValueError:
        return run  # of a newer version
    before, began_ns, was_reporter = run.durations.phase, run.durations.began_ns, run.durations.is_reporter
    run = replace(run, durations=durations.enter_phase(run.durations, phase, at_ns))
    if before is Phase.RENDEZVOUS:
        run = replace(run, rendezvous_ns=run.durations.began_ns - began_ns)
    if phase in (Phase.ASSIGN_RANKS, Phase.START, Phase.RUNNING):
        run = _rendezvous_ended(run, "succeeded")
    elif phase is Phase.RENDEZVOUS:
        run = _rendezvous_ended(run, "failed")
    if phase in (Phase.ASSIGN_RANKS, Phase.RUNNING):
        # until the job reporter of this round is known, it is not this agent
        run = replace(run, round=_round(event, run.round), gauges=run.gauges if was_reporter else {})
    if phase is Phase.RUNNING:
        run = _round_gauges(run, event)
    if phase is Phase.ENDED:
        outcome = event.attributes.get(semconv.AGENT_OUTCOME)
        run = replace(run, rendezvous_ns=None) if outcome in _NOT_OBSERVED else _rendezvous_ended(run, "failed")
        run = replace(count_failures(run), gauges={}, keep_alive_ns=None)
    return run


def _rendezvous_ended(run: RunCounters, outcome: str) -> RunCounters:
    if run.rendezvous_ns is None:
        return run
    series = series_key(semconv.METRIC_RENDEZVOUS_DURATION, outcome)
    return replace(observe(run, series, run.rendezvous_ns / NS_PER_S), rendezvous_ns=None)


def _worker_failed(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    run = replace(run, failures=failures.add(run.failures, event))
    if run.durations.phase is None or len(run.failures.undecided) > failures.MAX_REMEMBERED:
        return count_failures(run)  # no agreement will follow
    return run


def _cause_agreed(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    return count_failures(run, event)


def _restart_completed(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    run = count_failures(run, event)
    if event.attributes.get(semconv.WRITER) is not True:
        return run
    reason = event.attributes.get(semconv.RESTART_REASON)
    series = series_key(semconv.METRIC_RESTARTS, str(reason) if reason in REASONS else UNKNOWN)
    time_ns = event.time_ns or event.observed_ns
    run = add_exemplar(count(run, series), series, 1, time_ns, event.trace_id, event.span_id)
    for phase in RESTART_PHASES:
        took = event.attributes.get(semconv.RESTART_PHASE_DURATION.format(phase=phase))
        if isinstance(took, (int, float)) and took >= 0:
            series = series_key(semconv.METRIC_RESTART_DURATION, phase)
            run = add_exemplar(observe(run, series, took), series, took, time_ns, event.trace_id, event.span_id)
    return run


def _membership_changed(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    if event.attributes.get(semconv.WRITER) is False:
        return run
    for change, attribute in MEMBERSHIP_ATTRIBUTES.items():
        nodes = event.attributes.get(attribute)
        if isinstance(nodes, tuple) and nodes:
            run = count(run, series_key(semconv.METRIC_MEMBERSHIP_CHANGES, change), len(nodes))
    return replace(run, was_reporter=True)  # one agent alone reports it, so that its count is the job's


def _run_identified(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    return replace(run, hosts_store=event.attributes.get(semconv.HOSTS_STORE) is True)


def _rendezvous_waiting(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    if run.round is None and run.hosts_store:
        # no job reporter is elected yet, and it will be this agent: without it, a job that never starts has no counts
        run = replace(run, was_reporter=True)
    elif not (run.durations.is_reporter or run.durations.was_reporter):
        return run
    of = event.attributes.get
    counts = {
        semconv.METRIC_PARTICIPANTS: of(semconv.RENDEZVOUS_PRESENT),
        semconv.METRIC_MISSING: of(semconv.RENDEZVOUS_MISSING),
    }
    return replace(
        run, gauges={**run.gauges, **{name: count for name, count in counts.items() if isinstance(count, int)}}
    )


def _keep_alive_sent(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    return replace(count(run, semconv.METRIC_KEEP_ALIVE_SENT), keep_alive_ns=at_ns)


def _state_synced(run: RunCounters, event: ElasticEvent, at_ns: int) -> RunCounters:
    committed = event.attributes.get(semconv.RENDEZVOUS_COMMITTED)
    if isinstance(committed, tuple) and semconv.RENDEZVOUS_KEEP_ALIVE_UPDATED in committed:
        return replace(run, keep_alive_ns=at_ns)  # while it joins, a node keeps itself alive without sending beats
    return run


def _update_reporter(run: RunCounters, event: ElasticEvent) -> RunCounters:
    speaks = event.attributes.get(semconv.WRITER)
    if not isinstance(speaks, bool) or _round(event, run.round) != run.round:
        return run
    if not speaks:
        return replace(run, durations=durations.resign_reporter(run.durations), gauges={})
    if not run.durations.is_reporter:
        took = event.attributes.get(semconv.ROUND_DURATION)
        bring_up_ns = round(took * NS_PER_S) if isinstance(took, (int, float)) else None
        as_reporter = durations.become_reporter(run.durations, first_round=not run.round, bring_up_ns=bring_up_ns)
        run = replace(run, durations=as_reporter, was_reporter=True)
    return _round_gauges(run, event)


def _round_gauges(run: RunCounters, event: ElasticEvent) -> RunCounters:
    """The gauges of the round, if this agent is its job reporter."""
    size = event.attributes.get(semconv.GROUP_WORLD_SIZE)
    if not run.durations.is_reporter or run.round is None or not isinstance(size, int):
        return run
    return replace(
        run,
        gauges={
            semconv.METRIC_RENDEZVOUS_ROUND: run.round,
            semconv.METRIC_WORLD_SIZE: size,
            semconv.METRIC_PARTICIPANTS: size,
            semconv.METRIC_MISSING: 0,
        },
    )


def _round(event: ElasticEvent, default: int | None) -> int | None:
    found = int_attribute(event, semconv.RENDEZVOUS_ROUND)
    return default if found is None else found


def _counted(series: str) -> Callable[[RunCounters, ElasticEvent, int], RunCounters]:
    return lambda run, event, at_ns: count(run, series)


_RULES: Final[Mapping[str, Callable[[RunCounters, ElasticEvent, int], RunCounters]]] = {
    semconv.AGENT_STARTED: _agent_started,
    semconv.AGENT_PHASE_ENTERED: _phase_entered,
    semconv.WORKER_FAILED: _worker_failed,
    semconv.RESTART_CAUSE_AGREED: _cause_agreed,
    semconv.RESTART_COMPLETED: _restart_completed,
    semconv.MEMBERSHIP_CHANGED: _membership_changed,
    semconv.RUN_IDENTIFIED: _run_identified,
    semconv.RENDEZVOUS_WAITING: _rendezvous_waiting,
    semconv.RENDEZVOUS_KEEP_ALIVE_SENT: _keep_alive_sent,
    semconv.RENDEZVOUS_STATE_SYNCED: _state_synced,
    semconv.RENDEZVOUS_KEEP_ALIVE_FAILED: _counted(semconv.METRIC_KEEP_ALIVE_FAILED),
    semconv.RENDEZVOUS_STATE_STALE: _counted(semconv.METRIC_STATE_STALE),
}
