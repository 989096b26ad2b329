"""A finished span as the spool keeps it: ids and times are explicit, nothing is taken from where it is read.

What always holds: a span is frozen; ``to_json`` and ``from_json`` are inverse to each other, and the JSON is ASCII;
times are integer nanoseconds since the epoch and ``end_ns`` is never before ``start_ns``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchelastic_otel.model.event import AttributeValue


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
        return json.dumps(
            {
                "span": [
                    self.name,
                    self.trace_id,
                    self.span_id,
                    self.parent_id,
                    self.start_ns,
                    self.end_ns,
                    self.error,
                ],
                "attributes": self.attributes,
                "events": [[event.name, event.time_ns, event.attributes] for event in self.events],
                "links": [[link.trace_id, link.span_id, link.attributes] for link in self.links],
            },
            separators=(",", ":"),
        )

    @staticmethod
    def from_json(line: str) -> ElasticSpan:
        """The span that :meth:`to_json` wrote.

        Raises:
            ValueError: The line is not such a span.
        """
        try:
            known = json.loads(line)
            name, trace_id, span_id, parent_id, start_ns, end_ns, error = known["span"]
            return ElasticSpan(
                name,
                trace_id,
                span_id,
                parent_id,
                start_ns,
                end_ns,
                _attributes(known["attributes"]),
                tuple(SpanEvent(n, t, _attributes(a)) for n, t, a in known["events"]),
                tuple(SpanLink(t, s, _attributes(a)) for t, s, a in known["links"]),
                error,
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a span of this spool: {line[:80]!r}") from error


def _attributes(written: Mapping[str, object]) -> dict[str, AttributeValue]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in written.items()}  # type: ignore[misc]
