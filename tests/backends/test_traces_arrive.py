"""The traces of a real job are in Jaeger, whole, and found by what a person knows: the run's id."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.backends.file_exports import Written
from tests.backends.jobs import Job
from tests.support.backends import Span, Stack, eventually


@pytest.fixture(scope="module")
def traces(stack: Stack, failed_job: Job) -> dict[str, list[Span]]:
    """The spans of each trace of the job, once all of them are there."""
    told = {(span.trace_id, span.span_id) for span in failed_job.spans()}

    def all_there() -> dict[str, list[Span]]:
        found = {trace: stack.jaeger.trace(trace) for trace in {trace for trace, _ in told}}
        return found if told <= {(s.trace_id, s.span_id) for spans in found.values() for s in spans} else {}

    return eventually(all_there)


def test_every_span_is_there_as_it_was_written(failed_job: Job, traces: dict[str, list[Span]]) -> None:
    """Name, parent, begin, host and round of each span; each once."""
    told = {(span.trace_id, span.span_id): span for span in failed_job.spans()}
    found = [span for spans in traces.values() for span in spans]
    assert len(found) == len(told)
    for span in found:
        wrote: Written = told[span.trace_id, span.span_id]
        assert (span.name, span.parent_id) == (wrote.name, wrote.parent_id)
        assert abs(span.start_ns - wrote.time_ns) < 1_000
        assert span.resource["host.name"] == wrote.resource["host.name"]
        assert span.resource["cluster"] == "cluster-of-the-tests"
        name = "torchelastic.rendezvous.round"
        assert span.tags[name] == wrote.attributes[name]


def test_traces_are_whole(failed_job: Job, traces: dict[str, list[Span]]) -> None:
    """One root, no parent that is missing; two traces for each round, of all nodes, and linked."""
    for spans in traces.values():
        known = {span.span_id for span in spans}
        roots = [span for span in spans if not span.parent_id]
        assert len(roots) == 1
        assert all(span.parent_id in known for span in spans if span.parent_id)
    kinds = defaultdict(list)
    for spans in traces.values():
        (root,) = (span for span in spans if not span.parent_id)
        kinds[root.name].append(spans)
    assert {name: len(each) for name, each in kinds.items()} == {
        "torchelastic.round": failed_job.truth.rounds,
        "torchelastic.training": failed_job.truth.rounds,
    }
    for part, name in (
        ("torchelastic.rendezvous", "torchelastic.round"),
        ("torchelastic.workers", "torchelastic.training"),
    ):
        for spans in kinds[name]:
            hosts = sorted(span.resource["host.name"] for span in spans if span.name == part)
            assert hosts == sorted(failed_job.truth.hosts)
    for spans in kinds["torchelastic.training"]:
        (root,) = (span for span in spans if not span.parent_id)
        assert {trace for trace, _ in root.links} <= set(traces)
        assert root.links


def test_the_run_id_finds_all_traces(stack: Stack, failed_job: Job, traces: dict[str, list[Span]]) -> None:
    """And no trace of another run; the round and a failure narrow it down."""

    def found(**tags: str) -> set[str]:
        by = {"torchelastic.run.id": failed_job.run_id, **{key.replace("__", "."): tags[key] for key in tags}}
        return {spans[0].trace_id for spans in stack.jaeger.search("torchrun", by)}

    assert found() == set(traces)
    of_round = {
        trace for trace, spans in traces.items() if any(s.tags["torchelastic.rendezvous.round"] == 1 for s in spans)
    }
    assert found(torchelastic__rendezvous__round="1") == of_round
    failed = {trace for trace, spans in traces.items() if any(s.tags.get("error") is True for s in spans)}
    assert found(error="true") == failed
    assert len(failed) == 1, "the running time of round 0 is what failed"


def test_the_failed_worker_is_an_error_of_its_nodes_span(failed_job: Job, traces: dict[str, list[Span]]) -> None:
    """An error is where it happened: at the node whose worker failed, in the round in which it did."""
    (span,) = (
        span
        for spans in traces.values()
        for span in spans
        if span.name == "torchelastic.workers" and span.tags.get("error") is True
    )
    assert span.resource["host.name"] == failed_job.truth.failed_host
    assert span.tags["torchelastic.rendezvous.round"] == 0
