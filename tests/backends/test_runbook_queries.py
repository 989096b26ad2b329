"""Every query of docs/runbooks.md is asked of the real backends, which hold a real job that failed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from jobs import Job
from support.alert_rules import blocks, runbook_sections
from support.backends import Stack, eventually

S = 1_000_000_000
SECTIONS = runbook_sections()
PROMQL = [(name, query) for name, text in SECTIONS.items() for query in blocks(text, "promql")]
LOGQL = [(name, query) for name, text in SECTIONS.items() for query in blocks(text, "logql")]


def filled(query: str, job: Job) -> str:
    """The query as a person sends it."""
    return query.replace("RUN", job.run_id).replace("HOST", job.truth.failed_host)


@pytest.fixture(scope="module")
def at_s(stack: Stack, failed_job: Job) -> float:
    """The end of the job, once its last numbers are there."""
    end_s = failed_job.truth.ended_ns / S
    asked = f'sum(torchelastic_restarts_total{{torchelastic_run_id="{failed_job.run_id}"}})'
    eventually(lambda: stack.prometheus.query(asked, end_s)[0][1] >= failed_job.truth.restarts)
    return end_s


@pytest.mark.parametrize(("section", "query"), PROMQL)
def test_prometheus_takes_every_query(stack: Stack, failed_job: Job, at_s: float, section: str, query: str) -> None:
    """At night nobody corrects a query."""
    assert isinstance(stack.prometheus.query(filled(query, failed_job), at_s), list), section


@pytest.mark.parametrize(("section", "query"), LOGQL)
def test_loki_takes_every_query(stack: Stack, failed_job: Job, section: str, query: str) -> None:
    """The same, and each is of this run or this node, or of all."""
    assert isinstance(stack.loki.query(filled(query, failed_job)), list), section


def test_the_queries_tell_what_truly_happened(stack: Stack, failed_job: Job, at_s: float) -> None:
    """One restart because of one worker on one node: the queries of the first alert say so, and nothing else."""
    reasons, nodes, *_ = (query for section, query in PROMQL if section == "torchelasticrestartstorm")
    told = {labels["torchelastic_restart_reason"]: round(n) for labels, n in answer(stack, reasons, failed_job, at_s)}
    assert {reason: n for reason, n in told.items() if n} == {failed_job.truth.reason: failed_job.truth.restarts}
    causes = {labels["host_name"]: round(n) for labels, n in answer(stack, nodes, failed_job, at_s) if round(n)}
    assert causes == {failed_job.truth.failed_host: 1}
    for section in ("torchelasticrestartstorm", "torchelasticjobfailed", "torchelasticnodekeepsfailing"):
        query = next(query for name, query in LOGQL if name == section)
        lines = eventually(lambda query=query: stack.loki.query(filled(query, failed_job)))  # type: ignore[misc]
        assert {labels["torchelastic_run_id"] for _, _, labels in lines} >= {failed_job.run_id}
    of_node = [labels for _, _, labels in lines if labels["torchelastic_run_id"] == failed_job.run_id]
    assert {labels["host_name"] for labels in of_node} == {failed_job.truth.failed_host}


def answer(stack: Stack, query: str, job: Job, at_s: float) -> list[tuple[dict[str, str], float]]:
    """What Prometheus says to a query of the runbook."""
    return stack.prometheus.query(filled(query, job), at_s)


def test_the_commands_are_there(failed_job: Job) -> None:
    """The runbook's commands are the program's: the timeline tells the run, and doctor is known."""
    commands = {line for text in SECTIONS.values() for block in blocks(text, "sh") for line in block.splitlines()}
    assert commands == {"torchelastic-otel timeline --run RUN", "torchelastic-otel doctor"}
    program = [sys.executable, "-m", "torchelastic_otel"]
    asked = [*program, "timeline", "--run", failed_job.run_id, *map(str, failed_job.files)]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    assert failed_job.truth.failed_host in told
    subprocess.run([*program, "doctor", "--help"], capture_output=True, timeout=60, check=True)
