"""What is chosen on a dashboard, filled in as Grafana does it, narrows what its panels say to just that.

The telemetry is synthetic (tests/support/synthetic_jobs.py); it includes names that the chosen names would match as
regular expressions.
"""

from __future__ import annotations

import dataclasses
import re
import time
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tests.backends.conftest import loki_of
from tests.backends.expected_synthetic_answers import told_of
from tests.support.backends import Stack, eventually
from tests.support.backends.victorialogs import STREAM_FIELDS
from tests.support.dashboard_answers import ALL, Chosen, S, View
from tests.support.dashboards import LOG_STORES, NAMES, following, panels, read
from tests.support.synthetic_jobs import MISSING, SyntheticJob

NODES = 3


@dataclass(frozen=True)
class Sent:
    """Jobs that the backends hold."""

    stack: Stack
    jobs: Sequence[SyntheticJob]

    def view(self, name: str, **chosen: Any) -> View:
        """A dashboard at their end; what is not chosen is everything."""
        last, first = max(job.end_ns for job in self.jobs), min(job.start_ns for job in self.jobs)
        run = chosen.pop("run_id", self.jobs[0].run_id)
        times = (first / S - 60, last / S)
        return View.of_run(read(name), self.stack, run, *times, step_s=60, scrape_s=60, **chosen)

    def answer(self, name: str, title: str, **chosen: Chosen) -> Any:
        """What a panel says."""
        view = self.view(name, **chosen)
        (panel,) = [each for each in panels(view.board) if each["title"] == title]
        return view.answers(panel)


def send(stack: Stack, *jobs: SyntheticJob) -> Sent:
    """Send jobs, and wait until the backends hold all of them."""
    for job in jobs:
        job.send(stack.otlp_http)

    def arrived() -> bool:
        for job in jobs:
            run = f'torchelastic_run_id="{job.run_id}"'
            ended = f'count(torchelastic_agent_time_seconds_total{{{run}, torchelastic_time_state="running"}} == 540)'
            if [n for _, n in stack.prometheus.query(ended, job.end_ns / S)] != [job.nodes]:
                return False
            if stack.victorialogs.count({"torchelastic.run.id": job.run_id}, job.service) != job.records:
                return False
        return True

    eventually(arrived, deadline_s=180)
    return Sent(stack, jobs)


@pytest.fixture(scope="module")
def jobs(stack: Stack) -> Sent:
    """Three jobs: the names of the first, read as patterns, match the third's; the second's are plain."""
    now_ns, some = time.time_ns(), uuid.uuid4().hex[:6]
    named = (("a.b+c", "llm.v1+x", "east.1"), ("plain", "torchrun", "west"), ("aXbbc", "llmXv11x", "eastX1"))
    return send(
        stack,
        *(
            SyntheticJob(NODES, now_ns, f"{run}-{some}", service, {"cluster": cluster, "host.name": f"{run}-{{node}}"})
            for run, service, cluster in named
        ),
    )


def run_ids(rows: list[dict[str, Any]]) -> set[str]:
    """The runs that a table names."""
    return {row["Run id"] for row in rows}


@pytest.mark.parametrize("by", ["run_id", "job", "cluster"])
def test_two_values_are_both_of_them_and_nothing_else(jobs: Sent, by: str) -> None:
    """Grafana writes `(a|b)`, each one escaped: a dot in a name is a dot."""
    values = {
        "run_id": [job.run_id for job in jobs.jobs],
        "job": [job.service for job in jobs.jobs],
        "cluster": [job.resource["cluster"] for job in jobs.jobs],
    }[by]
    everything: dict[str, Chosen] = {"run_id": [job.run_id for job in jobs.jobs]}
    title = "Which jobs lose the most?"
    assert run_ids(jobs.answer("fleet", title, **everything)) == {job.run_id for job in jobs.jobs}
    two = jobs.answer("fleet", title, **{**everything, by: values[:2]})
    assert run_ids(two) == {job.run_id for job in jobs.jobs[:2]}
    one = jobs.answer("fleet", title, **{**everything, by: values[:1]})
    assert run_ids(one) == {jobs.jobs[0].run_id}
    waiting = jobs.answer("fleet", "Which jobs wait for nodes?", **{**everything, by: values[:2]})
    assert waiting == {job.run_id: MISSING for job in jobs.jobs[:2]}


