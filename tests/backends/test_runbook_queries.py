"""Every query of docs/runbooks.md is asked of the real backends, which hold a real job that failed once: the answer is
what truly happened to it, or what truly is with the Collector.

Expected values come from the test's actions on the job and from the files that its agents exported. Other tests share
the backends: of a query without a run id only this run's part is compared.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.backends.file_exports import Written
from tests.backends.jobs import RUNNING_S, Job
from tests.support.alert_rules import blocks, runbook_sections, series_asked_for
from tests.support.backends import LogStore, Stack, VictoriaLogs, eventually
from tests.support.backends.prometheus import Sample

S = 1_000_000_000
SECTIONS = runbook_sections()
PROMQL = {name: blocks(text, "promql") for name, text in SECTIONS.items()}
LOGSQL = {name: blocks(text, "logsql") for name, text in SECTIONS.items()}
LOGQL = {name: blocks(text, "logql") for name, text in SECTIONS.items()}
RUN = "torchelastic_run_id"
STATES = {"running", "detecting", "stopping", "rendezvous", "starting", "exit_barrier"}
PHASES = {"detect", "stop", "rendezvous", "assign_ranks", "start"}
EXPORTERS = {"otlp_http/logs", "otlp_http/metrics", "otlp_grpc/traces"}


def filled(query: str, job: Job) -> str:
    """The query as a person sends it."""
    return query.replace("RUN", job.run_id).replace("HOST", job.truth.failed_host)


@pytest.fixture(scope="module")
def at_s(stack: Stack, failed_job: Job) -> float:
    """The end of the job, once its last numbers are there."""
    end_s = failed_job.truth.ended_ns / S
    last = (
        'torchelastic_events_total{{torchelastic_run_id="{}",torchelastic_event_name="torchelastic.agent.succeeded"}}'
    )
    asked = f"sum({last.format(failed_job.run_id)})"
    eventually(lambda: stack.prometheus.query(asked, end_s)[0][1] >= len(failed_job.truth.hosts))
    return end_s


Check = Callable[[list[Sample], Job], None]


@dataclass(frozen=True)
class Now:
    """An answer that is asked of this moment: of what a rule records over an hour or longer, and of the Collector."""

    check: Check


def by(label: str, answer: list[Sample]) -> dict[str, float]:
    """An answer with one label, as a mapping; whatever has more labels, or fewer, fails."""
    told = {labels[label]: value for labels, value in answer}
    assert [set(labels) for labels, _ in answer] == [{label}] * len(told), answer
    return told


def nothing(answer: list[Sample], _: Job) -> None:
    """Nothing is wrong."""
    assert answer == []


def of_run(answer: list[Sample], job: Job) -> float:
    """The one number of this run, whose labels are those of a run."""
    ((labels, value),) = answer
    assert {key: labels[key] for key in labels if key != "__name__"} == {
        RUN: job.run_id, "cluster": "cluster-of-the-tests", "job": "torchrun",
    }  # fmt: skip
    return value


def reasons(answer: list[Sample], job: Job) -> None:
    """One restart, exactly: no half one is guessed."""
    told = by("torchelastic_restart_reason", answer)
    assert {reason: count for reason, count in told.items() if count} == {job.truth.reason: job.truth.restarts}


def causes(answer: list[Sample], job: Job) -> None:
    """One failure, on one node, of one kind."""
    assert [(labels, value) for labels, value in answer if value] == [
        ({"host_name": job.truth.failed_host, "torchelastic_failure_kind": "exception"}, 1)
    ]


def nobody_is_missing(answer: list[Sample], _: Job) -> None:
    """At its end all are there."""
    assert answer == [({}, 0)]


def each_host_once(answer: list[Sample], job: Job) -> None:
    """One agent on each node."""
    assert by("host_name", answer) == dict.fromkeys(job.truth.hosts, 1)


def each_host(answer: list[Sample], job: Job) -> None:
    """Every node says a number, none of them below 0."""
    told = by("host_name", answer)
    assert set(told) == set(job.truth.hosts)
    assert min(told.values()) >= 0


def ends(answer: list[Sample], job: Job) -> None:
    """How agents and workers ended, as they wrote it."""
    told = {name: count for name, count in by("torchelastic_event_name", answer).items() if count}
    wrote = Counter(record.name for record in job.records())
    assert told == {name: wrote[name] for name in told}
    assert told["torchelastic.agent.succeeded"] == len(job.truth.hosts)
    assert told["torchelastic.worker.succeeded"] == 2 * len(job.truth.hosts)
    assert told["torchelastic.worker.failed"] >= 1


def within(began_ns: int, value_s: float, ended_ns: int) -> None:
    """A moment of the job; clocks are one, and a sample is made at most a moment after its event."""
    assert began_ns / S < value_s < ended_ns / S + 5


def heard_last(answer: list[Sample], job: Job) -> None:
    """Each node was heard of last when the job ended, and not when it is asked."""
    told = by("host_name", answer)
    assert set(told) == set(job.truth.hosts)
    assert job.truth.failure is not None
    for value in told.values():
        within(job.truth.failure.at_ns, value, job.truth.ended_ns)


def heard_last_of_the_run(answer: list[Sample], job: Job) -> None:
    """The same, of the run."""
    ((labels, value),) = [(labels, value) for labels, value in answer if labels[RUN] == job.run_id]
    assert labels == {RUN: job.run_id, "cluster": "cluster-of-the-tests"}
    within(job.truth.began_ns, value, job.truth.ended_ns)


def not_this_run(answer: list[Sample], job: Job) -> None:
    """It ended in its own words."""
    assert job.run_id not in {labels[RUN] for labels, _ in answer}


def numbers_of_runs(answer: list[Sample], _: Job) -> None:
    """How many runs live: one number, or none."""
    assert all(labels == {} and value >= 1 for labels, value in answer)
    assert len(answer) <= 1


def states(answer: list[Sample], job: Job) -> None:
    """Where the time went: most of it is running, twice four seconds at least, and no more than there was."""
    told = by("torchelastic_time_state", answer)
    assert set(told) == STATES
    assert RUNNING_S < told["running"] < 2 * (job.truth.ended_ns - job.truth.began_ns) / S


def phases(answer: list[Sample], job: Job) -> None:
    """One restart has taken each of its phases some time, all together less than the job."""
    told = {labels["torchelastic_restart_phase"]: value for labels, value in answer}
    assert set(told) == PHASES
    assert {labels[RUN] for labels, _ in answer} == {job.run_id}
    assert 0 < sum(told.values()) < (job.truth.ended_ns - job.truth.began_ns) / S


def ratio(answer: list[Sample], job: Job) -> None:
    """A share, and neither none nor all."""
    assert 0 < of_run(answer, job) < 1


def seconds_for_a_failure(answer: list[Sample], job: Job) -> None:
    """One failure: all of the time in which it ran."""
    assert RUNNING_S < of_run(answer, job) < 2 * (job.truth.ended_ns - job.truth.began_ns) / S


def node_hours(answer: list[Sample], job: Job) -> None:
    """No more than its nodes were there."""
    assert 0 < of_run(answer, job) * 3600 < 2 * len(job.truth.hosts) * (job.truth.ended_ns - job.truth.began_ns) / S


def failing_nodes(answer: list[Sample], job: Job) -> None:
    """One failure, of the machine: outside of pods that is host.name."""
    ((labels, value),) = [(labels, value) for labels, value in answer if labels[RUN] == job.run_id]
    assert (labels["node"], value) == (job.truth.failed_host, 1)


def failing_hosts(answer: list[Sample], job: Job) -> None:
    """Of all runs: this one's failure is in it."""
    told = {(labels["host_name"], labels["torchelastic_failure_kind"]): value for labels, value in answer}
    assert told[job.truth.failed_host, "exception"] >= 1
    assert min(told.values()) > 0


