"""From a tally to metrics that a backend can sum, and in which nothing is lost or told twice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.agent_streams import BOOTED_NS, EPOCH_NS, SPAN, TRACE, AgentStream, S, values
from torchelastic_otel import semconv
from torchelastic_otel.model.metric import Distribution, Kind, Snapshot
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.processing.metrics import MetricState
from torchelastic_otel.processing.metrics.self_metrics import ExportCounters, SelfMetrics, TorchMetric
from torchelastic_otel.processing.metrics.snapshot import acknowledge, should_collect, snapshot

OUTSIDE = SelfMetrics(
    spool_bytes=4096,
    spool_age_ns=1_500_000_000,
    spool_dropped=3,
    exports={("otlp", Signal.LOGS): ExportCounters(7, 1, 2), ("file", Signal.METRICS): ExportCounters()},
    torch_metrics={
        "torchelastic/SimpleElasticAgent.run.success": TorchMetric(
            "torchelastic", "SimpleElasticAgent.run.success", 1, 1
        )
    },
)


def look(tally: MetricState, at_s: float, **options: Any) -> tuple[Snapshot, MetricState]:
    """A snapshot at a moment that is not acknowledged."""
    at_ns = round(at_s * S)
    return snapshot(tally, now_wall_ns=EPOCH_NS + at_ns, now_monotonic_ns=BOOTED_NS + at_ns, **options)


def numbers(told: Snapshot) -> list[float]:
    """All counts and sums of what must not begin with anything but 0."""
    points = [point.value for metric in told.metrics if metric.kind is not Kind.GAUGE for point in metric.points]
    return [value.sum + sum(value.buckets) if isinstance(value, Distribution) else value for value in points]


def busy() -> AgentStream:
    """An agent that has counted something of everything, before anybody looked."""
    stream = AgentStream()
    stream.bring_up(0, 0, writer=True)
    stream.fail(10, rank=0)
    stream.enter(10, Phase.STOP)
    stream.bring_up(12, 1, writer=True)
    stream.say(
        17, semconv.RESTART_COMPLETED, (0, 100), writer=True, restart_agreed=True, restart_reason="worker_failure"
    )
    return stream


def test_every_series_begins_with_zero_and_is_told_in_full_next() -> None:
    """A counter whose first sample is 1 makes ``increase()`` 0: the failure would never have been."""
    told, tally = look(busy().tally, 20, self_metrics=OUTSIDE)
    assert set(numbers(told)) == {0}
    assert tally.withheld
    told, tally = look(acknowledge(tally, told), 21, self_metrics=OUTSIDE)
    assert not tally.withheld
    known = values(told)
    assert known[semconv.METRIC_FAILURES]["exit", "cause"] == 1
    assert known[semconv.METRIC_RESTARTS][("worker_failure",)] == 1
    assert known[semconv.METRIC_SPOOL_DROPPED] == {(): 3}
    assert known["torchelastic.agent.simple_elastic_agent.run.success"] == {(): 1}


def test_zeros_that_nobody_accepted_have_not_begun_a_series() -> None:
    """The collector may be away when the job starts, which is when the first worker fails."""
    _, tally = look(busy().tally, 20)
    told, tally = look(tally, 80)
    assert set(numbers(told)) == {0}
    assert tally.withheld


def test_the_jobs_series_begin_when_this_agent_first_speaks() -> None:
    """An agent that never spoke exports none of the job's: summed over agents they would be wrong, or many."""
    stream = AgentStream()
    stream.bring_up(0, 0, writer=None)
    assert should_collect(stream.tally)
    stream.snapshot(10)
    assert not should_collect(stream.tally)
    jobs = {semconv.METRIC_RESTARTS, semconv.METRIC_TIME, semconv.METRIC_WORLD_SIZE, semconv.METRIC_MEMBERSHIP_CHANGES}
    assert not jobs & set(stream.snapshot(11))
    stream.enter(20, Phase.STOP)
    stream.bring_up(21, 1, writer=True)
    stream.say(25, semconv.RESTART_COMPLETED, writer=True, restart_reason="node_lost")
    assert should_collect(stream.tally)
    first, second = stream.snapshot(26), stream.snapshot(27)
    assert jobs <= set(first)
    assert (first[semconv.METRIC_RESTARTS][("node_lost",)], second[semconv.METRIC_RESTARTS][("node_lost",)]) == (0, 1)
    assert not should_collect(stream.tally)