def test_a_run_id_with_signs_of_patterns_is_one_run(jobs: Sent) -> None:
    """The job's dashboard takes one run, as it is written, in both languages."""
    assert jobs.answer("job", "How many restarts?") == {"": 2}
    assert jobs.answer("job", "Has it ended, and how?") == {"succeeded": NODES - 1, "not succeeded": 1}
    lines = jobs.answer("job", "What happened, step by step?")
    assert {fields["torchelastic.run.id"] for _, _, fields in lines} == {jobs.jobs[0].run_id}


@pytest.mark.parametrize("all_jobs", [True, False])
def test_the_logs_of_two_services_and_hosts_are_read_and_no_others(jobs: Sent, all_jobs: bool) -> None:
    """A pattern of the chosen names; all jobs are the offered names: a pattern for any name would read all logs."""
    first, second, _ = jobs.jobs
    chosen: dict[str, Chosen] = {
        "job": ALL if all_jobs else [first.service, second.service],
        "cluster": [first.resource["cluster"], second.resource["cluster"]],
        "host": [f"{first.run_id.rpartition('-')[0]}-{node}" for node in (0, 1)],
        "round": ["0", "1"],
    }
    lines = jobs.answer("job", "What happened, step by step?", **chosen)
    assert {fields["host.name"] for _, _, fields in lines} == {"a.b+c-0", "a.b+c-1"}
    assert {fields["torchelastic.rendezvous.round"] for _, _, fields in lines} == {"0", "1"}
    assert {fields["service.name"] for _, _, fields in lines} == {first.service}
    assert jobs.answer("job", "What happened, step by step?", **{**chosen, "job": second.service}) == []
    assert jobs.answer("job", "What happened, step by step?", **{**chosen, "cluster": "eastX1"}) == []


@pytest.mark.parametrize("log_store", LOG_STORES)
def test_no_query_reads_the_logs_of_all_services(jobs: Sent, log_store: str) -> None:
    """Each minute, for hours: every query of logs names the services; in Loki also the cluster, within the braces."""
    view = dataclasses.replace(jobs.view("job"), board=read("job", log_store))
    targets = [target for panel in panels(view.board) for target in panel["targets"]]
    asked = [each["expr"] for each in targets if each["datasource"]["type"] == LOG_STORES[log_store]]
    asked += [each["expr"] for each in view.board["annotations"]["list"]]
    assert len(asked) > 9
    for expr in asked:
        if log_store == "loki":
            braces = view.filled(expr, "loki").partition("{")[2].partition("}")[0]
            services, _, cluster = braces.partition(", ")
            names = services.removeprefix('service_name=~"').removesuffix('"').replace(r"\\", "")
            assert cluster == 'cluster=~".*"'
        else:
            (pattern,) = re.findall(r"^\{service\.name=~`\(([^`]*)\)`\} ", view.filled(expr))
            names = pattern.replace("\\", "")
        assert sorted(names.split("|")) == sorted(view.options("job"))


@pytest.mark.parametrize("log_store", LOG_STORES)
def test_logs_without_a_cluster_are_found_while_all_clusters_are_chosen(stack: Stack, log_store: str) -> None:
    """Another Collector may set none: then the field does not exist, and ".*" matches what does not exist."""
    store = stack.victorialogs if log_store == "victorialogs" else loki_of(stack)
    run_id, at_ns = f"nowhere-{uuid.uuid4().hex[:6]}", time.time_ns()
    attributes = _pairs({"torchelastic.run.id": run_id, "event_name": "torchelastic.round.started"})
    record = LogRecord(time_unix_nano=at_ns, body=AnyValue(string_value="a round"), attributes=attributes)
    resource = Resource(attributes=_pairs({"service.name": "torchrun", "host.name": "here"}))
    logs = ResourceLogs(resource=resource, scope_logs=[ScopeLogs(log_records=[record])])
    body = ExportLogsServiceRequest(resource_logs=[logs]).SerializeToString()
    headers = {"Content-Type": "application/x-protobuf", **STREAM_FIELDS}
    urllib.request.urlopen(urllib.request.Request(f"{store.otlp}/v1/logs", body, headers), timeout=30).close()
    chosen: dict[str, Chosen] = {"cluster": ALL, "job": "torchrun", "run_id": run_id, "host": ALL, "round": ALL}
    view = View(read("job", log_store), stack, chosen, at_ns / S - 60, at_ns / S + 60)
    (panel,) = [each for each in panels(view.board) if each["title"] == "What happened, step by step?"]
    ((_, text, fields),) = eventually(lambda: view.answers(panel))
    assert text == "here: a round"
    assert "cluster" not in fields
    assert replace(view, chosen={**chosen, "cluster": "east.1"}).answers(panel) == []