def old_heartbeats(answer: list[Sample], job: Job) -> None:
    """None, but on a machine that stood still for a quarter of a minute."""
    assert {labels["host_name"] for labels, value in answer if value > 15} <= set(job.truth.hosts)


def ages(answer: list[Sample], job: Job) -> None:
    """Each spool says how old its oldest event is."""
    assert {labels["host_name"] for labels, _ in answer} == set(job.truth.hosts)
    assert {labels[RUN] for labels, _ in answer} == {job.run_id}
    assert all(0 <= value < 60 for _, value in answer)


def uptime(answer: list[Sample], _: Job) -> None:
    """One Collector, by the name that its scrape has."""
    ((labels, value),) = answer
    assert labels["job"] == "otelcol"
    assert value > 0


def is_scraped(answer: list[Sample], _: Job) -> None:
    """The same one is known to be a Collector; Prometheus itself, or whatever else is scraped, is not."""
    ((labels, value),) = answer
    assert (labels["job"], value) == ("otelcol", 1)


def log_exporters(answer: list[Sample], _: Job) -> None:
    """Logs go one way."""
    assert set(by("exporter", answer)) == {"otlp_http/logs"}


def exporters(answer: list[Sample], _: Job) -> None:
    """Each queue says its size."""
    assert set(by("exporter", answer)) == EXPORTERS