def test_the_jobs_gauges_are_told_by_the_one_that_speaks_and_no_longer() -> None:
    """Two agents that both tell the world size make one of them wrong after the next change."""
    stream = AgentStream()
    stream.bring_up(0, 3, writer=True)
    gauges = (
        semconv.METRIC_RENDEZVOUS_ROUND,
        semconv.METRIC_WORLD_SIZE,
        semconv.METRIC_PARTICIPANTS,
        semconv.METRIC_MISSING,
    )
    told = stream.snapshot(5)
    assert [told[name][()] for name in gauges] == [3, 2, 2, 0]
    stream.enter(10, Phase.RENDEZVOUS)
    named = ("a",) * 64
    for second, present, missing in ((15, 72, 28), (17, 101, 0)):
        waiting: dict[str, Any] = {
            "rendezvous_present": present,
            "rendezvous_participants": named,
            "rendezvous_missing": missing,
        }
        stream.say(second, semconv.RENDEZVOUS_WAITING, **waiting)
        told = stream.snapshot(second + 1)
        assert [told[name][()] for name in gauges] == [3, 2, present, missing]
    stream.say(19, semconv.RENDEZVOUS_WAITING)
    told = stream.snapshot(19.5)
    assert [told[name][()] for name in gauges] == [3, 2, 101, 0], "where nobody can look, nothing is known anew"
    stream.join(20, 4)
    stream.enter(21, Phase.RUNNING)
    told = stream.snapshot(22)
    assert not set(gauges) & set(told)
    assert semconv.METRIC_RESTARTS in told


@pytest.mark.parametrize("hosts", [True, False])
def test_who_hosts_the_store_says_how_many_the_first_rendezvous_lacks(hosts: bool) -> None:
    """A job that never starts elects nobody; an alert on it must have the number all the same, and once."""
    stream = AgentStream()
    stream.say(0, semconv.AGENT_STARTED)
    stream.say(0, semconv.RUN_IDENTIFIED, hosts_store=hosts)
    stream.enter(0, Phase.RENDEZVOUS)
    stream.say(5, semconv.RENDEZVOUS_WAITING, rendezvous_present=2, rendezvous_missing=2)
    told = stream.snapshot(6)
    assert told.get(semconv.METRIC_MISSING) == ({(): 2} if hosts else None)
    assert told.get(semconv.METRIC_PARTICIPANTS) == ({(): 2} if hosts else None)
    stream.join(20, 0)
    assert semconv.METRIC_MISSING not in stream.snapshot(22)


def test_counters_never_fall_and_times_rise_though_the_clock_steps_back() -> None:
    """A backend takes a fall for a restart of the process, and refuses what is older than what it has."""
    stream = busy()
    first, tally = look(stream.tally, 100)
    second, tally = look(acknowledge(tally, first), 50)
    third, _ = look(tally, 50)
    assert first.time_ns < second.time_ns < third.time_ns
    assert first.start_ns == third.start_ns == EPOCH_NS
    assert all(after >= before for before, after in zip(numbers(second), numbers(third), strict=True))


def test_a_dead_agents_last_word_has_no_gauges_and_ends_with_its_last_event() -> None:
    """Nobody knows when it died, and its age of heartbeats is no news hours later."""
    stream = busy()
    stream.say(30, semconv.RENDEZVOUS_KEEP_ALIVE_SENT)
    stream.snapshot(30)
    tally = MetricState.from_json(stream.tally.to_json())
    told, tally = look(tally, 9_000, final=True, self_metrics=OUTSIDE)
    assert [metric.name for metric in told.metrics if metric.kind is Kind.GAUGE] == []
    assert sum(values(told)[semconv.METRIC_AGENT_TIME].values()) == 30
    again, _ = look(acknowledge(tally, told), 9_001, final=True, self_metrics=OUTSIDE)
    assert sum(values(again)[semconv.METRIC_TIME].values()) == 30


