"""Received log records as data, converted from OTLP messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torchelastic_otel import semconv


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One OTLP export request.

    Attributes:
        protocol: ``grpc``, ``http/protobuf`` or ``http/json``.
        message: The request as its protobuf message.
    """

    protocol: str
    message: Any


@dataclass(frozen=True, slots=True)
class ReceivedRecord:
    """One log record.

    Attributes:
        uid: ``log.record.uid``; empty if the sender gave none.
        event_name: Its event name.
        time_ns: When it happened, else when it was observed, nanoseconds since the epoch; 0 if it has neither.
        severity: Severity number of the log data model, 0 to 24.
        body: Its body; a text for this package's records.
        resource: The attributes of its resource.
        protocol: As in :class:`ReceivedRequest`.
        trace_id: The trace that it belongs to, 32 hex digits; empty for none.
        span_id: The span in which it happened, 16 hex digits; empty for none.
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
