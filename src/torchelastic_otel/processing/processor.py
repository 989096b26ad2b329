"""From what was received in haste to events: reading comes after the commit that a caller of torch's waits for.

What always holds: a raw row says all that capture knew (the text and two clock readings), so that whoever
finds it, also in a dead process's spool, makes the same event of it; what is known of the agent is kept with the last
row that was settled, and what follows from the rows is appended, all in the same transaction; a row that anything goes
wrong with is told as it is, and costs no other: one that stayed raw would hold up every row behind it for good.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from torchelastic_otel import semconv
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.model.text import MAX_BODY, bounded
from torchelastic_otel.processing.enrichment import Standing, enrich
from torchelastic_otel.processing.metrics import Tally, fold
from torchelastic_otel.processing.tracing import Narrative, Told, end_of_the_dead, narrate
from torchelastic_otel.spool.store import Spool
from torchelastic_otel.torch_events.parser import normalise

logger = logging.getLogger("torchelastic_otel")
_T = TypeVar("_T")

STANDING_KEY: Final = "standing"
NARRATIVE_KEY: Final = "narrative"
TALLY_KEY: Final = "tally"
WITHHELD: Final = "[withheld: it could not be read, and so not be redacted]"
"""The body of an event that cannot be read, where a redaction hook is to hide what is in it."""
SPANS: Final = "spans"
"""The destination under which a spool keeps finished spans."""
ORIGIN_KEY: Final = "origin"
"""Where a spool keeps whose rows they are (:class:`~torchelastic_otel.model.event.Origin`)."""


def raw_payload(text: str, wall_ns: int, monotonic_ns: int) -> str:
    """What was seen, as ASCII; nothing of it is looked at."""
    written = "-" + text if text.isascii() and "\0" not in text else "=" + json.dumps(text)
    return f"{wall_ns} {monotonic_ns} {written}"


def event_of(destination: str, payload: str) -> ElasticEvent:
    """The event that a raw row tells of.

    Raises:
        Exception: Of any kind: it cannot be read.
    """
    wall, monotonic, written = payload.split(" ", 2)
    text = written[1:] if written.startswith("-") else json.loads(written[1:])
    return normalise(text, destination, time_ns=int(wall), observed_ns=int(wall), monotonic_ns=int(monotonic))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a process's agents after its events so far.

    Attributes:
        standing: What goes onto the next event.
        narrative: How far the story is told.
        tally: The numbers.
    """

    standing: Standing
    narrative: Narrative
    tally: Tally

    @staticmethod
    def at_start(started_ns: int) -> Known:
        """What is known of a process that has said nothing yet; it began at ``started_ns``, wall clock nanoseconds."""
        return Known(Standing(restart_count=0), Narrative(), Tally(started_ns))

    def to_meta(self) -> dict[str, str]:
        """As texts of a spool."""
        return {
            STANDING_KEY: self.standing.to_json(),
            NARRATIVE_KEY: self.narrative.to_json(),
            TALLY_KEY: self.tally.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Read:
    """What rows told.

    Attributes:
        events: The event of each row.
        more: Events that follow from them.
        spans: Spans that ended with them.
    """

    events: list[ElasticEvent]
    more: list[ElasticEvent]
    spans: list[ElasticSpan]


def read(
    known: Known, rows: Iterable[tuple[str, str]], redact: Callable[[ElasticEvent], ElasticEvent] | None = None
) -> tuple[Known, Read]:
    """The events of raw rows (destination and payload), enriched, what follows from them, and what is known then.

    Args:
        known: What is known before.
        rows: Destination and payload of each.
        redact: What an event goes through before anything is concluded from it; so what it takes away is in no span.
    """
    done = Read([], [], [])
    for destination, payload in rows:
        told: Told | None = None
        with guard:
            known, told = _read_row(known, destination, payload, redact)
        if told is None:
            # nothing is known of what to hide in it: the hook may look only at what the row would have been read to
            body = bounded(payload, MAX_BODY) if redact is None else WITHHELD
            told = Told(ElasticEvent(semconv.UNKNOWN_EVENT, destination, body, None, 0))
        done.events.append(told.event)
        done.more.extend(told.events)
        done.spans.extend(told.spans)
    return known, done


def _read_row(
    known: Known, destination: str, payload: str, redact: Callable[[ElasticEvent], ElasticEvent] | None
) -> tuple[Known, Told]:
    standing, event = enrich(known.standing, event_of(destination, payload))
    narrative, told = narrate(known.narrative, event if redact is None else redact(event))
    if redact is not None:
        told = replace(told, events=tuple(map(redact, told.events)))
    tally = known.tally
    for each in (told.event, *told.events):
        tally = fold(tally, each)
    return Known(standing, narrative, tally), told


def known_of(spool: Spool, started_ns: int) -> Known:
    """What was known of a process when it last settled its rows."""
    begin = Known.at_start(started_ns)
    return Known(
        _last(spool, STANDING_KEY, Standing.from_json, begin.standing),
        _last(spool, NARRATIVE_KEY, Narrative.from_json, begin.narrative),
        _last(spool, TALLY_KEY, Tally.from_json, begin.tally),
    )


def _last(spool: Spool, key: str, read_in: Callable[[str], _T], begin: _T) -> _T:
    written = spool.meta(key)
    if written is None:
        return begin
    try:
        return read_in(written)
    except ValueError as error:
        # a much older or newer version wrote it: the events, which every version can read, must go out all the same
        logger.warning("spool %s: %s; its events are delivered without what was known before them", spool.path, error)
        return begin


def settle_what_is_left(spool: Spool) -> int:
    """Settle the raw rows of a spool whose process is gone, and end what it left open.

    Returns:
        How many raw rows there were.
    """
    rows = spool.raw()
    origin = spool.meta(ORIGIN_KEY)
    known = known_of(spool, Origin.from_json(origin).started_ns if origin is not None else 0)
    known, done = read(known, [(destination, row.payload) for destination, row in rows])
    narrative, spans = known.narrative, tuple[ElasticSpan, ...]()
    with guard:  # its rows must go out all the same
        narrative, spans = end_of_the_dead(known.narrative)
    if rows or narrative is not known.narrative:
        payloads = [(row.sequence, event.to_json()) for (_, row), event in zip(rows, done.events, strict=True)]
        more = [(event.destination, event.to_json()) for event in done.more]
        more += [(SPANS, span.to_json()) for span in (*done.spans, *spans)]
        spool.settle(payloads, replace(known, narrative=narrative).to_meta(), more)
    return len(rows)