def test_an_exemplar_leads_from_a_count_to_the_trace_and_is_told_once() -> None:
    """From a rising line to the record of what happened is one click."""
    told, tally = look(busy().tally, 20)
    assert not [e for metric in told.metrics for point in metric.points for e in point.exemplars]
    told, tally = look(acknowledge(tally, told), 21)
    found = {
        metric.name: (exemplar.value, exemplar.time_ns, exemplar.trace_id, exemplar.span_id)
        for metric in told.metrics
        for point in metric.points
        for exemplar in point.exemplars
    }
    assert found == {
        semconv.METRIC_FAILURES: (1, EPOCH_NS + 10 * S, TRACE, SPAN),
        semconv.METRIC_RESTARTS: (1, EPOCH_NS + 17 * S, TRACE, SPAN),
    }
    told, _ = look(acknowledge(tally, told), 22)
    assert not [e for metric in told.metrics for point in metric.points for e in point.exemplars]


def test_numbers_from_outside_are_told_by_destination_and_signal() -> None:
    """A destination that rejects what it gets must be seen by whoever looks at another one."""
    stream = AgentStream()
    stream.say(0, semconv.AGENT_STARTED)
    stream.snapshot(0, self_metrics=OUTSIDE)
    told = stream.snapshot(1, self_metrics=OUTSIDE)
    assert told[semconv.METRIC_SPOOL_SIZE] == {(): 4096}
    assert told[semconv.METRIC_SPOOL_AGE] == {(): 1.5}
    assert told[semconv.METRIC_EXPORT_DELIVERED] == {("otlp", "logs"): 7, ("file", "metrics"): 0}
    assert told[semconv.METRIC_EXPORT_FAILED]["otlp", "logs"] == 1
    assert told[semconv.METRIC_EXPORT_REJECTED]["otlp", "logs"] == 2


def test_an_agent_has_as_many_series_in_a_job_of_ten_thousand_nodes_as_of_two() -> None:
    """Low cardinality by construction: what the job does must never make a series."""

    def life(nodes: int) -> list[tuple[object, ...]]:
        stream = AgentStream()
        stream.world_size = nodes
        for round_ in range(6):
            at = round_ * 100
            stream.bring_up(at, round_, writer=True)
            names = tuple(f"node{n}_{n}_0" for n in range(nodes))
            stream.say(at + 5, semconv.MEMBERSHIP_CHANGED, membership_joined=names, membership_lost=names)
            for rank in range(min(nodes, 50)):
                stream.fail(at + 10, rank=rank, error_type=f"E{rank}", exception_message=f"m{rank}")
            stream.say(at + 11, f"an.event.{round_}")
            stream.say(at + 12, semconv.RESTART_COMPLETED, writer=True, restart_reason=f"r{round_}")
        told, _ = look(stream.tally, 1_000)
        return [(metric.name, *sorted(point.attributes.items())) for metric in told.metrics for point in metric.points]

    few, many = life(2), life(10_000)
    assert few == many
    assert len(set(many)) == len(many) < 120
    forbidden = {semconv.WORKER_PID, semconv.NODE_ID, semconv.WORKER_RANK, semconv.EXCEPTION_MESSAGE, semconv.HOST_NAME}
    assert not forbidden & {label for series in many for label, _ in series[1:]}  # type: ignore[misc, has-type]


def test_every_point_says_its_run_once_that_is_known() -> None:
    """Two jobs on one node must not be one line in a chart."""
    told, _ = look(busy().tally, 20, self_metrics=OUTSIDE)
    runs = {point.attributes.get(semconv.RUN_ID) for metric in told.metrics for point in metric.points}
    assert runs == {"run"}


def test_nothing_is_told_before_there_is_a_run_or_an_event() -> None:
    """Series without a run would begin and end with the first second of every agent."""
    told, tally = look(MetricState(EPOCH_NS), 1, self_metrics=OUTSIDE)
    assert told.metrics == ()
    assert not tally.withheld
    assert not should_collect(tally)
