"""The dashboards of a job of one node and of a thousand: no wall of series, and the same answers.

What always holds: the telemetry is made up (tests/support/synthetic_jobs.py), since a thousand nodes do not run here;
the Collector, the backends and the queries are the real ones.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.backends import Stack, eventually
from support.backends.http import get_json
from support.dashboard_answers import S, View
from support.dashboards import NAMES, Panel, panels, read
from support.synthetic_jobs import SyntheticJob

MOST = {"stat": 4, "bargauge": 10, "timeseries": 6, "table": 20, "barchart": 30, "logs": 500}
"""The most that a panel may show: what a person can take in."""
SAMPLES = 1_000
"""The most samples of each node that Prometheus may look at for one moment of a panel: what makes it slow."""


@pytest.fixture(scope="module", params=(1, 1000))
def job(request: pytest.FixtureRequest, stack: Stack) -> SyntheticJob:
    """A job of one node, and one of a thousand, in the backends."""
    job = SyntheticJob(request.param, time.time_ns())
    job.send(stack.otlp_http)
    selector = f'torchelastic_run_id="{job.run_id}"'

    def arrived() -> bool:
        counted = stack.prometheus.query(f"count(torchelastic_spool_size_bytes{{{selector}}})", job.end_ns / S)
        # a node's samples are taken in order: the last one is the newest
        lost = stack.prometheus.query(
            f'count(torchelastic_agent_time_seconds_total{{{selector}, torchelastic_time_state="running"}} == 540)',
            job.end_ns / S,
        )
        told = stack.loki.instant('sum(count_over_time({service_name="torchrun"} | ' + selector + " [1h]))")
        return [n for _, n in (*counted, *lost, *told)] == [job.nodes, job.nodes, 3 * job.nodes]

    eventually(arrived, deadline_s=90)
    return job


def view_of(name: str, stack: Stack, job: SyntheticJob) -> View:
    """A dashboard at the end of the job; metrics came once a minute."""
    times = (job.start_ns / S - 60, job.end_ns / S)
    return View.of_run(read(name), stack, job.run_id, *times, step_s=60, scrape_s=60)


def looked_at(view: View, panel: Panel) -> int:
    """How many samples Prometheus looks at for one moment of a panel, by its own count."""
    asked = [each["expr"] for each in panel["targets"] if each["datasource"]["type"] == "prometheus"]
    counts = []
    for expr in asked:
        query = {"query": view.filled(expr), "time": view.end_s, "stats": "all"}
        data = get_json(f"{view.stack.prometheus.url}/api/v1/query", query)["data"]
        counts.append(data["stats"]["samples"]["totalQueryableSamples"])
    return sum(counts)


def answers(name: str, stack: Stack, job: SyntheticJob) -> dict[str, Any]:
    """Every panel's answer, each within its size, and the samples it is made of within those of so many nodes."""
    view = view_of(name, stack, job)
    told = {}
    for panel in panels(view.board):
        answer = told[panel["title"]] = view.answers(panel)
        assert len(answer) <= MOST[panel["type"]], panel["title"]
        assert looked_at(view, panel) <= SAMPLES * job.nodes, panel["title"]
    return told


def test_a_job_of_any_size_is_told_in_the_same_few_lines(stack: Stack, job: SyntheticJob) -> None:
    """Of a thousand workers that fail together one is named, and a restart that a thousand agents tell is one."""
    told = answers("job", stack, job)
    ((state, nodes),) = told["Is it running now?"].items()
    assert (state, nodes) == ("running", pytest.approx(job.nodes * 0.9, rel=0.01))
    assert told["Is anybody missing?"] == {"in": job.nodes, "missing": 0}
    assert told["How many restarts?"] == {"": 1}
    assert told["How long was the last?"] == {"": 30}
    assert told["How much could it train?"] == {"": pytest.approx(0.9)}
    assert told["How much is lost?"] == {"": pytest.approx(job.nodes / 60)}
    (restart,) = told["Why did it restart, who failed first, and how long did it take?"]
    assert (restart["Host"], restart["Took"]) == (f"node-{job.first}", 30)
    (bar,) = told["Which part of a restart takes long?"]
    assert bar == {"Round": "1", "detect": 1, "stop": 1, "rendezvous": 20, "assign_ranks": 3, "start": 5}
    assert len(told["Which hosts fail most?"]) == min(job.nodes, 10)
    assert len(told["Who is missing?"]) == min(job.nodes, 20)


def test_of_a_thousand_failures_the_first_is_named(stack: Stack, job: SyntheticJob) -> None:
    """A collective that breaks down takes a worker of every node with it, before any restart says why."""
    times = (job.start_ns / S - 60, job.failed_ns / S + 5)
    down = View.of_run(read("job"), stack, job.run_id, *times, step_s=60, scrape_s=60)
    (panel,) = [each for each in panels(down.board) if each["title"] == "Who failed first in the newest round?"]
    rows = down.answers(panel)
    assert len(rows) == min(job.nodes, 20)
    assert (rows[0]["Host"], rows[0]["Rank"]) == (f"node-{job.first}", str(8 * job.first))


def test_the_fleet_is_told_in_as_few(stack: Stack, job: SyntheticJob) -> None:
    """The dashboard of all jobs is the one that sees the most series."""
    told = answers("fleet", stack, job)
    assert told["How many jobs run now?"] == {"": 1}
    assert told["How often did jobs restart?"] == {"": 1}
    assert told["What is mean time to failure?"] == {"a job": 540, "a node": pytest.approx(540 * job.nodes)}
    (row,) = told["Which jobs lose the most?"]
    assert (row["Run id"], row["Nodes at most"]) == (job.run_id, job.nodes)
    assert told["In which jobs do nodes collide?"] == {job.run_id: pytest.approx(3 * job.nodes)}
    assert [value for _, value in told["When did jobs restart?"]["worker_failure"]] == [1]
    hosts = told["Which nodes fail most?"]
    assert hosts[0]["Host"] == f"node-{job.first}"
    assert len(hosts) == min(job.nodes, 20)


def test_no_annotation_is_drawn_a_thousand_times(stack: Stack, job: SyntheticJob) -> None:
    """A restart that every agent tells is drawn once."""
    assert len(view_of("job", stack, job).annotations()["Restarts"]) == 1


def test_a_thousand_hosts_are_offered_and_all_of_them_are_one_pattern(stack: Stack, job: SyntheticJob) -> None:
    """A query that lists a thousand names would be refused for its length."""
    for name in NAMES:
        view = view_of(name, stack, job)
        assert len(view.options("host")) == job.nodes
        assert len(view.filled('{host_name=~"$host"}')) < 30
