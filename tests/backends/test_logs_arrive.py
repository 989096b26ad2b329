"""Every event of a real job is in the log store, is found by each of its attributes, and leads to its trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.backends.file_exports import Written
from tests.backends.jobs import Job
from tests.support.backends import LogStore, Loki, Stack, eventually

RANK = "torchelastic.worker.rank"
RUN = "torchelastic.run.id"
Line = tuple[int, str, dict[str, str]]


def of_run(logs: LogStore, job: Job, **more: object) -> str:
    """The query for the records of a job with more conditions, such as ``torchelastic__failure__role="cause"``."""
    conditions = {name.replace("__", "."): value for name, value in more.items()}
    return logs.selector({RUN: job.run_id, **conditions})


def uids(logs: LogStore, lines: Iterable[Line]) -> Counter[str]:
    """How often each record arrived."""
    return Counter(fields[logs.field("log.record.uid")] for _, _, fields in lines)


@pytest.fixture(scope="module")
def lines(logs: LogStore, failed_job: Job) -> dict[str, Line]:
    """All records of the job in the store, by uid, once all are there."""
    written = {record.uid for record in failed_job.records()}

    def all_there() -> list[Line]:
        found = logs.query(of_run(logs, failed_job), start_ns=failed_job.truth.began_ns)
        return found if written <= set(uids(logs, found)) else []

    uid = logs.field("log.record.uid")
    return {fields[uid]: (at, body, fields) for at, body, fields in eventually(all_there)}


def test_every_record_arrives_once_and_unchanged(logs: LogStore, failed_job: Job, lines: dict[str, Line]) -> None:
    """Nothing is lost, duplicated or changed: the time, the body, and each attribute under its name."""
    written = failed_job.records()
    found = logs.query(of_run(logs, failed_job), start_ns=failed_job.truth.began_ns)
    assert uids(logs, found) == Counter(record.uid for record in written)
    for record in written:
        at, body, fields = lines[record.uid]
        assert (at, body) == (record.time_ns, record.body)
        assert fields["event_name"] == record.name
        for name, value in {**record.resource, **record.attributes}.items():
            assert fields[logs.field(name)] == as_text(value), name


def as_text(value: Any) -> str:
    """A value as both stores write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else repr(value)
    if isinstance(value, list):
        return "[" + ",".join(f'"{each}"' for each in value) + "]"
    return str(value)


def by_round(record: Written) -> object:
    """The round, where it is known."""
    return record.attributes.get("torchelastic.rendezvous.round")


def by_node_rank(record: Written) -> object:
    """The node's rank, where it is known."""
    return record.attributes.get("torchelastic.group.rank")


def by_worker_rank(record: Written) -> object:
    """The worker's rank, where it is of one."""
    return record.attributes.get(RANK)


def by_name(record: Written) -> object:
    """The event's name."""
    return record.name


def by_host(record: Written) -> object:
    """The host's name."""
    return record.resource["host.name"]


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize(
    ("attribute", "of", "least"),
    [
        ("torchelastic.rendezvous.round", by_round, 2),
        ("torchelastic.group.rank", by_node_rank, 3),
        ("torchelastic.worker.rank", by_worker_rank, 6),
        ("event_name", by_name, 10),
        ("host.name", by_host, 3),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_records_are_found_by_attribute(
    logs: LogStore, failed_job: Job, attribute: str, of: Callable[[Written], object], least: int
) -> None:
    """Round, node rank, worker rank, event name and host each find their records and no others."""
    expected: dict[object, set[str]] = {}
    for record in failed_job.records():
        if of(record) is not None:
            expected.setdefault(of(record), set()).add(record.uid)
    assert len(expected) >= least
    for value, records in expected.items():
        query = logs.selector({RUN: failed_job.run_id, attribute: value})
        found = logs.query(query, start_ns=failed_job.truth.began_ns)
        assert set(uids(logs, found)) == records, f"{attribute}={value}"


@pytest.mark.usefixtures("lines")
def test_the_log_records_report_the_actual_failure(logs: LogStore, failed_job: Job) -> None:
    """The failure is found by the rank that failed, and each rank of each round by its host."""
    truth = failed_job.truth
    assert truth.failure is not None

    def asked(event: str, **more: object) -> list[dict[str, str]]:
        query = of_run(logs, failed_job, event_name=event, **more)
        return [fields for _, _, fields in logs.query(query, start_ns=truth.began_ns)]

    host, rank = logs.field("host.name"), logs.field(RANK)
    round_, cause = logs.field("torchelastic.rendezvous.round"), logs.field("torchelastic.cause.host")
    (failed,) = asked("torchelastic.worker.failed", torchelastic__failure__role="cause")
    assert failed[host] == truth.failed_host
    assert int(failed[rank]) == truth.failed_rank
    assert "the loss is not a number" in failed[logs.field("exception.message")]
    started = Counter(
        (fields[host], int(fields[round_]), int(fields[rank])) for fields in asked("torchelastic.worker.started")
    )
    actual = [(name, number, one) for name in truth.hosts for number in range(2) for one in truth.ranks(name, number)]
    assert started == Counter(actual)
    completed = asked("torchelastic.restart.completed")
    reasons = {fields[logs.field("torchelastic.restart.reason")] for fields in completed}
    assert (len(completed), reasons) == (len(truth.hosts), {truth.reason})
    causes = {(fields[cause], int(fields[logs.field("torchelastic.cause.rank")])) for fields in completed}
    assert causes == {(truth.failed_host, truth.failed_rank)}, (
        "by the name under which the host's own records are found"
    )


def test_each_record_leads_to_its_span(stack: Stack, failed_job: Job, lines: dict[str, Line]) -> None:
    """The trace id of a record leads to the span in which it happened."""
    with_trace = {record.uid for record in failed_job.records() if record.trace_id}
    # during a long rendezvous the round is not known yet
    waiting = {record.uid for record in failed_job.records() if record.name == "torchelastic.rendezvous.waiting"}
    assert len(with_trace - waiting) > (len(lines) - len(waiting)) * 0.8
    traces: dict[str, set[str]] = {}
    for uid in with_trace:
        fields = lines[uid][2]
        trace, span = fields["trace_id"], fields["span_id"]
        if trace not in traces:
            traces[trace] = {each.span_id for each in stack.jaeger.trace(trace)}
        assert span in traces[trace], fields["event_name"]


def test_victorialogs_makes_a_stream_of_each_agent(stack: Stack, failed_job: Job) -> None:
    """A stream for each run, round or rank, or for each set of the resource's attributes, would be too many."""
    eventually(lambda: stack.victorialogs.query(of_run(stack.victorialogs, failed_job)))
    fields = stack.victorialogs.stream_fields()
    assert set(fields) == {"service.name", "service.instance.id"}
    assert len(fields["service.instance.id"]) >= len(failed_job.truth.hosts)


def test_loki_makes_no_label_of_the_run_id(loki: Loki, failed_job: Job) -> None:
    """A stream for each run, round or rank would be too many for Loki: only the resource makes streams."""
    eventually(lambda: loki.query(of_run(loki, failed_job)))
    assert loki.field(RUN) not in loki.label_values("__name__")
    assert failed_job.run_id not in loki.label_values(loki.field(RUN))
    assert len(loki.label_values("service_instance_id")) >= len(failed_job.truth.hosts)
    assert "cluster-of-the-tests" in loki.label_values("cluster")
