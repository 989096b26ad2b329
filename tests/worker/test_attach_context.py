"""A worker's spans joined to the agent's: a link by default, a parent where that is asked for."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import torchelastic_otel
from torchelastic_otel import semconv
from torchelastic_otel.environment_variables import TRACEPARENT, TRACESTATE

AGENT = f"00-{'a' * 32}-{'1' * 16}-01"
USER = f"00-{'b' * 32}-{'2' * 16}-01"


@pytest.fixture
def exported() -> InMemorySpanExporter:
    """Where the spans of the test's own tracer go."""
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exported: InMemorySpanExporter) -> trace.Tracer:
    """A tracer of the worker's own provider, which is nobody's global one."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return provider.get_tracer("worker")


def traces(links: object) -> list[str]:
    """The first digit of each linked trace."""
    return [f"{link.context.trace_id:032x}"[0] for link in links]  # type: ignore[attr-defined]


def test_without_a_context_in_the_environment_it_does_nothing(
    tracer: trace.Tracer, exported: InMemorySpanExporter
) -> None:
    """The same script runs without an agent of ours, and with one that was not asked."""
    with torchelastic_otel.attach_context(as_parent=True) as context, tracer.start_as_current_span("x"):
        assert context.links == ()
    (span,) = exported.get_finished_spans()
    assert span.parent is None


def test_the_agents_span_is_linked_and_no_parent(
    tracer: trace.Tracer, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent's sampled flag would have the worker's sampler keep every span."""
    monkeypatch.setenv(TRACEPARENT, AGENT)
    monkeypatch.setenv(TRACESTATE, "vendor=1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    with (
        torchelastic_otel.attach_context() as context,
        tracer.start_as_current_span("epoch", links=context.links),
    ):
        pass
    (span,) = exported.get_finished_spans()
    assert span.parent is None
    assert traces(span.links) == ["a"]
    assert span.links[0].attributes == {semconv.RUN_ID: "run"}
    assert span.links[0].context.trace_state.get("vendor") == "1"


def test_a_span_that_is_current_gets_the_link_at_once(
    tracer: trace.Tracer, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line in the middle of a script that is traced already must be enough."""
    monkeypatch.setenv(TRACEPARENT, AGENT)
    with tracer.start_as_current_span("main"):
        torchelastic_otel.attach_context()
    assert traces(exported.get_finished_spans()[0].links) == ["a"]


def test_as_parent_lasts_for_the_block(
    tracer: trace.Tracer, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for, the worker's spans are below the agent's; after the block what was current is current again."""
    monkeypatch.setenv(TRACEPARENT, AGENT)
    with torchelastic_otel.attach_context(as_parent=True) as context:
        assert context.links == ()
        with tracer.start_as_current_span("below"):
            pass
    with tracer.start_as_current_span("after"):
        pass
    context.detach()
    below, after = exported.get_finished_spans()
    assert below.parent is not None
    assert f"{below.parent.span_id:016x}" == "1" * 16
    assert after.parent is None


@pytest.mark.parametrize(("as_parent", "parent", "links"), [(False, None, ["b", "a"]), (True, "b", ["a"])])
def test_the_users_own_context_comes_first(
    tracer: trace.Tracer,
    exported: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    as_parent: bool,
    parent: str | None,
    links: list[str],
) -> None:
    """Who set TRACEPARENT has a trace in mind; the agent's is linked beside it."""
    monkeypatch.setenv("TRACEPARENT", USER)
    monkeypatch.setenv(TRACEPARENT, AGENT)
    with torchelastic_otel.attach_context(as_parent=as_parent) as context:
        assert traces(context.links) == links
        with tracer.start_as_current_span("x"):
            pass
    (span,) = exported.get_finished_spans()
    assert (None if span.parent is None else f"{span.parent.trace_id:032x}"[0]) == parent


@pytest.mark.parametrize("words", ["", "nonsense", f"00-{'0' * 32}-{'1' * 16}-01", "00-\udcff", "x" * 10_000])
def test_what_is_no_context_is_none(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never raises."""
    monkeypatch.setenv("TRACEPARENT", words)
    monkeypatch.setenv("TRACESTATE", words)
    assert torchelastic_otel.attach_context(as_parent=True).links == ()
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.tests_own_faults
def test_a_fault_of_ours_stays_ours(faults: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenTelemetry that is not what we know must not stop a training."""
    monkeypatch.setenv("TRACEPARENT", USER)
    monkeypatch.setattr(trace, "get_current_span", None)
    assert torchelastic_otel.attach_context().links == ()
    assert len(faults) == 1
