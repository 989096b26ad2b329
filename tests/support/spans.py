"""Spans for tests, with literal values."""

from __future__ import annotations

from torchelastic_otel.export.sources import StoredSpan
from torchelastic_otel.model.span import ElasticSpan, SpanEvent, SpanLink

START = 1_700_000_000_000_000_000
S = 1_000_000_000
TRACE, OTHER_TRACE = "0af7651916cd43dd8448eb211c80319c", "ff" * 16


def span(name: str = "torchelastic.round", *, trace_id: str = TRACE, error: str | None = None) -> ElasticSpan:
    """One span, with an event and a link."""
    return ElasticSpan(
        name,
        trace_id,
        "b7ad6b7169203331",
        "00f067aa0ba902b7",
        START,
        START + 2 * S,
        {"torchelastic.run.id": "r", "torchelastic.rendezvous.round": 3},
        (SpanEvent("torchelastic.rendezvous.joined", START + S, {"torchelastic.node.id": "n"}),),
        (SpanLink(OTHER_TRACE, "ee" * 8, {"torchelastic.link": "training"}),),
        error,
    )


def span_delivery(sequence: int = 1, *, of: ElasticSpan | None = None) -> StoredSpan:
    """One span on its way."""
    from tests.support.stored_events import ORIGIN

    return StoredSpan(sequence, of or span(), ORIGIN)
