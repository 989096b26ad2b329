"""OTLP JSON lines to events again: what the ``file`` destination and a Collector's ``file`` exporter write.

What always holds: only the standard library is used; a log record that is not ours is passed over; what a Collector
changed on the way (added resource attributes, another order, several requests) changes no event. An event is the one
that its ``log.record.uid`` names; where a processor took that away, its place in the file stands in for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, Delivery, ElasticEvent, Origin, Severity

SIGNALS: Final = ("resourceLogs", "resourceSpans", "resourceMetrics", "resourceProfiles")
_OURS: Final = "torchelastic."
_OLD_EVENT_NAME: Final = "event.name"
"""Where event names stood before the log data model had a field for them."""


def is_request(line: object) -> bool:
    """Whether a line's JSON is an OTLP request, of any signal."""
    return isinstance(line, dict) and any(isinstance(line.get(name), list) for name in SIGNALS)


def deliveries_of(request: Mapping[str, Any], number: int) -> Iterator[Delivery]:
    """Our events in one request.

    Args:
        request: The line's JSON.
        number: The line's number, for records that name no place of their own.
    """
    place = 0
    for resource_logs in _lists(request, "resourceLogs"):
        resource = _attributes(_mapping(resource_logs, "resource").get("attributes"))
        for scope_logs in _lists(resource_logs, "scopeLogs"):
            for record in _lists(scope_logs, "logRecords"):
                place += 1
                delivery = _delivery(record, resource, number * 1_000_000 + place)
                if delivery is not None:
                    yield delivery


def _delivery(record: Mapping[str, Any], resource: Mapping[str, AttributeValue], place: int) -> Delivery | None:
    attributes = _attributes(record.get("attributes"))
    name = record.get("eventName") or attributes.get(_OLD_EVENT_NAME)
    if not isinstance(name, str) or not name.startswith(_OURS):
        return None
    host, pid = str(resource.get(semconv.HOST_NAME, "unknown")), _whole(resource.get(semconv.PROCESS_PID)) or 0
    uid = str(attributes.pop(semconv.LOG_RECORD_UID, ""))
    origin_id, _, sequence = uid.rpartition("-")
    if not (origin_id and sequence.isascii() and sequence.isdigit() and len(sequence) < 19):
        origin_id, sequence = str(resource.get(semconv.SERVICE_INSTANCE_ID, f"{host}-{pid}")), str(place)
    event = ElasticEvent(
        name=name,
        destination="",
        body=_body(record.get("body")),
        time_ns=_whole(record.get("timeUnixNano")) or None,
        observed_ns=_whole(record.get("observedTimeUnixNano")) or 0,
        severity=_severity(_whole(record.get("severityNumber"))),
        attributes=attributes,
        trace_id=_id(record.get("traceId")),
        span_id=_id(record.get("spanId")),
    )
    return Delivery(int(sequence), event, Origin(origin_id, host, pid, 0))


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
    for kind in ("stringValue", "boolValue", "doubleValue"):
        if isinstance(value.get(kind), (str, bool, int, float)):
            told: str | bool | int | float = value[kind]
            return told
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
            return int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _body(value: object) -> str:
    told = _value(value)
    return "" if told is None else str(told)


def _id(value: object) -> str | None:
    """A trace or span id; the Collector writes none as an empty one."""
    return value.lower() if isinstance(value, str) and value.strip("0") else None


def _severity(number: int | None) -> Severity:
    return max((severity for severity in Severity if severity <= (number or 0)), default=Severity.INFO)
