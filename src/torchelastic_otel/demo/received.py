"""What arrived at the embedded receiver, as data: log records, spans and metrics, out of OTLP's messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from torchelastic_otel import semconv


@dataclass(frozen=True, slots=True)
class Received:
    """One log record as it arrived.

    Attributes:
        uid: ``log.record.uid``; empty where the sender gave none.
        event_name: The record's event name.
        time_ns: When it happened, else when it was observed; nanoseconds since the epoch, 0 where neither is said.
        severity: Severity number of the log data model, 0 to 24.
        body: The body; a string for our own records.
        attributes: The record's attributes.
        resource: The attributes of its resource.
        protocol: ``grpc``, ``http/protobuf`` or ``http/json``.
        trace_id: The trace it belongs to, 32 hex digits; empty for none.
        span_id: The span it happened in, 16 hex digits; empty for none.
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
class ReceivedEvent:
    """One event of a span: its name, time (nanoseconds since the epoch) and attributes."""

    name: str
    time_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it arrived.

    Attributes:
        name: Its name.
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent_id: 16 hex digits; empty for a root.
        kind: The number of its kind; 1 is INTERNAL.
        start_ns: Nanoseconds since the epoch.
        end_ns: Nanoseconds since the epoch.
        error: What its status says where that is ERROR, be it nothing; else ``None``.
        attributes: Its attributes.
        events: Its events.
        links: Trace and span id of each link.
        resource: The attributes of its resource.
        protocol: As in :class:`Received`.
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
    events: tuple[ReceivedEvent, ...]
    links: tuple[tuple[str, str], ...]
    resource: dict[str, Any]
    protocol: str


@dataclass(frozen=True, slots=True)
class ReceivedPoint:
    """One data point.

    Attributes:
        attributes: What tells its series.
        value: The number; for a histogram its sum.
        start_ns: Nanoseconds since the epoch; 0 for a gauge.
        time_ns: Nanoseconds since the epoch.
        count: Measurements in a histogram; 0 else.
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
    """One metric of one snapshot as it arrived.

    Attributes:
        name: Its name.
        unit: Its unit.
        kind: ``gauge``, ``sum`` or ``histogram``.
        delta: Whether its points are differences.
        points: Its points.
        resource: The attributes of its resource.
        protocol: As in :class:`Received`.
    """

    name: str
    unit: str
    kind: str
    delta: bool
    points: tuple[ReceivedPoint, ...]
    resource: dict[str, Any]
    protocol: str


def record_of(record: Any, resource: dict[str, Any], protocol: str) -> Received:
    """An OTLP log record."""
    attributes = attributes_of(record.attributes)
    return Received(
        uid=str(attributes.get(semconv.LOG_RECORD_UID, "")),
        event_name=record.event_name,
        time_ns=record.time_unix_nano or record.observed_time_unix_nano,
        severity=int(record.severity_number),
        body=_value(record.body),
        attributes=attributes,
        resource=resource,
        protocol=protocol,
        trace_id=record.trace_id.hex(),
        span_id=record.span_id.hex(),
    )


def span_of(span: Any, resource: dict[str, Any], protocol: str) -> ReceivedSpan:
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
            ReceivedEvent(event.name, event.time_unix_nano, attributes_of(event.attributes)) for event in span.events
        ),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        resource=resource,
        protocol=protocol,
    )


def metric_of(metric: Any, resource: dict[str, Any], protocol: str) -> ReceivedMetric:
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


def attributes_of(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    """The dictionary of OTLP's pairs."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    return getattr(value, kind)
