"""Every query of every panel, variable and annotation, asked of the real backends that hold a real job that failed
once: the answer is what truly happened.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.backends.conftest import loki_of
from tests.backends.expected_answers import FLEET, JOB, MESSAGE, Check, Seen, first_failure
from tests.backends.jobs import Job
from tests.support.backends import LogStore, Stack, eventually
from tests.support.dashboard_answers import S, View
from tests.support.dashboards import FOLDER, LOG_STORES, NAMES, ROOT, panels, read

TRUTH: dict[str, dict[str, Check]] = {"job": JOB, "fleet": FLEET}
AFTER_S = 5
"""How long after the end of the job its dashboards are looked at."""
RECENT = {"Is it running now?", "How many jobs run now?"}
"""Panels of this moment: they look back three minutes."""
OF_COLLECTORS = "Collectors", "What do Collectors throw away?"
"""A number and a panel that are of no job, and of Collectors that no cluster may be said of."""


def all_there(stack: Stack, job: Job) -> bool:
    """Whether the last of the job's records and numbers have arrived; raises with what has."""
    selector = f'torchelastic_run_id="{job.run_id}"'
    ended = f'torchelastic_events_total{{{selector}, torchelastic_event_name="torchelastic.agent.succeeded"}}'
    counted = sum(value for _, value in stack.prometheus.query(f"last_over_time({ended}[1h])"))
    stores: list[LogStore] = [stack.victorialogs, *([stack.loki] if stack.loki else [])]
    stored = [
        len(store.query(store.selector({"torchelastic.run.id": job.run_id}), start_ns=job.truth.began_ns))
        for store in stores
    ]
    traces = [record.trace_id for record in job.records() if record.name == "torchelastic.restart.completed"]
    spans = [span for trace in dict.fromkeys(traces) for span in stack.jaeger.trace(trace)]
    hosts = sorted({str(span.resource["host.name"]) for span in spans})
    assert (counted, hosts) == (len(job.truth.hosts), sorted(job.truth.hosts))
    assert set(stored) == {len(job.records())}
    return True


@pytest.fixture(scope="module")
def job(stack: Stack, failed_job: Job) -> Job:
    """The job, once the backends hold all of it."""
    eventually(lambda: all_there(stack, failed_job), deadline_s=60)
    return failed_job


def view_of(name: str, stack: Stack, of: Job, log_store: str = "victorialogs", **chosen: Any) -> View:
    """A dashboard shortly after the end of the job; everything is chosen but its run."""
    board = read(name, log_store)
    times = (of.truth.began_ns / S, of.truth.ended_ns / S + AFTER_S)
    return View.of_run(board, stack, of.run_id, *times, **chosen)


def later(view: View, seconds: float) -> View:
    """The same, looked at later."""
    return dataclasses.replace(view, end_s=view.end_s + seconds)


def panel_of(view: View, title: str) -> dict[str, Any]:
    """A panel by its title."""
    (panel,) = [panel for panel in panels(view.board) if panel["title"] == title]
    return panel


@pytest.mark.parametrize("log_store", LOG_STORES)
@pytest.mark.parametrize("name", NAMES)
def test_no_panel_is_without_an_expected_answer(name: str, log_store: str) -> None:
    """A panel without an expected answer is untested."""
    assert {panel["title"] for panel in panels(read(name, log_store))} == set(TRUTH[name])


def asks_for_logs(name: str, title: str) -> bool:
    """Whether a panel's queries are in the language of a log store: only those differ between the variants."""
    (panel,) = [panel for panel in panels(read(name)) if panel["title"] == title]
    return any(target["datasource"]["type"] in LOG_STORES.values() for target in panel["targets"])


PANELS = [(name, title, "victorialogs") for name in NAMES for title in TRUTH[name]]
PANELS += [(name, title, "loki") for name, title, _ in PANELS if asks_for_logs(name, title)]


@pytest.mark.parametrize(("name", "title", "log_store"), PANELS)
def test_a_panel_shows_what_happened(name: str, title: str, log_store: str, stack: Stack, job: Job) -> None:
    """Each panel of the dashboards."""
    if log_store == "loki":
        loki_of(stack)
    view = view_of(name, stack, job, log_store)
    if title in RECENT:
        view = later(view, 240)
    TRUTH[name][title](view.answers(panel_of(view, title)), Seen(job, stack, view))


def test_while_it_runs_the_job_is_seen_to_run(stack: Stack, job: Job) -> None:
    """The first question of whoever is called; asked of the moment before the failure."""
    seen = Seen(job, stack, view_of("job", stack, job))
    before = dataclasses.replace(seen.view, end_s=seen.raised_s - 0.2)
    (state,) = before.answers(panel_of(before, "Is it running now?")).items()
    assert state == ("running", pytest.approx(3, abs=0.5))
    fleet = dataclasses.replace(view_of("fleet", stack, job), end_s=seen.raised_s - 0.2)
    assert fleet.answers(panel_of(fleet, "How many jobs run now?")) == {"": 1}
    assert before.answers(panel_of(before, "Has it ended, and how?")) == {}


def test_before_it_restarts_the_first_failure_is_told(stack: Stack, job: Job) -> None:
    """A job whose restarts are exhausted, or whose rendezvous waits, has no restart that names a cause."""
    seen = Seen(job, stack, view_of("job", stack, job))
    down = View.of_run(read("job"), stack, job.run_id, job.truth.began_ns / S, seen.failure.time_ns / S + 0.01)
    first_failure(down.answers(panel_of(down, "Who failed first in the newest round?")), seen)