def fullness(answer: list[Sample], _: Job) -> None:
    """Each queue, as a share."""
    assert {labels["exporter"] for labels, _ in answer} == EXPORTERS
    assert all(0 <= value <= 1 for _, value in answer)


def lost_items(answer: list[Sample], _: Job) -> None:
    """Of what, and on the way to where; others of these tests have lost something on purpose."""
    for labels, value in answer:
        assert labels["exporter"] in EXPORTERS
        assert labels["lost"] in ("log_records", "spans", "metric_points")
        assert value >= 0


def refused_items(answer: list[Sample], _: Job) -> None:
    """The receiver counts from its first request on."""
    told = {(labels.get("receiver"), labels["refused"]) for labels, _ in answer}
    assert told >= {("otlp", "log_records"), ("otlp", "spans"), ("otlp", "metric_points")}


def memory(answer: list[Sample], job: Job) -> None:
    """In bytes: a Collector takes some tens of megabytes."""
    ((_, value),) = answer
    assert 10_000_000 < value < 10_000_000_000


EXPECTED: dict[str, list[Check | Now]] = {
    "restartstorm": [reasons, causes],
    "rendezvousstuck": [nobody_is_missing, each_host_once],
    "jobfailed": [ends],
    "jobdown": [numbers_of_runs, Now(heard_last), Now(uptime)],
    "telemetrycut": [Now(not_this_run), Now(heard_last_of_the_run), Now(uptime)],
    "trainingtimecollapsed": [states, Now(phases), Now(ratio)],
    "trainingtimelow": [states, Now(seconds_for_a_failure), Now(node_hours)],
    "nodekeepsfailing": [Now(failing_nodes), failing_hosts],
    "heartbeatold": [old_heartbeats, each_host],
    "recordslost": [nothing, nothing, nothing],
    "deliverylate": [ages, Now(log_exporters), Now(exporters)],
    "spoolfilling": [nothing],
    "collectorlosing": [Now(lost_items), Now(log_exporters)],
    "collectorrefusing": [Now(refused_items), Now(memory), Now(fullness)],
    "collectordown": [Now(nothing), Now(is_scraped)],
}
"""By section, what each of its queries must answer, in their order."""


def test_no_query_is_without_an_expected_answer() -> None:
    """A query that nobody asked anything of is one that nobody knows to be right."""
    asked = {name.removeprefix("torchelastic"): len(queries) for name, queries in PROMQL.items() if queries}
    assert asked == {name: len(checks) for name, checks in EXPECTED.items()}
    for language in (LOGQL, LOGSQL):
        asked = {name.removeprefix("torchelastic"): len(queries) for name, queries in language.items() if queries}
        assert asked == {name: len(records) for name, records in RECORDS.items()}


@pytest.mark.parametrize("section", EXPECTED)
def test_prometheus_tells_what_truly_happened(stack: Stack, failed_job: Job, at_s: float, section: str) -> None:
    """At night nobody corrects a query, or doubts its answer."""
    for query, check in zip(PROMQL[f"torchelastic{section}"], EXPECTED[section], strict=True):
        asked = filled(query, failed_job)

        def holds(asked: str = asked, check: Check | Now = check) -> bool:
            answer = stack.prometheus.query(asked, None if isinstance(check, Now) else at_s)
            (check.check if isinstance(check, Now) else check)(answer, failed_job)
            return all(math.isfinite(value) for _, value in answer)

        eventually(holds)


