"""From what was received in haste to events: reading comes after the commit that a caller of torch's waits for.

What always holds: a raw row says all that capture knew (the text and two clock readings), so that whoever
finds it, also in a dead process's spool, makes the same event of it; the agent's standing is kept with the last
row that was settled, in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.normalise import normalise
from torchelastic_otel.model.standing import Standing, enrich
from torchelastic_otel.model.text import MAX_BODY, bounded
from torchelastic_otel.spool.store import Spool

STANDING_KEY: Final = "standing"
ORIGIN_KEY: Final = "origin"
"""Where a spool keeps whose rows they are (:class:`~torchelastic_otel.model.event.Origin`)."""


def raw_payload(text: str, wall_ns: int, monotonic_ns: int) -> str:
    """What was seen, as ASCII; nothing of it is looked at."""
    written = "-" + text if text.isascii() and "\0" not in text else "=" + json.dumps(text)
    return f"{wall_ns} {monotonic_ns} {written}"


def event_of(destination: str, payload: str) -> ElasticEvent:
    """The event that a raw row tells of; one that cannot be read is told as it is, and costs no other."""
    try:
        wall, monotonic, written = payload.split(" ", 2)
        text = written[1:] if written.startswith("-") else json.loads(written[1:])
        return normalise(text, destination, time_ns=int(wall), observed_ns=int(wall), monotonic_ns=int(monotonic))
    except (ValueError, IndexError, TypeError) as error:
        guard.kept_in(error)
        return ElasticEvent(semconv.UNKNOWN_EVENT, destination, bounded(payload, MAX_BODY), None, 0)


def read(standing: Standing, rows: Iterable[tuple[str, str]]) -> tuple[Standing, list[ElasticEvent]]:
    """The events of raw rows (destination and payload), enriched, and what the agent knows after them."""
    events = []
    for destination, payload in rows:
        standing, event = enrich(standing, event_of(destination, payload))
        events.append(event)
    return standing, events


def settle_what_is_left(spool: Spool) -> int:
    """Settle the raw rows of a spool whose process is gone.

    Returns:
        How many there were.
    """
    rows = spool.raw()
    if rows:
        kept = spool.meta(STANDING_KEY)
        standing = Standing.from_json(kept) if kept is not None else Standing(restart_count=0)
        standing, events = read(standing, [(destination, row.payload) for destination, row in rows])
        payloads = [(row.sequence, event.to_json()) for (_, row), event in zip(rows, events, strict=True)]
        spool.settle(payloads, (STANDING_KEY, standing.to_json()))
    return len(rows)
