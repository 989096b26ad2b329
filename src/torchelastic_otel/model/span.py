"""A finished span as it is stored: ids and times are explicit, nothing is taken from the process that reads it.

Guarantees: a span is frozen; ``to_json`` and ``from_json`` are inverse to each other, and the JSON is ASCII; times are
integer nanoseconds since the epoch and ``end_ns`` is never before ``start_ns``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchelastic_otel.model.event import AttributeValue
from torchelastic_otel.model.serialization import decoder_of, encode_array


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened during a span.

    Attributes:
        name: An event name of :mod:`torchelastic_otel.semconv`.
        time_ns: When, nanoseconds since the epoch.
        attributes: By the names of :mod:`torchelastic_otel.semconv`.
    """

    name: str
    time_ns: int
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpanLink:
    """A span of another trace that this one belongs with.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        attributes: What the link means.
    """

    trace_id: str
    span_id: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ElasticSpan:
    """One finished span.

    Attributes:
        name: A span name of :mod:`torchelastic_otel.semconv`.
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent_id: 16 hex digits; ``None`` for the root.
        start_ns: Wall clock, nanoseconds since the epoch.
        end_ns: Wall clock, nanoseconds since the epoch.
        attributes: By the names of :mod:`torchelastic_otel.semconv`.
        events: What happened during it, in order.
        links: Spans of other traces that it belongs with.
        error: Why its status is ERROR; ``None`` for UNSET.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()
    error: str | None = None

    def to_json(self) -> str:
        """The span as one line of ASCII JSON."""
        *times_and_ids, attributes, events, links, error = encode_array(self)
        return json.dumps(
            {
                "span": [*times_and_ids, error],
                "attributes": attributes,
                "events": [encode_array(event) for event in events],
                "links": [encode_array(link) for link in links],
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, line: str) -> ElasticSpan:
        """The span that :meth:`to_json` wrote.

        Raises:
            ValueError: The line is no such span.
        """
        try:
            written = json.loads(line)
            *times_and_ids, error = written["span"]
            nested = written["attributes"], written["events"], written["links"]
            span: ElasticSpan = decoder_of(cls, "array")([*times_and_ids, *nested, error])
        except (TypeError, KeyError, AttributeError) as fault:
            raise ValueError(f"no ElasticSpan of this version: {line[:80]!r}") from fault
        return span