def test_prometheus_knows_every_series_that_the_runbook_asks_for(stack: Stack, at_s: float) -> None:
    """The Collector's own names change with its versions. What a rule records is there where there is something."""
    known = set(stack.prometheus.label_values("__name__"))
    asked = {name for queries in PROMQL.values() for query in queries for name in series_asked_for(query)}
    assert {name for name in asked if ":" not in name} <= known


def runs_are_counted(stack: Stack, job: Job) -> list[float]:
    """How many runs lived, over the job's time."""
    (query, *_) = PROMQL["torchelasticjobdown"]
    found = stack.prometheus.range(query, job.truth.began_ns / S, job.truth.ended_ns / S, 1)
    return [value for _, points in found for _, value in points]


def test_while_a_job_runs_it_is_counted_among_the_living(stack: Stack, failed_job: Job, at_s: float) -> None:
    """The first question of whoever is called for a silent job."""
    assert max(eventually(lambda: runs_are_counted(stack, failed_job))) >= 1


Choice = Callable[[Written, Job], bool]


def named(event: str, *more: Choice) -> Choice:
    """Records of an event."""
    return lambda record, job: record.name == event and all(each(record, job) for each in more)


def everything(_: Written, __: Job) -> bool:
    """All of the run."""
    return True


def on_the_failed_host(record: Written, job: Job) -> bool:
    """Of the node whose worker failed."""
    return record.resource["host.name"] == job.truth.failed_host


def waited_long(record: Written, _: Job) -> bool:
    """More than five minutes."""
    return float(record.attributes["torchelastic.rendezvous.waited"]) > 300  # type: ignore[arg-type]


def for_a_lost_node(record: Written, _: Job) -> bool:
    """A restart for that reason."""
    return record.attributes["torchelastic.restart.reason"] == "node_lost"


RECORDS: dict[str, list[Choice]] = {
    "restartstorm": [named("torchelastic.restart.completed")],
    "rendezvousstuck": [named("torchelastic.rendezvous.waiting")],
    "rendezvousstuckfor": [named("torchelastic.rendezvous.waiting", waited_long)],
    "jobfailed": [named("torchelastic.worker.failed"), named("torchelastic.agent.failed")],
    "jobdown": [everything],
    "nodekeepsfailing": [named("torchelastic.worker.failed", on_the_failed_host)],
    "nodekeepsbeinglost": [named("torchelastic.restart.completed", for_a_lost_node)],
    "heartbeatold": [named("torchelastic.rendezvous.keep_alive_failed")],
}
"""By section, which of the records that the agents wrote each of its queries finds."""


@pytest.mark.parametrize("section", RECORDS)
def test_the_log_store_finds_the_records_that_the_agents_wrote(logs: LogStore, failed_job: Job, section: str) -> None:
    """Those and no others, of this run; LogsQL in VictoriaLogs, LogQL in Loki."""
    queries = (LOGSQL if isinstance(logs, VictoriaLogs) else LOGQL)[f"torchelastic{section}"]
    for query, choice in zip(queries, RECORDS[section], strict=True):
        written = {record.uid for record in failed_job.records() if choice(record, failed_job)}

        def found(query: str = query, written: set[str] = written) -> bool:
            lines = logs.query(filled(query, failed_job), start_ns=failed_job.truth.began_ns)
            run, uid = logs.field("torchelastic.run.id"), logs.field("log.record.uid")
            mine = {fields[uid] for _, _, fields in lines if fields[run] == failed_job.run_id}
            assert mine == written
            return True

        eventually(found)
    if section in ("restartstorm", "jobfailed", "jobdown", "nodekeepsfailing"):
        first = RECORDS[section][0]
        assert [record for record in failed_job.records() if first(record, failed_job)], "it finds something at all"


def test_the_commands_are_there(failed_job: Job) -> None:
    """The runbook's commands are the program's: the timeline tells the run, and doctor is known."""
    commands = {line for text in SECTIONS.values() for block in blocks(text, "sh") for line in block.splitlines()}
    assert commands == {"torchelastic-otel timeline --run RUN", "torchelastic-otel doctor"}
    program = [sys.executable, "-m", "torchelastic_otel"]
    asked = [*program, "timeline", "--run", failed_job.run_id, *map(str, failed_job.files)]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    assert failed_job.truth.failed_host in told
    subprocess.run([*program, "doctor", "--help"], capture_output=True, timeout=60, check=True)
