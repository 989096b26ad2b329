"""OTLP JSON lines to events again: what the ``file`` destination and a Collector's ``file`` exporter write.

What always holds: only the standard library is used; a log record that is not ours is passed over; what a Collector
changed on the way (added resource attributes, another order, several requests) changes no event. An event is the one
that its ``log.record.uid`` names; where a processor took that away, what it says and when it was seen stand in for it.
A number that no receiver would take (beyond 64 bits, not finite) is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, ElasticEvent, Origin, Severity, StoredEvent

SIGNALS: Final = ("resourceLogs", "resourceSpans", "resourceMetrics", "resourceProfiles")
_OURS: Final = "torchelastic."
_OLD_EVENT_NAME: Final = "event.name"
"""Where event names stood before the log data model had a field for them."""
_NO_NUMBER: Final = 0
"""The sequence of an event whose uid is gone; a process counts from 1."""
_AFTER_ALL: Final = 10**18
"""Behind every number that a uid can name, see :func:`_delivery`."""


def is_request(line: object) -> bool:
    """Whether a line's JSON is an OTLP request, of any signal."""
    return isinstance(line, dict) and any(isinstance(line.get(name), list) for name in SIGNALS)


def deliveries_of(request: Mapping[str, Any]) -> Iterator[StoredEvent]:
    """Our events in one request; :func:`numbered` gives those a number that have none."""
    for resource_logs in _lists(request, "resourceLogs"):
        resource = _attributes(_mapping(resource_logs, "resource").get("attributes"))
        for scope_logs in _lists(resource_logs, "scopeLogs"):
            for record in _lists(scope_logs, "logRecords"):
                delivery = _delivery(record, resource)
                if delivery is not None:
                    yield delivery


def numbered(deliveries: Iterable[StoredEvent]) -> list[StoredEvent]:
    """All events, each with a number of its own in its process.

    Those without one are counted in the order in which they were seen, whatever file they are in; one that says the
    same at the same time as another of its process is the same one.
    """
    told: list[StoredEvent] = []
    unnumbered: dict[tuple[str, str], StoredEvent] = {}
    for delivery in deliveries:
        if delivery.sequence == _NO_NUMBER:
            unnumbered.setdefault((delivery.origin.id, delivery.event.to_json()), delivery)
        else:
            told.append(delivery)
    # a stable sort: what was seen at one moment stays in the order of the file
    in_order = sorted(unnumbered.values(), key=lambda each: each.event.observed_ns or each.event.time_ns or 0)
    return told + [replace(delivery, sequence=_AFTER_ALL + i) for i, delivery in enumerate(in_order)]


def _delivery(record: Mapping[str, Any], resource: Mapping[str, AttributeValue]) -> StoredEvent | None:
    attributes = _attributes(record.get("attributes"))
    name = record.get("eventName") or attributes.get(_OLD_EVENT_NAME)
    if not isinstance(name, str) or not name.startswith(_OURS):
        return None
    host, pid = str(resource.get(semconv.HOST_NAME, "unknown")), _whole(resource.get(semconv.PROCESS_PID)) or 0
    uid = str(attributes.pop(semconv.LOG_RECORD_UID, ""))
    origin_id, _, sequence = uid.rpartition("-")
    if not (origin_id and sequence.isascii() and sequence.isdigit() and len(sequence) < 19):
        origin_id, sequence = str(resource.get(semconv.SERVICE_INSTANCE_ID, f"{host}-{pid}")), str(_NO_NUMBER)
    event = ElasticEvent(
        name=name,
        destination="",
        body=_body(record.get("body")),
        time_ns=max(0, _whole(record.get("timeUnixNano")) or 0) or None,
        observed_ns=max(0, _whole(record.get("observedTimeUnixNano")) or 0),
        severity=_severity(_whole(record.get("severityNumber"))),
        attributes=attributes,
        trace_id=_id(record.get("traceId")),
        span_id=_id(record.get("spanId")),
    )
    return StoredEvent(int(sequence), event, Origin(origin_id, host, pid, 0))


def _lists(of: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    found = of.get(name)
    for each in found if isinstance(found, list) else ():
        if isinstance(each, dict):
            yield each


def _mapping(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of.get(name)
    return found if isinstance(found, dict) else {}


def _attributes(pairs: object) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    for pair in pairs if isinstance(pairs, list) else ():
        if isinstance(pair, dict) and isinstance(pair.get("key"), str):
            value = _value(pair.get("value"))
            if value is not None:
                attributes[pair["key"]] = value
    return attributes


def _value(value: object) -> AttributeValue | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("stringValue"), str):
        return str(value["stringValue"])
    if isinstance(value.get("boolValue"), bool):
        return bool(value["boolValue"])
    if "doubleValue" in value:
        return _finite(value["doubleValue"])
    if "intValue" in value:
        return _whole(value["intValue"])
    if isinstance(value.get("arrayValue"), dict):
        parts = value["arrayValue"].get("values")
        return tuple(str(_value(part)) for part in parts) if isinstance(parts, list) else ()
    return None


def _whole(value: object) -> int | None:
    """A number of 64 bits: a string in protobuf's JSON, a number where a sender is lax."""
    if isinstance(value, str) and len(value) < 21:
        try:
            value = int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) and -_BEYOND <= value < _BEYOND else None


_BEYOND: Final = 1 << 63


def _finite(value: object) -> float | None:
    """A number that JSON can say again; protobuf's JSON writes the others as strings, Python's as bare words."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _body(value: object) -> str:
    told = _value(value)
    return "" if told is None else str(told)


def _id(value: object) -> str | None:
    """A trace or span id; the Collector writes none as an empty one."""
    return value.lower() if isinstance(value, str) and value.strip("0") else None


def _severity(number: int | None) -> Severity:
    return max((severity for severity in Severity if severity <= (number or 0)), default=Severity.INFO)
