"""OTLP JSON lines to events: the output of the ``file`` destination and of a Collector's ``file`` exporter.

Guarantees: only the standard library is used. Log records of other sources are skipped. Changes by a Collector (added
resource attributes, another order, several requests) change no event. An event is identified by its
``log.record.uid``; if a processor removed that, by its content and its observed time. A number that no receiver would
accept (beyond 64 bits, not finite) is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, ElasticEvent, Origin, Severity, StoredEvent

SIGNALS: Final = ("resourceLogs", "resourceSpans", "resourceMetrics", "resourceProfiles")
_PREFIX: Final = "torchelastic."
_OLD_EVENT_NAME: Final = "event.name"
"""The attribute with the event name before the log data model had a field for it."""
_NO_SEQUENCE: Final = 0
"""The sequence of an event without uid; a process counts from 1."""
_FIRST_ASSIGNED: Final = 10**18
"""Higher than every sequence in a uid, see :func:`_event`."""


def is_request(line: object) -> bool:
    """Whether a line's JSON is an OTLP request, of any signal."""
    return isinstance(line, dict) and any(isinstance(line.get(name), list) for name in SIGNALS)


def events_in(request: Mapping[str, Any]) -> Iterator[StoredEvent]:
    """The events of this package in one request; :func:`with_sequences` completes those without a sequence."""
    for resource_logs in _lists(request, "resourceLogs"):
        found = resource_logs.get("resource")
        resource = _attributes(found.get("attributes") if isinstance(found, dict) else None)
        for scope_logs in _lists(resource_logs, "scopeLogs"):
            for record in _lists(scope_logs, "logRecords"):
                event = _event(record, resource)
                if event is not None:
                    yield event


def with_sequences(events: Iterable[StoredEvent]) -> list[StoredEvent]:
    """All events, each with a sequence that is unique in its process.

    Those without one are numbered in the order of their observed times, over all files. Two of them with the same
    content and time in one process are one event.
    """
    result: list[StoredEvent] = []
    unnumbered: dict[tuple[str, str], StoredEvent] = {}
    for event in events:
        if event.sequence == _NO_SEQUENCE:
            unnumbered.setdefault((event.origin.id, event.event.to_json()), event)
        else:
            result.append(event)
    # a stable sort: events of the same time stay in the order of the file
    in_order = sorted(unnumbered.values(), key=lambda each: each.event.observed_ns or each.event.time_ns or 0)
    return result + [replace(event, sequence=_FIRST_ASSIGNED + i) for i, event in enumerate(in_order)]


def _event(record: Mapping[str, Any], resource: Mapping[str, AttributeValue]) -> StoredEvent | None:
    attributes = _attributes(record.get("attributes"))
    name = record.get("eventName") or attributes.get(_OLD_EVENT_NAME)
    if not isinstance(name, str) or not name.startswith(_PREFIX):
        return None
    host, pid = str(resource.get(semconv.HOST_NAME, "unknown")), _whole(resource.get(semconv.PROCESS_PID)) or 0
    uid = str(attributes.pop(semconv.LOG_RECORD_UID, ""))
    origin_id, _, sequence = uid.rpartition("-")
    if not (origin_id and sequence.isascii() and sequence.isdigit() and len(sequence) < 19):
        origin_id, sequence = str(resource.get(semconv.SERVICE_INSTANCE_ID, f"{host}-{pid}")), str(_NO_SEQUENCE)
    event = ElasticEvent(
        name=name,
        destination="",
        body="" if (body := _value(record.get("body"))) is None else str(body),
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
    """A number of 64 bits: a string in protobuf's JSON, from some senders a number."""
    if isinstance(value, str) and len(value) < 21:
        try:
            value = int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) and -_BEYOND <= value < _BEYOND else None


_BEYOND: Final = 1 << 63


def _finite(value: object) -> float | None:
    """A finite number; protobuf's JSON writes the others as strings, Python's as bare words."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _id(value: object) -> str | None:
    """A trace or span id; a Collector writes an empty one for none."""
    return value.lower() if isinstance(value, str) and value.strip("0") else None


def _severity(number: int | None) -> Severity:
    return max((severity for severity in Severity if severity <= (number or 0)), default=Severity.INFO)