def test_counts_do_not_depend_on_how_long_a_window_is(stack: Stack, job: Job) -> None:
    """A window that reaches far beyond the job's samples must not make two restarts of one."""
    view = view_of("job", stack, job)
    for seconds in (0, 60, 3600):
        wide = dataclasses.replace(view, start_s=view.start_s - seconds, end_s=view.end_s + seconds)
        assert wide.answers(panel_of(wide, "How many restarts?")) == {"": 1}


def test_annotations_are_at_the_times_of_their_events(logs: LogStore, stack: Stack, job: Job) -> None:
    """A round and a restart are drawn once, not once for each node."""
    view = view_of("job", stack, job, logs.name)
    seen = Seen(job, stack, view)
    told = view.annotations()
    assert set(told) == {"Rounds", "Restarts", "Membership"}
    rounds = sorted(told["Rounds"])
    assert [title for _, title, _ in rounds] == ["Round 0 runs", "Round 1 runs"]
    since_s = (job.truth.began_ns / S, seen.raised_s)
    for start, (at, _, _) in enumerate(rounds):
        assert (
            since_s[start] < at < seen.began_s(start)[-1] + 3
        )  # told within two seconds, and rounds are further apart
    ((at, title, text),) = told["Restarts"]
    assert (at, title) == (pytest.approx(seen.restart.time_ns / S), "Restarted: worker_failure")
    assert MESSAGE in text
    assert told["Membership"] == []


def test_variables_offer_what_there_is(stack: Stack, job: Job) -> None:
    """A value that is not offered cannot be chosen; one that is not there leads to empty panels."""
    for name in NAMES:
        view = view_of(name, stack, job)
        assert "cluster-of-the-tests" in view.options("cluster")
        assert "torchrun" in view.options("job")
        assert job.run_id in view.options("run_id")
        assert sorted(view.options("host")) == list(job.truth.hosts)
    view = view_of("job", stack, job)
    assert sorted(view.options("round")) == ["0", "1"]
    assert view.options("newest_round") == ["1"]


def test_a_chosen_round_and_host_narrow_the_event_log(stack: Stack, job: Job) -> None:
    """What the variables are for."""
    view = view_of("job", stack, job, round="0", host="train-2")
    lines = view.answers(panel_of(view, "What happened, step by step?"))
    assert lines
    assert {fields["host.name"] for _, _, fields in lines} == {"train-2"}
    assert {fields["torchelastic.rendezvous.round"] for _, _, fields in lines} == {"0"}


def test_another_cluster_or_job_is_another(stack: Stack, job: Job) -> None:
    """Panels that forgot a variable would show others' trouble."""
    for wrong in ({"cluster": "elsewhere"}, {"job": "somebody-else"}, {"run_id": "another"}):
        for name in NAMES:
            view = view_of(name, stack, job)
            view = dataclasses.replace(view, chosen={**view.chosen, **wrong})
            for panel in panels(view.board):
                answer = view.answers(panel)
                if isinstance(answer, dict):  # 0 is how "none" is said
                    answer = {key: value for key, value in answer.items() if value != 0 and key not in OF_COLLECTORS}
                assert not answer or panel["title"] in OF_COLLECTORS, (wrong, panel["title"])


def test_a_span_leads_to_the_log_records_of_its_trace(logs: LogStore, stack: Stack, job: Job) -> None:
    """The link of datasources.yaml, filled in from a span's tags as Grafana does it; all nodes' records."""
    sources = yaml.safe_load((FOLDER / logs.name / "datasources.yaml").read_text())["datasources"]
    (link,) = [each["jsonData"]["tracesToLogsV2"] for each in sources if each["type"] == "jaeger"]
    trace_id = Seen(job, stack, view_of("job", stack, job)).restart.trace_id
    span = stack.jaeger.trace(trace_id)[0]
    tags = [
        (each["value"], span.resource[each["key"]]) for each in link.get("tags", []) if each["key"] in span.resource
    ]
    query = link["query"].replace("$${__tags}", ", ".join(f'{label}="{value}"' for label, value in tags))
    lines = logs.query(query.replace("$${__trace.traceId}", trace_id), start_ns=job.truth.began_ns)
    told = [record.uid for record in job.records() if record.trace_id == trace_id]
    assert told
    assert sorted(fields[logs.field("log.record.uid")] for _, _, fields in lines) == sorted(told)
    assert {fields[logs.field("host.name")] for _, _, fields in lines} == set(job.truth.hosts)


def test_pictures_are_drawn_of_what_the_panels_answer(stack: Stack, job: Job, tmp_path: Path) -> None:
    """The documentation's pictures are made so, and stay small; DASHBOARD_ANSWERS says where to keep the answers."""
    kept = {}
    for name in NAMES:
        view = view_of(name, stack, job)
        seen = Seen(job, stack, view)
        answers = {}
        for panel in panels(view.board):
            moment = dataclasses.replace(view, end_s=min(seen.ended_s) - 1) if panel["title"] in RECENT else view
            answers[panel["title"]] = moment.answers(panel)
        kept[name] = {"answers": answers, "annotations": view.annotations() if name == "job" else {}}
    where = Path(os.environ.get("DASHBOARD_ANSWERS") or tmp_path / "answers.json")
    where.write_text(json.dumps(kept))
    draw: list[str | Path] = [
        sys.executable,
        ROOT / "scripts" / "dashboard-pictures",
        "--answers",
        where,
        "--into",
        tmp_path,
    ]
    subprocess.run(draw, check=True, timeout=300)
    for name in NAMES:
        picture = (tmp_path / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert 20_000 < len(picture) < 300_000
