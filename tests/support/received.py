"""An OTLP receiver whose spans and metrics are data as well, converted from OTLP messages.

Times are nanoseconds since the epoch, ids are hex digits, empty for none; ``resource`` has the attributes of the
resource, ``protocol`` is ``grpc``, ``http/protobuf`` or ``http/json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchelastic_otel.testing.otlp_receiver import SIGNALS, OtlpReceiver, items_of
from torchelastic_otel.testing.received import attributes_of


@dataclass(frozen=True, slots=True)
class ReceivedSpanEvent:
    """One event of a span."""

    name: str
    time_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span.

    Attributes:
        parent_id: Empty for a root span.
        kind: The number of its kind; 1 is INTERNAL.
        error: The message of its status if that is ERROR, also an empty one; else ``None``.
        links: Trace and span id of each link.
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
    events: tuple[ReceivedSpanEvent, ...]
    links: tuple[tuple[str, str], ...]
    resource: dict[str, Any]
    protocol: str


@dataclass(frozen=True, slots=True)
class ReceivedPoint:
    """One data point.

    Attributes:
        value: The number; of a histogram its sum.
        start_ns: 0 for a gauge.
        count: Measurements in a histogram; else 0.
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
    """One metric of one export.

    Attributes:
        kind: ``gauge``, ``sum`` or ``histogram``.
        delta: Whether its temporality is delta.
    """

    name: str
    unit: str
    kind: str
    delta: bool
    points: tuple[ReceivedPoint, ...]
    resource: dict[str, Any]
    protocol: str


class Receiver(OtlpReceiver):
    """The receiver, with what arrived of each signal in the order of arrival."""

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Every span so far."""
        return [span_from(*item) for item in self._items("traces")]

    @property
    def metrics(self) -> list[ReceivedMetric]:
        """Every metric so far, once for each export."""
        return [metric_from(*item) for item in self._items("metrics")]

    def _items(self, signal: str) -> list[tuple[Any, dict[str, Any], str]]:
        return [
            (item, resource, request.protocol)
            for request in self.requests
            if isinstance(request.message, SIGNALS[signal].request)
            for resource, item in items_of(request.message)
        ]


def span_from(span: Any, resource: dict[str, Any], protocol: str) -> ReceivedSpan:
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
            ReceivedSpanEvent(event.name, event.time_unix_nano, attributes_of(event.attributes))
            for event in span.events
        ),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        resource=resource,
        protocol=protocol,
    )


def metric_from(metric: Any, resource: dict[str, Any], protocol: str) -> ReceivedMetric:
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
