"""The dashboards of a job of one node and of a thousand: no wall of series, and the same answers.

The telemetry is synthetic (tests/support/synthetic_jobs.py), since a thousand nodes do not run here; the Collector, the
backends and the queries are real.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.backends.expected_synthetic_answers import ALONE, BY_COLLECTORS, in_short, told_of
from tests.support.backends import LogStore, Stack, eventually
from tests.support.backends.http import get_json
from tests.support.dashboard_answers import S, View
from tests.support.dashboards import NAMES, Panel, panels, read
from tests.support.synthetic_jobs import SyntheticJob

MOST = {"stat": 4, "bargauge": 10, "timeseries": 6, "table": 20, "barchart": 30, "logs": 500}
"""The most that a panel may show: what a person can take in."""
COLLECTORS = "What do Collectors throw away?"
"""A panel that is of no job: tests/backends/test_dashboards_of_collectors.py asks it."""
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
        stores: list[LogStore] = [stack.victorialogs, *([stack.loki] if stack.loki else [])]
        stored = [store.count({"torchelastic.run.id": job.run_id}) for store in stores]
        assert stored == [job.records] * len(stores)
        return [n for _, n in (*counted, *lost)] == [job.nodes, job.nodes]

    eventually(arrived, deadline_s=180)
    return job


def view_of(name: str, stack: Stack, job: SyntheticJob, log_store: str = "victorialogs") -> View:
    """A dashboard at the end of the job; metrics came once a minute."""
    times = (job.start_ns / S - 60, job.end_ns / S)
    return View.of_run(read(name, log_store), stack, job.run_id, *times, step_s=60, scrape_s=60)


def looked_at(view: View, panel: Panel) -> int:
    """How many samples of agents Prometheus looks at for one moment of a panel, by its own count."""
    asked = [each["expr"] for each in panel["targets"] if each["datasource"]["type"] == "prometheus"]
    asked = [expr for expr in asked if "otelcol_" not in expr]
    counts = []
    for expr in asked:
        query = {"query": view.filled(expr), "time": view.end_s, "stats": "all"}
        data = get_json(f"{view.stack.prometheus.url}/api/v1/query", query)["data"]
        counts.append(data["stats"]["samples"]["totalQueryableSamples"])
    return sum(counts)


@pytest.mark.parametrize("name", NAMES)
def test_a_job_of_any_size_takes_the_same_few_lines(name: str, logs: LogStore, stack: Stack, job: SyntheticJob) -> None:
    """Of a thousand workers that fail together one is named, and a restart that a thousand agents tell is one.

    Each panel is within its size, and is made of no more samples than so many nodes have.
    """
    view, told = view_of(name, stack, job, logs.name), told_of(job)[name]
    assert set(told) == {panel["title"] for panel in panels(view.board)}
    for panel in panels(view.board):
        answer = view.answers(panel)
        assert len(answer) <= MOST[panel["type"]], panel["title"]
        assert looked_at(view, panel) <= SAMPLES * job.nodes, panel["title"]
        if isinstance(answer, dict):
            answer.pop("Collectors", None)  # what they gave up is of whatever job
        if panel["title"] != COLLECTORS:
            assert in_short(panel["title"], answer) == told[panel["title"]], panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_every_query_has_an_answer(name: str, logs: LogStore, stack: Stack, job: SyntheticJob) -> None:
    """A query with a wrong name in it has no answer, and so passes wherever none is expected."""
    view, silent = view_of(name, stack, job, logs.name), BY_COLLECTORS | (ALONE if job.nodes == 1 else set())
    for panel in panels(view.board):
        for target in panel["targets"]:
            which = name, panel["title"], target["refId"]
            assert which in silent or any(value_of(each) for each in view.asked(target)), which
    if name == "job":
        assert all(view.annotations().values())


def value_of(found: tuple[Any, ...]) -> Any:
    """What is not nothing: a number, the last point of a line, or a log record's text."""
    value = found[1]
    return value[-1][1] if isinstance(value, list) else value


def test_of_a_thousand_failures_the_first_is_named(stack: Stack, job: SyntheticJob) -> None:
    """A collective that breaks down takes a worker of every node with it, before any restart says why."""
    times = (job.start_ns / S - 60, job.failed_ns / S + 5)
    down = View.of_run(read("job"), stack, job.run_id, *times, step_s=60, scrape_s=60)
    (panel,) = [each for each in panels(down.board) if each["title"] == "Who failed first in the newest round?"]
    rows = down.answers(panel)
    assert len(rows) == min(job.nodes, 20)
    assert (rows[0]["Host"], rows[0]["Rank"]) == (f"node-{job.first}", str(8 * job.first))


def test_no_annotation_is_drawn_a_thousand_times(stack: Stack, job: SyntheticJob) -> None:
    """A restart that every agent tells is drawn once."""
    drawn = view_of("job", stack, job).annotations()
    assert {name: len(each) for name, each in drawn.items()} == {"Rounds": 3, "Restarts": 2, "Membership": 1}


def test_a_thousand_hosts_are_offered_and_all_of_them_are_one_pattern(stack: Stack, job: SyntheticJob) -> None:
    """A query that lists a thousand names would be refused for its length."""
    for name in NAMES:
        view = view_of(name, stack, job)
        assert len(view.options("host")) == job.nodes
        assert len(view.filled('{host_name=~"$host"}')) < 30
