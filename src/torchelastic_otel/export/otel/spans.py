"""The projection of finished spans into the SDK's own.

Guarantees: it is pure: ids, times, links and status are the span's own, the resource is its origin's; the result can be
encoded as OTLP, or it raises ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from torchelastic_otel.export.otel.projection import SCOPE, encodable, fixed64
from torchelastic_otel.export.otel.resource import resource_of
from torchelastic_otel.export.sources import StoredSpan

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def readable_span(delivery: StoredSpan, limits: SpanLimits) -> ReadableSpan:
    """The span as the exporters take it, under the limits that a provider would apply.

    Raises:
        ValueError: An id or a time is not valid.
    """
    span = delivery.span
    start, end = fixed64(span.start_ns), fixed64(span.end_ns)
    if start is None or end is None:
        raise ValueError(f"span {span.name!r} has no times: {span.start_ns}, {span.end_ns}")
    length = limits.max_attribute_length
    events = [
        Event(each.name, _bounded(each.attributes, limits.max_event_attributes, length), fixed64(each.time_ns) or start)
        for each in span.events
    ]
    links = [
        Link(_context(each.trace_id, each.span_id), _bounded(each.attributes, limits.max_link_attributes, length))
        for each in span.links
    ]
    return ReadableSpan(
        span.name,
        context=_context(span.trace_id, span.span_id),
        parent=None if span.parent_id is None else _context(span.trace_id, span.parent_id),
        resource=resource_of(delivery.origin),
        attributes=_bounded(span.attributes, limits.max_span_attributes, limits.max_span_attribute_length),
        events=BoundedList.from_seq(limits.max_events, events),
        links=BoundedList.from_seq(limits.max_links, links),
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
        start_time=start,
        end_time=end,
        instrumentation_scope=SCOPE,
    )


def _bounded(attributes: Mapping[str, Any], count: int | None, length: int | None) -> BoundedAttributes:
    return BoundedAttributes(count, encodable(attributes), immutable=False, max_value_len=length)


def _context(trace_id: str, span_id: str) -> SpanContext:
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)
    if not context.is_valid:
        raise ValueError(f"not the ids of a span: {trace_id!r}, {span_id!r}")
    return context
