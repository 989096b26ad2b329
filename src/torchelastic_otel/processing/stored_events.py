"""Events as they are in a spool, also if their process has not processed them yet.

Guarantees: nothing is written; an unprocessed record is processed as its owner would process it.
"""

from __future__ import annotations

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.processing.processor import ORIGIN_KEY, SPANS, load_state, process
from torchelastic_otel.spool.reader import SpoolContents


def read_origin(contents: SpoolContents) -> Origin | None:
    """The process that a spool belongs to; ``None`` if the spool does not name it."""
    try:
        return Origin.from_json(contents.meta[ORIGIN_KEY])
    except (KeyError, ValueError):
        return None


def read_events(contents: SpoolContents) -> list[tuple[int, ElasticEvent]]:
    """All events of a spool with their sequences, in order; rows that no version can read are skipped.

    Events that are derived from unprocessed records get the sequences that their owner would give them.

    Args:
        contents: The contents of the spool.
    """
    events = []
    for row in contents.rows:
        if not row.unprocessed and row.destination != SPANS:
            try:
                events.append((row.sequence, ElasticEvent.from_json(row.payload)))
            except ValueError:
                continue
    records = [row for row in contents.rows if row.unprocessed]
    if records:
        origin = read_origin(contents)
        state = load_state(contents.meta.get, 0 if origin is None else origin.started_ns)
        _, result = process(state, [(row.destination, row.payload) for row in records])
        events += zip((row.sequence for row in records), result.events, strict=True)
        events += enumerate(result.derived, contents.rows[-1].sequence + 1)
    return sorted(events, key=lambda event: event[0])


def run_id_of(contents: SpoolContents) -> str:
    """The run id of the newest row; empty if it has none."""
    try:
        return str(ElasticEvent.from_json(contents.rows[-1].payload).attributes.get(semconv.RUN_ID, ""))
    except (IndexError, ValueError):
        return ""