def _pairs(attributes: dict[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in attributes.items()]


def test_on_kubernetes_the_nodes_are_named_and_not_the_pods(stack: Stack) -> None:
    """Two runs, each with pods of its own, on the same two nodes: a node that hurts both runs is one row."""
    now_ns = time.time_ns()
    cluster = f"k8s-{uuid.uuid4().hex[:6]}"
    pods = [
        SyntheticJob(2, now_ns, f"{name}-{cluster}", resource={
            "cluster": cluster, "host.name": f"{name}-pod-{{node}}", "k8s.node.name": "gpu-{node}",
        })
        for name in ("one", "two")
    ]  # fmt: skip
    sent = send(stack, *pods)
    failing, other = {"Causes": 4, "Victims": 0, "Runs hurt": 2}, {"Causes": 0, "Victims": 2}
    first = pods[0].first
    assert sent.answer("fleet", "Which nodes fail most?", cluster=cluster, run_id=ALL) == [
        {"Cluster": cluster, "Node": f"gpu-{first}", **failing},
        {"Cluster": cluster, "Node": f"gpu-{1 - first}", **other},
    ]
    alone = sent.answer("fleet", "Which nodes fail most?", cluster=cluster, run_id=ALL, host=f"one-pod-{first}")
    assert alone == [{"Cluster": cluster, "Node": f"gpu-{first}", "Causes": 2, "Victims": 0, "Runs hurt": 1}]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variable", ["host", "round"])
def test_panels_follow_the_variables_that_are_said_to_narrow_them(jobs: Sent, name: str, variable: str) -> None:
    """A host or a round that is not there leaves nothing in a panel that follows it, and changes no other."""
    board = read(name)
    follow = following(board, variable)
    everything, nobody = jobs.view(name), jobs.view(name, **{variable: "999"})
    for panel in panels(board):
        answer = nobody.answers(panel)
        if panel["title"] in follow:
            assert everything.answers(panel), panel["title"]
            assert not answer, panel["title"]
        else:
            assert answer == everything.answers(panel), panel["title"]


def test_a_chosen_host_and_round_leave_what_is_theirs(jobs: Sent) -> None:
    """What somebody who suspects one node looks at."""
    job = jobs.jobs[0]
    suspect, other = f"a.b+c-{job.first}", "a.b+c-0"
    failures = "Who failed first in the newest round?"
    assert [row["Host"] for row in jobs.answer("job", failures, host=suspect)] == [suspect]
    assert jobs.answer("job", failures, host=other) == []
    rows = jobs.answer("job", failures, host=[other], round=["0", "1"])
    assert rows == [], "nobody failed in round 1, the newest of the two"
    rows = jobs.answer("job", failures, round="0")
    assert [row["Host"] for row in rows] == [f"a.b+c-{node}" for node in (2, 0, 1)]
    restarts = "Why did it restart, who failed first, and how long did it take?"
    assert [row["Into round"] for row in jobs.answer("job", restarts)] == ["2", "1"]
    assert [row["Into round"] for row in jobs.answer("job", restarts, round=["0", "1"])] == ["1"]
    (bar,) = jobs.answer("job", "Which part of a restart takes long?", round="2")
    assert bar == told_of(job)["job"]["Which part of a restart takes long?"][1]
    assert [row["Reported by"] for row in jobs.answer("job", "Who is missing?", host=other)] == [other]
    assert jobs.answer("fleet", "What did agents lose?", host=other) == dict.fromkeys(
        ("dropped", "not deliverable", "refused"), 0
    )
