"""The projection of events into OpenTelemetry log records.

Guarantees: it is pure, it depends on nothing of its thread (no ambient span, no clock, no environment), and the result
can be encoded as OTLP.
"""

from __future__ import annotations

from typing import Final

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord

from torchelastic_otel import semconv
from torchelastic_otel.export.config import Sampler, sample_all
from torchelastic_otel.export.otel.projection import SCOPE, encodable, fixed64
from torchelastic_otel.export.otel.resource import resource_of
from torchelastic_otel.model.event import ElasticEvent, StoredEvent

# LogRecord treats an empty Context like none (1.45: ``if not context``) and falls back to the ambient span, so the
# context contains an invalid span.
_NO_SPAN: Final = trace.set_span_in_context(trace.INVALID_SPAN, Context())


def log_record(delivery: StoredEvent, limits: LogRecordLimits, sampler: Sampler = sample_all) -> ReadableLogRecord:
    """The log record of one event, as the exporters take it.

    ``limits`` are applied as a logger provider would: values are cut, then the oldest attributes dropped.
    ``log.record.uid`` is never cut: cut, it would be the same for all records of its origin. The record is marked
    as sampled if its trace is.
    """
    event = delivery.event
    attributes = BoundedAttributes(
        maxlen=limits.max_log_record_attributes,
        attributes=encodable(event.attributes),
        immutable=False,
        max_value_len=limits.max_log_record_attribute_length,
    )
    attributes.max_value_len = None
    attributes[semconv.LOG_RECORD_UID] = delivery.uid
    record = LogRecord(
        timestamp=fixed64(event.time_ns),
        observed_timestamp=fixed64(event.observed_ns) or 0,
        context=_span_of(event, sampler),
        severity_number=SeverityNumber(int(event.severity)),
        severity_text=event.severity.name,
        body=event.body,
        attributes=attributes,
        event_name=event.name,
    )
    return ReadableLogRecord(record, resource_of(delivery.origin), SCOPE, limits)


def _span_of(event: ElasticEvent, sampler: Sampler) -> Context:
    """A context in which the event's span is the current one."""
    if event.trace_id is None or event.span_id is None:
        return _NO_SPAN
    try:
        trace_id, span_id = int(event.trace_id, 16), int(event.span_id, 16)
        sampled = sampler(event.trace_id)
    except ValueError:
        return _NO_SPAN  # an invalid id is no reason to lose the record
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if sampled else trace.TraceFlags.DEFAULT)
    span = trace.NonRecordingSpan(trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags))
    return trace.set_span_in_context(span, Context())
