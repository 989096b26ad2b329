"""Received telemetry as data: log records, spans and metrics, converted from OTLP messages.

In all of them ``resource`` has the attributes of the resource, ``protocol`` is ``grpc``, ``http/protobuf`` or
``http/json``, times are nanoseconds since the epoch, and ids are hex digits, empty for none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torchelastic_otel import semconv


@dataclass(frozen=True, slots=True)
class ReceivedRecord:
    """One log record.

    Attributes:
        uid: ``log.record.uid``; empty if the sender gave none.
        event_name: Its event name.
        time_ns: When it happened, else when it was observed; 0 if it has neither.
        severity: Severity number of the log data model, 0 to 24.
        body: Its body; a text for this package's records.
        attributes: Its attributes.
        trace_id: The trace that it belongs to.
        span_id: The span in which it happened.
    """

    uid: str
    event_name: str
    time_ns: int
    severity: int
    body: Any
    attributes: dict[str, Any]
    resource: dict[str, Any]
    protocol: str
    trace_id: str = ""
    span_id: str = ""


@dataclass(frozen=True, slots=True)
class ReceivedSpanEvent:
    """One event of a span."""

    name: str
    time_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span.

    Attributes:
        parent_id: Empty for a root span.
        kind: The number of its kind; 1 is INTERNAL.
        error: The message of its status if that is ERROR, also an empty one; else ``None``.
        links: Trace and span id of each link.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start_ns: int
    end_ns: int
    error: str | None
    attributes: dict[str, Any]
    events: tuple[ReceivedSpanEvent, ...]
    links: tuple[tuple[str, str], ...]
    resource: dict[str, Any]
    protocol: str


@dataclass(frozen=True, slots=True)
class ReceivedPoint:
    """One data point.

    Attributes:
        value: The number; of a histogram its sum.
        start_ns: 0 for a gauge.
        count: Measurements in a histogram; else 0.
        buckets: Counts of a histogram's buckets.
        exemplars: Trace and span id of each exemplar.
    """

    attributes: dict[str, Any]
    value: int | float
    start_ns: int
    time_ns: int
    count: int = 0
    buckets: tuple[int, ...] = ()
    exemplars: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ReceivedMetric:
    """One metric of one export.

    Attributes:
        kind: ``gauge``, ``sum`` or ``histogram``.
        delta: Whether its temporality is delta.
    """

    name: str
    unit: str
    kind: str
    delta: bool
    points: tuple[ReceivedPoint, ...]
    resource: dict[str, Any]
    protocol: str


def record_from(record: Any, resource: dict[str, Any], protocol: str) -> ReceivedRecord:
    """An OTLP log record."""
    attributes = attributes_of(record.attributes)
    return ReceivedRecord(
        uid=str(attributes.get(semconv.LOG_RECORD_UID, "")),
        event_name=record.event_name,
        time_ns=record.time_unix_nano or record.observed_time_unix_nano,
        severity=int(record.severity_number),
        body=value_of(record.body),
        attributes=attributes,
        resource=resource,
        protocol=protocol,
        trace_id=record.trace_id.hex(),
        span_id=record.span_id.hex(),
    )


def span_from(span: Any, resource: dict[str, Any], protocol: str) -> ReceivedSpan:
    """An OTLP span."""
    return ReceivedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=int(span.kind),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        error=span.status.message if span.status.code == span.status.STATUS_CODE_ERROR else None,
        attributes=attributes_of(span.attributes),
        events=tuple(
            ReceivedSpanEvent(event.name, event.time_unix_nano, attributes_of(event.attributes))
            for event in span.events
        ),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        resource=resource,
        protocol=protocol,
    )


def metric_from(metric: Any, resource: dict[str, Any], protocol: str) -> ReceivedMetric:
    """An OTLP metric."""
    kind = metric.WhichOneof("data") or ""
    data = getattr(metric, kind) if kind else None
    return ReceivedMetric(
        name=metric.name,
        unit=metric.unit,
        kind=kind,
        delta=getattr(data, "aggregation_temporality", 0) == 1,
        points=tuple(_point(point, kind) for point in (data.data_points if data is not None else ())),
        resource=resource,
        protocol=protocol,
    )


def _point(point: Any, kind: str) -> ReceivedPoint:
    is_histogram = kind == "histogram"
    return ReceivedPoint(
        attributes=attributes_of(point.attributes),
        value=point.sum if is_histogram else getattr(point, point.WhichOneof("value") or "as_int"),
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        count=point.count if is_histogram else 0,
        buckets=tuple(point.bucket_counts) if is_histogram else (),
        exemplars=tuple((each.trace_id.hex(), each.span_id.hex()) for each in point.exemplars),
    )


def attributes_of(pairs: Iterable[Any]) -> dict[str, Any]:
    """The dictionary of OTLP ``KeyValue`` pairs."""
    return {pair.key: value_of(pair.value) for pair in pairs}


def value_of(value: Any) -> Any:
    """The value of an OTLP ``AnyValue``."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    return getattr(value, kind)
