"""The policies of gateway.yaml on real traces: a failed bring-up is kept whole, a fine one is left out whole."""

from __future__ import annotations

import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from tests.backends.file_exports import Written
from tests.backends.jobs import Job, job_of, play_failed_job, play_fine_job, stage_of
from tests.live.harness import Agents
from tests.support.backends import QUICKSTART, Collector, Stack, eventually

GATEWAY = QUICKSTART.parent / "gateway.yaml"
WAIT = "8s"
"""Instead of half a minute."""


def sampler() -> dict[str, Any]:
    """The gateway's, as it is shipped, but sooner."""
    shipped = yaml.safe_load(GATEWAY.read_text())["processors"]["tail_sampling"]
    return {**shipped, "decision_wait": WAIT}


def play_stuck_job(to: Any, directory: Path) -> Job:
    """Two of three nodes come, and wait in vain."""
    run_id = f"stuck-{uuid.uuid4().hex[:6]}"
    directory.mkdir()
    with Agents(directory) as agents:
        cluster = stage_of(agents, directory, to)
        for letter in "ab":
            cluster.start_agent(letter, nnodes="3", conf="join_timeout=7", run_id=run_id)
        job = job_of(cluster, run_id, 0, restarts=0)
    assert set(job.truth.exits.values()) == {1}
    return job


def traces(job: Job) -> dict[str, list[Written]]:
    """What the agents wrote, by trace."""
    found = defaultdict(list)
    for span in job.spans():
        found[span.trace_id].append(span)
    return dict(found)


def test_failed_bring_ups_are_kept_whole_and_fine_ones_left_out_whole(stack: Stack, tmp_path: Path) -> None:
    """With no sampling of the rest, Jaeger has every span of every trace with an error or a restart, and no other."""
    overrides = {
        "processors": {"tail_sampling": sampler()},
        "service": {"pipelines": {"traces": {"processors": ["memory_limiter", "transform/cluster", "tail_sampling"]}}},
    }
    ends = {"LOGS_ENDPOINT": stack.victorialogs.otlp, "METRICS_ENDPOINT": stack.prometheus.otlp}
    env = {**ends, "TRACES_ENDPOINT": stack.jaeger.otlp_grpc, "TRACE_SAMPLE_PERCENT": "0"}
    with Collector(QUICKSTART, tmp_path / "collector", env=env, overrides=overrides) as collector:
        stuck = play_stuck_job(collector, tmp_path / "stuck")
        fine = play_fine_job(collector, tmp_path / "fine")
        failed = play_failed_job(collector, tmp_path / "failed", nodes=2)
        told = {**traces(stuck), **traces(fine), **traces(failed)}
        kept, left_out = set(traces(stuck)), set(traces(fine))
        (failed_training,) = {span.trace_id for span in failed.spans() if failing(span)}
        restarted = {span.trace_id for span in failed.spans() if span.attributes["torchelastic.rendezvous.round"] > 0}
        kept |= {failed_training} | restarted
        left_out |= set(traces(failed)) - kept
        assert len(left_out) == 3, "of the fine job two, of the failed one the first bring-up"
        decided = "otelcol_processor_tail_sampling_global_count_traces_sampled"
        eventually(lambda: collector.metrics().get(decided, 0) >= len(told), 60)
        for trace in kept:
            spans = {span.span_id for span in told[trace]}
            eventually(lambda trace=trace, spans=spans: {s.span_id for s in stack.jaeger.trace(trace)} == spans)
        assert [trace for trace in left_out if stack.jaeger.trace(trace)] == []
    assert kept
    assert {span.name for span in stuck.spans()} >= {"torchelastic.round", "torchelastic.rendezvous"}


def failing(span: Written) -> bool:
    """Whether it is the running of a node whose worker failed."""
    return span.name == "torchelastic.workers" and span.failed
