"""The event that the bridge records, stores and exports.

Guarantees:

- An event is frozen; its attribute values are JSON scalars or lists of them, valid UTF-8 and bounded.
- ``to_json`` and ``from_json`` are inverse to each other, and the JSON is ASCII.
- Times are integer nanoseconds; ``None`` means unknown, never "now".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from torchelastic_otel.model.serialization import Layout, Serializable

Scalar: TypeAlias = str | bool | int | float
AttributeValue: TypeAlias = Scalar | tuple[str, ...]


class Severity(enum.IntEnum):
    """Severity numbers of the OpenTelemetry log data model (specification, "Severity Fields")."""

    DEBUG = 5
    INFO = 9
    WARN = 13
    ERROR = 17
    FATAL = 21


@dataclass(frozen=True, slots=True)
class ElasticEvent(Serializable):
    """One event of torch elastic, parsed and enriched.

    Attributes:
        name: The event's name from :mod:`torchelastic_otel.semconv`; never built from data.
        destination: The destination it was recorded to (``null``, ``dynamic_rendezvous``, ...).
        body: The message a person reads; for an unknown event, the recorded text, unchanged.
        time_ns: Wall clock, nanoseconds since the epoch, when it happened; ``None`` if the source
            has no time (torch's ``Event.timestamp`` is always 0, torch 1.13 to 2.15).
        observed_ns: Wall clock, nanoseconds since the epoch, when capture or replay saw it.
        monotonic_ns: ``time.monotonic_ns()`` of the capturing process; ``None`` in a replay.
        severity: How bad it is.
        attributes: Attributes by the names of :mod:`torchelastic_otel.semconv`.
        trace_id: Its trace, 32 hex digits; ``None`` for none.
        span_id: The span in which it happened, 16 hex digits; ``None`` for none.
    """

    LAYOUT: ClassVar[Layout] = "array"

    name: str
    destination: str
    body: str
    time_ns: int | None
    observed_ns: int
    monotonic_ns: int | None = None
    severity: Severity = Severity.INFO
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    trace_id: str | None = None
    span_id: str | None = None


def int_attribute(event: ElasticEvent, name: str) -> int | None:
    """An attribute that is a whole number; ``None`` if the event has none."""
    value = event.attributes.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class Origin(Serializable):
    """The process that events come from, also if another process exports them.

    Attributes:
        id: Unique for each capturing process (32 hex digits); the stem of every ``log.record.uid``
            and the value of ``service.instance.id``.
        host_name: The ``host.name`` in ``OTEL_RESOURCE_ATTRIBUTES``, else the machine's ``socket.gethostname()``.
        pid: Process id of the agent.
        started_ns: Wall clock, nanoseconds since the epoch, when capture started.
        environment: The environment variables that name the job (``OTEL_SERVICE_NAME``,
            ``OTEL_RESOURCE_ATTRIBUTES``, Kubernetes and Slurm), as they were then.
        detected: Resource attributes that OpenTelemetry's detectors found in that process.
    """

    id: str
    host_name: str
    pid: int
    started_ns: int
    environment: Mapping[str, str] = field(default_factory=dict)
    detected: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as it is stored: with its sequence and the process it comes from.

    Attributes:
        sequence: Its number in the spool of its origin, from 1, without gaps as written.
        event: The event.
        origin: The process it comes from.
    """

    sequence: int
    event: ElasticEvent
    origin: Origin

    @property
    def uid(self) -> str:
        """``log.record.uid``: the same at every attempt, so that a backend can drop what it has."""
        return f"{self.origin.id}-{self.sequence}"
