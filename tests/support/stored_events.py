"""Deliveries for tests: events with literal values, from a process that never was."""

from __future__ import annotations

from collections.abc import Mapping

from torchelastic_otel.model.event import AttributeValue, ElasticEvent, Origin, Severity, StoredEvent

ORIGIN = Origin(id="0123456789abcdef0123456789abcdef", host_name="node-a", pid=41, started_ns=1)


def delivery(
    sequence: int = 1,
    *,
    body: str = "The node 'a' has joined round 0.",
    attributes: Mapping[str, AttributeValue] | None = None,
    time_ns: int | None = 1_700_000_000_000_000_001,
    origin: Origin = ORIGIN,
) -> StoredEvent:
    """One delivery; its uid is the origin's id and the sequence."""
    event = ElasticEvent(
        name="torchelastic.rendezvous.joined",
        destination="dynamic_rendezvous",
        body=body,
        time_ns=time_ns,
        observed_ns=1_700_000_000_000_000_002,
        severity=Severity.WARN,
        attributes={"torchelastic.run.id": "r"} if attributes is None else attributes,
    )
    return StoredEvent(sequence, event, origin)


def deliveries(count: int) -> list[StoredEvent]:
    """Deliveries 1 to ``count``."""
    return [delivery(number) for number in range(1, count + 1)]
