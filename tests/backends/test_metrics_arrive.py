"""The numbers of a real job in Prometheus: names, labels, and one restart that is one."""

from __future__ import annotations

import re
import sys
import uuid
from pathlib import Path

import pytest

from tests.backends.expected_answers import SLACK_S
from tests.backends.jobs import FAST, RUNNING_S, Job, stage_of
from tests.live.harness import Agents
from tests.support.backends import Stack, eventually
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from prometheus_names import series_names  # noqa: E402

S = 1_000_000_000
WAIT_S = 60.0
WAITING = ("torchelastic.keep_alive.age", "torchelastic.rendezvous.missing", "torchelastic.spool.age")
"""Told while there is something to tell: the job that failed once may be between two exports then."""
ALL = "30m"
"""A range that holds the whole job, which took half a minute."""


def of_run(name: str, job: Job, more: str = "") -> str:
    """A selector of a metric of the job."""
    return f'{name}{{torchelastic_run_id="{job.run_id}"{more}}}'


@pytest.fixture(scope="module")
def at_s(stack: Stack, failed_job: Job) -> float:
    """The end of the job, once its last numbers are there."""
    end_s = failed_job.truth.ended_ns / S
    asked = f"sum({of_run('torchelastic_restarts_total', failed_job)})"
    eventually(lambda: stack.prometheus.query(asked, end_s)[0][1] >= failed_job.truth.restarts)
    return end_s


def number(stack: Stack, promql: str, at_s: float) -> float:
    """The answer of a query that has one."""
    ((_, value),) = stack.prometheus.query(promql, at_s)
    return value


def test_every_metric_has_the_name_that_the_documents_say(stack: Stack, failed_job: Job, at_s: float) -> None:
    """The table in docs/reference/metrics.md is Prometheus' own, and nothing comes that has no name there."""
    assert at_s
    said = stack.prometheus.label_values("__name__", of_run("", failed_job))
    # a colon is a recording rule's, and capitals are the alerts': a slow bring-up makes one pending
    there = {name for name in said if ":" not in name} - {"ALERTS", "ALERTS_FOR_STATE"}
    names = series_names()
    for metric, called in names.items():
        if metric not in WAITING:  # the next test
            assert called <= there, metric
    unknown = {name for name in there - set().union(*names.values()) if not name.startswith("torchelastic_agent_")}
    assert not unknown
    documented = set(re.findall(r"`(torchelastic_\w+)`", (ROOT / "docs" / "reference" / "metrics.md").read_text()))
    assert {name.removesuffix("_count").removesuffix("_sum") for called in names.values() for name in called} <= {
        name.removesuffix("_bucket") for name in documented
    } | documented


