"""No counted restart is lost, whoever dies: the agent that counts, Prometheus, or the Collector between them."""

from __future__ import annotations

import itertools
import re
import time
import uuid
from pathlib import Path

import pytest

from tests.backends.jobs import Nodes, enter_all, play_writer_killed, run_for, stage_of, wait_all
from tests.live.harness import Agents
from tests.support.backends import QUICKSTART, Collector, Prometheus, Stack, eventually

RANGE = "15m"
S = 1_000_000_000
DOWN_S = 15.0
"""How long Prometheus is away at the least: many samples, of which agents take one a second."""
BACK_S = 90.0
"""The longest that numbers may take after an outage; the Collector's pause between two tries is up to 15 s."""


def counted(prometheus: Prometheus, run_id: str, at_s: float | None = None) -> float:
    """Restarts of a run over all agents that ever spoke for it; 0 where nothing is there."""
    found = prometheus.query(
        f'sum(max_over_time(torchelastic_restarts_total{{torchelastic_run_id="{run_id}"}}[{RANGE}]))', at_s
    )
    return found[0][1] if found else 0


def test_an_agents_restart_loses_no_restart(stack: Stack, tmp_path: Path) -> None:
    """It is killed in the moment in which it counted one; what it had counted is its series', and stays so."""
    job = play_writer_killed(stack, tmp_path / "job")
    assert max(being.start for being in job.truth.workers) == job.truth.restarts
    eventually(lambda: counted(stack.prometheus, job.run_id) >= job.truth.restarts)
    end_s = job.truth.ended_ns / S + 30
    assert counted(stack.prometheus, job.run_id, end_s) == job.truth.restarts
    selector = f'torchelastic_restarts_total{{torchelastic_run_id="{job.run_id}"}}[{RANGE}]'
    series = stack.prometheus.query(f"max_over_time({selector}) > 0", end_s)
    assert len({labels["instance"] for labels, _ in series}) == 2, "two agents, one after the other, spoke for the job"
    ((_, increase),) = stack.prometheus.query(f"round(sum(increase({selector})))", end_s)
    assert increase == job.truth.restarts
    assert all(value == 0 for _, value in stack.prometheus.query(f"min_over_time({selector})", end_s))


def test_an_outage_leaves_no_400_and_no_gap_behind(stack: Stack, tmp_path: Path) -> None:
    """Prometheus is killed for a while, then the Collector; a restart in each outage is counted when all is back.

    What Prometheus missed waits in the Collector and is filled in; what the Collector missed is a gap, and the agents'
    newest numbers hold what happened in it.
    """
    run_id = f"outage-{uuid.uuid4().hex[:6]}"
    prometheus = Prometheus(tmp_path / "prometheus")
    ends = {"LOGS_ENDPOINT": stack.victorialogs.otlp, "METRICS_ENDPOINT": prometheus.otlp}
    collector = Collector(QUICKSTART, tmp_path / "collector", env={**ends, "TRACES_ENDPOINT": stack.jaeger.otlp_grpc})
    directory = tmp_path / "job"
    directory.mkdir()
    with prometheus, collector, Agents(directory) as agents:
        cluster = stage_of(agents, directory, collector)
        letters = enter_all(cluster, 2, run_id, workers=1, restarts=3)
        wait_all(cluster, letters, 0, workers=1)
        eventually(lambda: len(sampled(prometheus, run_id)) == 2)
        run_for(2)

        prometheus.kill()
        down_s = time.time()
        fail(cluster, letters, 0)
        run_for(DOWN_S - (time.time() - down_s))
        prometheus.start()
        up_s = time.time()
        eventually(lambda: counted(prometheus, run_id) == 1, BACK_S)
        eventually(lambda: all(times[-1] > up_s for times in sampled(prometheus, run_id)), BACK_S)
        assert refused(collector) == {}
        longest_s = max(gap for times in sampled(prometheus, run_id) for gap in gaps(times))
        assert longest_s < (up_s - down_s) / 2, "the Collector's queue holds what Prometheus was not there for"

        collector.kill()
        fail(cluster, letters, 1)
        run_for(3)
        collector.start()
        eventually(lambda: counted(prometheus, run_id) == 2, BACK_S)
        run_for(2)
        cluster.finish()
        assert set(cluster.exit_statuses().values()) == {0}
        assert counted(prometheus, run_id) == 2
        assert refused(collector) == {}
        of_run = f'{{torchelastic_run_id="{run_id}"}}'
        ((_, rejected),) = prometheus.query(f"sum(torchelastic_export_rejected_total{of_run})")
        assert rejected == 0
    said = collector.text().splitlines()
    assert [line for line in said if re.search("Dropping data|Status Code 4", line)] == []


def fail(cluster: Nodes, letters: str, start: int) -> None:
    """A worker of the second node raises, and all go on."""
    (worker,) = cluster.wait_for_workers(letters[1], start)
    cluster.command(worker, "raise")
    wait_all(cluster, letters, start + 1, workers=1)


def refused(collector: Collector) -> dict[str, float]:
    """What the Collector lost, or refused to take."""
    marks = ("otelcol_exporter_send_failed_", "otelcol_exporter_enqueue_failed_", "otelcol_receiver_refused_")
    return {name: value for name, value in collector.metrics().items() if name.startswith(marks) and value}


def sampled(prometheus: Prometheus, run_id: str) -> list[list[float]]:
    """When each agent's numbers were taken, in seconds, an agent after the other."""
    ((_, now_s),) = prometheus.query("time()")
    labels = f'torchelastic_run_id="{run_id}", torchelastic_time_state="running"'
    asked = f"timestamp(torchelastic_agent_time_seconds_total{{{labels}}})"
    return [sorted({taken for _, taken in points}) for _, points in prometheus.range(asked, now_s - 300, now_s, 0.5)]


def gaps(times: list[float]) -> list[float]:
    """Seconds from each to the next."""
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize("times", [[1.0, 2.0, 9.0]])
def test_a_gap_would_be_seen(times: list[float]) -> None:
    """The measure of this file can fail."""
    assert max(gaps(times)) == 7
