"""The projection of a finished span, and the limits on what it holds."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import SpanLimits, TracerProvider

from tests.support.collector import attributes_of
from tests.support.senders import user_draws
from tests.support.spans import OTHER_TRACE, START, TRACE, S, span, span_delivery
from tests.support.stored_events import ORIGIN
from torchelastic_otel.export.otel.limits import span_limits
from torchelastic_otel.export.otel.spans import readable_span
from torchelastic_otel.model.span import SpanEvent, SpanLink


def limits(**variables: str) -> SpanLimits:
    """Limits of such an environment, whose values are all allowed."""
    return span_limits({f"OTEL_{name}": value for name, value in variables.items()}, pytest.fail)


def encoded(delivery: Any, under: SpanLimits | None = None) -> tuple[Any, Any]:
    """The resource and the span as they are on the wire."""
    [of_resource] = encode_spans([readable_span(delivery, under or limits())]).resource_spans
    [of_scope] = of_resource.scope_spans
    assert (of_scope.scope.name, of_scope.schema_url != "") == ("torchelastic_otel", True)
    return of_resource.resource, of_scope.spans[0]


def test_ids_times_and_resource_are_the_spans_own() -> None:
    """Nothing is taken from where it is delivered: neither clock, nor ids, nor an ambient span."""
    with user_draws(), TracerProvider().get_tracer("test").start_as_current_span("ambient"):
        resource, told = encoded(span_delivery())
    assert told.name == "torchelastic.round"
    assert (told.trace_id.hex(), told.span_id.hex()) == (TRACE, "b7ad6b7169203331")
    assert told.parent_span_id.hex() == "00f067aa0ba902b7"
    assert (told.start_time_unix_nano, told.end_time_unix_nano) == (START, START + 2 * S)
    assert told.kind == told.SPAN_KIND_INTERNAL
    assert attributes_of(told.attributes) == {"torchelastic.run.id": "r", "torchelastic.rendezvous.round": 3}
    assert attributes_of(resource.attributes)["service.instance.id"] == ORIGIN.id
    assert attributes_of(resource.attributes)["host.name"] == "node-a"


def test_events_and_links_come_along() -> None:
    """A trace view shows the transitions; a bring-up links to the training before it."""
    _, told = encoded(span_delivery())
    [event], [link] = told.events, told.links
    assert (event.name, event.time_unix_nano) == ("torchelastic.rendezvous.joined", START + S)
    assert attributes_of(event.attributes) == {"torchelastic.node.id": "n"}
    assert (link.trace_id.hex(), link.span_id.hex()) == (OTHER_TRACE, "ee" * 8)
    assert attributes_of(link.attributes) == {"torchelastic.link": "training"}


def test_an_error_is_its_status_and_a_root_has_no_parent() -> None:
    """Unset is no claim that all went well."""
    _, told = encoded(span_delivery(of=span(error="worker 1 failed")))
    assert (told.status.code, told.status.message) == (told.status.STATUS_CODE_ERROR, "worker 1 failed")
    _, root = encoded(span_delivery(of=replace(span(), parent_id=None)))
    assert (root.status.code, root.parent_span_id) == (root.status.STATUS_CODE_UNSET, b"")


def test_the_same_span_gives_the_same_bytes_twice() -> None:
    """At least once: a backend drops a span that it has by its ids."""
    first, second = (encode_spans([readable_span(span_delivery(), limits())]) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


@pytest.mark.parametrize("bad", ["", "0" * 32, "zz" * 16, "f" * 33])
def test_what_has_no_valid_ids_is_refused(bad: str) -> None:
    """It would be a span of no trace; the route sets it aside."""
    with pytest.raises(ValueError):
        readable_span(span_delivery(of=replace(span(), trace_id=bad)), limits())


def test_a_span_without_times_is_refused_and_a_number_too_large_is_told_as_text() -> None:
    """Whatever is returned can be encoded."""
    with pytest.raises(ValueError, match="has no times"):
        readable_span(span_delivery(of=replace(span(), start_ns=0)), limits())
    _, told = encoded(span_delivery(of=replace(span(), attributes={"n": 2**70})))
    assert attributes_of(told.attributes) == {"n": str(2**70)}


def test_limits_are_applied_as_a_provider_would() -> None:
    """The oldest go first, and what was dropped is counted."""
    many = replace(
        span(),
        attributes={"a": "xxxx", "b": 1, "c": 2},
        events=tuple(SpanEvent(f"e{n}", START + n, {"a": "yyyy", "b": 1}) for n in range(4)),
        links=tuple(SpanLink(OTHER_TRACE, f"{n:016x}", {"a": 1, "b": 2}) for n in range(1, 4)),
    )
    _, told = encoded(
        span_delivery(of=many),
        limits(
            SPAN_ATTRIBUTE_COUNT_LIMIT="2",
            ATTRIBUTE_VALUE_LENGTH_LIMIT="3",
            SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT="2",
            SPAN_EVENT_COUNT_LIMIT="2",
            SPAN_LINK_COUNT_LIMIT="1",
            EVENT_ATTRIBUTE_COUNT_LIMIT="1",
            LINK_ATTRIBUTE_COUNT_LIMIT="1",
        ),
    )
    assert (attributes_of(told.attributes), told.dropped_attributes_count) == ({"b": 1, "c": 2}, 1)
    assert ([event.name for event in told.events], told.dropped_events_count) == (["e2", "e3"], 2)
    assert attributes_of(told.events[0].attributes) == {"b": 1}
    assert (len(told.links), told.dropped_links_count) == (1, 2)
    assert attributes_of(told.links[0].attributes) == {"b": 2}
    _, cut = encoded(span_delivery(of=many), limits(ATTRIBUTE_VALUE_LENGTH_LIMIT="3"))
    assert attributes_of(cut.attributes)["a"] == "xxx"


def test_limits_of_an_empty_environment_are_opentelemetrys_own() -> None:
    """Set explicitly, since SpanLimits would read the process's environment and raise."""
    names = [name for name in vars(SpanLimits()) if name.startswith("max_")]
    with mock.patch.dict(os.environ, {"OTEL_SPAN_EVENT_COUNT_LIMIT": "nonsense"}):
        ours = limits()
    theirs = SpanLimits()
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}


@pytest.mark.parametrize("value", ["-1", "many"])
def test_a_limit_that_is_no_count_is_named_and_the_default_used(value: str) -> None:
    """The SDK raises."""
    said: list[str] = []
    assert span_limits({"OTEL_SPAN_EVENT_COUNT_LIMIT": value}, said.append).max_events == 128
    assert said == [f"OTEL_SPAN_EVENT_COUNT_LIMIT={value!r} is not allowed; allowed: a whole number from 0; using 128"]


def test_projecting_leaves_the_current_span_alone() -> None:
    """The route's thread has none, and gets none."""
    readable_span(span_delivery(), limits())
    assert not trace.get_current_span().get_span_context().is_valid