def test_what_is_told_only_while_something_waits_has_its_name_too(stack: Stack, tmp_path: Path) -> None:
    """A node waits for another one, its heartbeats go on, and nobody takes its log records: all three are there."""
    run_id = f"waits-{uuid.uuid4().hex[:6]}"
    with Agents(tmp_path) as agents:
        cluster = stage_of(agents, tmp_path, stack)
        nobody = {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
        cluster.start_agent("a", nnodes="2", conf=FAST, run_id=run_id, env=nobody)
        series = series_names()
        for metric in WAITING:
            (called,) = series[metric]
            asked = f'{called}{{torchelastic_run_id="{run_id}", host_name="train-0"}}'
            found = eventually(lambda asked=asked: stack.prometheus.query(asked), WAIT_S)
            assert all(value >= 0 for _, value in found), metric
        missing = f'torchelastic_rendezvous_missing{{torchelastic_run_id="{run_id}"}}'
        assert [value for _, value in stack.prometheus.query(missing)] == [1]


def test_labels_are_the_resource_and_the_attributes(stack: Stack, failed_job: Job, at_s: float) -> None:
    """A panel filters by cluster, host and run; instance is the agent's process and job the service."""
    series = stack.prometheus.query(of_run("torchelastic_agent_time_seconds_total", failed_job), at_s)
    assert {labels["host_name"] for labels, _ in series} == set(failed_job.truth.hosts)
    assert {labels["cluster"] for labels, _ in series} == {"cluster-of-the-tests"}
    assert {labels["job"] for labels, _ in series} == {"torchrun"}
    instances = {record.resource["service.instance.id"] for record in failed_job.records()}
    assert {labels["instance"] for labels, _ in series} == instances
    states = {"running", "detecting", "stopping", "rendezvous", "starting", "exit_barrier"}
    assert {labels["torchelastic_time_state"] for labels, _ in series} == states


def test_one_restart_of_three_nodes_is_one(stack: Stack, failed_job: Job, at_s: float) -> None:
    """A sum over agents counts what is the job's once, under the agreed reason, and so does the increase.

    Prometheus extrapolates: it takes the series to go on, for half a step, before its first and after its last sample,
    so that `increase` of a series that went from 0 to 1 is a little more than 1. `round` takes back what was added.
    """
    restarts = of_run("torchelastic_restarts_total", failed_job)
    assert number(stack, f"sum({restarts})", at_s) == 1
    ((labels, value),) = stack.prometheus.query(f"{restarts} > 0", at_s)
    assert (labels["torchelastic_restart_reason"], value) == (failed_job.truth.reason, 1)
    increase = number(stack, f"sum(increase({restarts}[{ALL}]))", at_s)
    assert 1 <= increase < 1.2
    assert number(stack, f"round(sum(increase({restarts}[{ALL}])))", at_s) == 1
    assert number(stack, f"sum(max_over_time({restarts}[{ALL}]))", at_s) == 1
    # long after, when nothing is exported any more and an instant vector is empty
    later_s = at_s + 1200
    assert stack.prometheus.query(f"sum({restarts})", later_s) == []
    assert number(stack, f"sum(max_over_time({restarts}[{ALL}]))", later_s) == 1


def test_no_counter_of_a_fresh_run_begins_with_anything_but_0(stack: Stack, failed_job: Job, at_s: float) -> None:
    """The first restart of a run is seen by `increase` only if a 0 was there before it."""
    names = stack.prometheus.label_values("__name__", of_run("", failed_job))
    counters = [name for name in names if name.endswith(("_total", "_count", "_bucket"))]
    assert len(counters) > 15
    for counter in counters:
        firsts = stack.prometheus.query(f"min_over_time({of_run(counter, failed_job)}[{ALL}])", at_s)
        assert [labels for labels, value in firsts if value != 0] == [], counter
    assert number(stack, f"sum(resets({of_run('torchelastic_restarts_total', failed_job)}[{ALL}]))", at_s) == 0


def test_time_is_the_jobs_and_each_agents(stack: Stack, failed_job: Job, at_s: float) -> None:
    """Seconds by state sum to the time that the job, and each agent of it, lived; imports and exits are not in it."""
    truth = failed_job.truth
    records = failed_job.records()
    entered_s: dict[str, list[float]] = {host: [] for host in truth.hosts}
    for each in records:
        if each.name == "torchelastic.agent.phase_entered":
            entered_s[each.resource["host.name"]].append(each.time_ns / S)
    lived_s = {host: max(times) - min(times) for host, times in entered_s.items()}
    assert all(2 * RUNNING_S < each <= (truth.ended_ns - truth.began_ns) / S for each in lived_s.values())
    (speaker,) = {
        each.resource["host.name"]
        for each in records
        if each.name == "torchelastic.restart.completed" and each.attributes["torchelastic.round.writer"]
    }
    by_host = f"sum by (host_name) ({of_run('torchelastic_agent_time_seconds_total', failed_job)})"

    def all_there() -> bool:
        agents = {labels["host_name"]: value for labels, value in stack.prometheus.query(by_host, at_s)}
        assert agents == pytest.approx(lived_s, abs=SLACK_S)
        job_s = number(stack, f"sum({of_run('torchelastic_time_seconds_total', failed_job)})", at_s)
        assert job_s == pytest.approx(lived_s[speaker], abs=SLACK_S)
        return True

    eventually(all_there, 60)  # an agent's last numbers come with its end


def test_failures_are_counted_where_they_happened(stack: Stack, failed_job: Job, at_s: float) -> None:
    """One failure, the cause, on the node whose worker raised; the workers that were stopped are none."""
    failures = of_run("torchelastic_worker_failures_total", failed_job)
    ((labels, value),) = stack.prometheus.query(f"{failures} > 0", at_s)
    said = (labels["host_name"], labels["torchelastic_failure_kind"], labels["torchelastic_failure_role"], value)
    assert said == (failed_job.truth.failed_host, "exception", "cause", 1)


def test_nothing_was_refused(stack: Stack, failed_job: Job, at_s: float) -> None:
    """No backend said no to anything, and neither did the Collector to an agent."""
    assert at_s
    metrics = stack.collector.metrics()
    lost = {
        name: value
        for name, value in metrics.items()
        if re.match(r"otelcol_(exporter_(send|enqueue)_failed|receiver_(refused|failed))_", name)
    }
    assert not any(lost.values()), lost
    for name in ("torchelastic_export_rejected_total", "torchelastic_spool_dropped_total"):
        assert number(stack, f"sum({of_run(name, failed_job)})", at_s) == 0
    lines = stack.collector.text().splitlines()
    assert [line for line in lines if re.search("Dropping data|Status Code 4", line)] == []
