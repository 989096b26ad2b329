"""Every event of a real job is in Loki, by every name that a person looks for it by, and leads to its trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from jobs import Job
from support.backends import Stack, eventually
from written import Written

RANK = "torchelastic.worker.rank"
RUN = "torchelastic.run.id"
Line = tuple[int, str, dict[str, str]]


def under(name: str) -> str:
    """An attribute's name as Loki keeps it."""
    return name.replace(".", "_")


def of_run(job: Job, **more: object) -> str:
    """The query for the lines of a job, with more conditions."""
    conditions = {under(RUN): job.run_id, **more}
    return '{service_name="torchrun"}' + "".join(f' | {name}="{value}"' for name, value in conditions.items())


def uids(lines: Iterable[Line]) -> Counter[str]:
    """How often each record came."""
    return Counter(labels["log_record_uid"] for _, _, labels in lines)


@pytest.fixture(scope="module")
def lines(stack: Stack, failed_job: Job) -> dict[str, Line]:
    """Everything of the job in Loki, by uid, once all of it is there."""
    told = {record.uid for record in failed_job.records()}

    def all_there() -> list[Line]:
        found = stack.loki.query(of_run(failed_job), start_ns=failed_job.truth.began_ns)
        return found if told <= set(uids(found)) else []

    return {labels["log_record_uid"]: (at, body, labels) for at, body, labels in eventually(all_there)}


def test_every_record_of_the_job_is_there_once_and_as_it_was_written(
    stack: Stack, failed_job: Job, lines: dict[str, Line]
) -> None:
    """Nothing is lost, doubled or changed on the way: the time, the text, and each attribute under its name."""
    told = failed_job.records()
    found = stack.loki.query(of_run(failed_job), start_ns=failed_job.truth.began_ns)
    assert uids(found) == Counter(record.uid for record in told)
    for record in told:
        at, body, labels = lines[record.uid]
        assert (at, body) == (record.time_ns, record.body)
        assert labels["event_name"] == record.name
        for name, value in {**record.resource, **record.attributes}.items():
            assert labels[under(name)] == as_loki_says(value), name


def as_loki_says(value: Any) -> str:
    """A value as Loki writes it down."""
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
    ("label", "of", "least"),
    [
        ("torchelastic_rendezvous_round", by_round, 2),
        ("torchelastic_group_rank", by_node_rank, 3),
        ("torchelastic_worker_rank", by_worker_rank, 6),
        ("event_name", by_name, 10),
        ("host_name", by_host, 3),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_records_are_found_by_it(
    stack: Stack, failed_job: Job, label: str, of: Callable[[Written], object], least: int
) -> None:
    """Round, node rank, worker rank, event name and host each find what belongs to them, and nothing else."""
    told: dict[object, set[str]] = {}
    for record in failed_job.records():
        if of(record) is not None:
            told.setdefault(of(record), set()).add(record.uid)
    assert len(told) >= least
    for value, records in told.items():
        found = stack.loki.query(of_run(failed_job, **{label: value}), start_ns=failed_job.truth.began_ns)
        assert set(uids(found)) == records, f"{label}={value}"


@pytest.mark.usefixtures("lines")
def test_the_truth_is_what_the_logs_tell(stack: Stack, failed_job: Job) -> None:
    """The failure is found by the rank that truly failed, and each rank of each round by its host."""
    truth = failed_job.truth
    assert truth.failure is not None
    asked = of_run(failed_job, event_name="torchelastic.worker.failed", torchelastic_failure_role="cause")
    ((_, _, labels),) = stack.loki.query(asked, start_ns=truth.began_ns)
    assert labels["host_name"] == truth.failed_host
    assert int(labels["torchelastic_worker_rank"]) == truth.failed_rank
    assert "the loss is not a number" in labels["exception_message"]
    asked = of_run(failed_job, event_name="torchelastic.worker.started")
    started = Counter(
        (labels["host_name"], int(labels["torchelastic_rendezvous_round"]), int(labels["torchelastic_worker_rank"]))
        for _, _, labels in stack.loki.query(asked, start_ns=truth.began_ns)
    )
    true = [(host, round_, rank) for host in truth.hosts for round_ in range(2) for rank in truth.ranks(host, round_)]
    assert started == Counter(true)
    completed = stack.loki.query(
        of_run(failed_job, event_name="torchelastic.restart.completed"), start_ns=truth.began_ns
    )
    reasons = {labels["torchelastic_restart_reason"] for _, _, labels in completed}
    assert (len(completed), reasons) == (len(truth.hosts), {truth.reason})
    causes = {(labels["torchelastic_cause_host"], int(labels["torchelastic_cause_rank"])) for _, _, labels in completed}
    assert causes == {(truth.failed_host, truth.failed_rank)}, "by the name that the host's own records are found by"


def test_each_record_leads_to_its_span(stack: Stack, failed_job: Job, lines: dict[str, Line]) -> None:
    """Whoever clicks on the trace of a log line finds the span that it happened in."""
    with_trace = {record.uid for record in failed_job.records() if record.trace_id}
    # of a rendezvous that takes long nobody has a round yet
    waiting = {record.uid for record in failed_job.records() if record.name == "torchelastic.rendezvous.waiting"}
    assert len(with_trace - waiting) > (len(lines) - len(waiting)) * 0.8
    traces: dict[str, set[str]] = {}
    for uid in with_trace:
        labels = lines[uid][2]
        trace, span = labels["trace_id"], labels["span_id"]
        if trace not in traces:
            traces[trace] = {each.span_id for each in stack.jaeger.trace(trace)}
        assert span in traces[trace], labels["event_name"]


def test_the_run_id_is_no_label_of_a_stream(stack: Stack, failed_job: Job, lines: dict[str, Line]) -> None:
    """A stream for each run, round or rank would be too many for Loki: only the resource makes streams."""
    assert lines
    assert under(RUN) not in stack.loki.label_values("__name__")
    assert failed_job.run_id not in stack.loki.label_values(under(RUN))
    assert len(stack.loki.label_values("service_instance_id")) >= len(failed_job.truth.hosts)
    assert "cluster-of-the-tests" in stack.loki.label_values("cluster")
