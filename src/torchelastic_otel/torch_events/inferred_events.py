"""The records of the bridge's own hooks to events.

Guarantees: such an event is marked as inferred, since torch did not record it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, ElasticEvent, Severity
from torchelastic_otel.model.inferred_event import MARK
from torchelastic_otel.model.text import MAX_BODY, MAX_STACKTRACE, MAX_VALUE, bounded
from torchelastic_otel.torch_events import catalogue, error_files

_STACKTRACES: Final = frozenset({semconv.EXCEPTION_STACKTRACE, semconv.CODE_STACKTRACE, semconv.WORKER_STDERR})


def is_inferred(recorded: object) -> bool:
    """Whether a recorded JSON value is an inferred event."""
    return isinstance(recorded, dict) and isinstance(recorded.get(MARK), str)


def parse_inferred(
    recorded: Mapping[str, Any], destination: str, *, time_ns: int | None, observed_ns: int, monotonic_ns: int | None
) -> ElasticEvent:
    """The event of such a record.

    Args:
        recorded: What :meth:`~torchelastic_otel.model.inferred_event.InferredEvent.to_text` wrote, parsed.
        destination: The destination it was recorded to.
        time_ns: When it was recorded, wall clock nanoseconds.
        observed_ns: When it was seen, wall clock nanoseconds.
        monotonic_ns: When it was recorded, ``time.monotonic_ns()``.
    """
    name = bounded(str(recorded[MARK]), 256)
    at = recorded.get("at")
    if isinstance(at, list) and len(at) == 2 and all(isinstance(ns, int) for ns in at):
        time_ns, monotonic_ns = at
    attributes: dict[str, AttributeValue] = {}
    written = recorded.get("attributes")
    for key, value in written.items() if isinstance(written, dict) else ():
        if isinstance(value, str):
            limit = MAX_STACKTRACE if key in _STACKTRACES else MAX_VALUE
            attributes[bounded(key, 256)] = bounded(value, limit)
        elif isinstance(value, list):
            attributes[bounded(key, 256)] = tuple(bounded(str(part), 512) for part in value)
        elif isinstance(value, (bool, int, float)):
            attributes[bounded(key, 256)] = value
    attributes[semconv.INFERRED] = True  # whatever was written: torch did not record it
    if isinstance(recorded.get("error_file"), str):
        attributes.update(error_files.from_error_file(recorded["error_file"]))
    if name == semconv.WORKER_FAILED:
        attributes.setdefault(semconv.ERROR_TYPE, attributes.get(semconv.WORKER_SIGNAL, "exit"))
    body = bounded(catalogue.message_of(name, attributes), MAX_BODY)
    known = catalogue.INFERRED.get(name)
    severity = Severity.DEBUG if known is None else known.severity
    return ElasticEvent(name, destination, body, time_ns, observed_ns, monotonic_ns, severity, attributes)
