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
from pathlib import Path
from typing import Final, TypeVar

from torchelastic_otel import semconv
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.model.text import MAX_BODY, bounded
from torchelastic_otel.processing.enrichment import AgentContext, enrich
from torchelastic_otel.processing.metrics import MetricState, update
from torchelastic_otel.processing.tracing import Derived, TraceState, finish_orphaned, reduce
from torchelastic_otel.spool.store import Spool
from torchelastic_otel.torch_events.parser import parse

logger = logging.getLogger("torchelastic_otel")
_T = TypeVar("_T")

CONTEXT_KEY: Final = "standing"
TRACE_KEY: Final = "narrative"
METRICS_KEY: Final = "tally"
WITHHELD: Final = "[withheld: it could not be read, and so not be redacted]"
"""The body of an event that cannot be read, where a redaction hook is to hide what is in it."""
SPANS: Final = "spans"
"""The destination under which a spool keeps finished spans."""
ORIGIN_KEY: Final = "origin"
"""Where a spool keeps whose rows they are (:class:`~torchelastic_otel.model.event.Origin`)."""


def encode_record(text: str, wall_ns: int, monotonic_ns: int) -> str:
    """What was seen, as ASCII; nothing of it is looked at."""
    written = "-" + text if text.isascii() and "\0" not in text else "=" + json.dumps(text)
    return f"{wall_ns} {monotonic_ns} {written}"


def parse_record(destination: str, payload: str) -> ElasticEvent:
    """The event that a raw row tells of.

    Raises:
        Exception: Of any kind: it cannot be read.
    """
    wall, monotonic, written = payload.split(" ", 2)
    text = written[1:] if written.startswith("-") else json.loads(written[1:])
    return parse(text, destination, time_ns=int(wall), observed_ns=int(wall), monotonic_ns=int(monotonic))


@dataclass(frozen=True, slots=True)
class ProcessorState:
    """What is known of a process's agents after its events so far.

    Attributes:
        standing: What goes onto the next event.
        narrative: How far the story is told.
        tally: The numbers.
    """

    context: AgentContext
    trace: TraceState
    metrics: MetricState

    @staticmethod
    def initial(started_ns: int) -> ProcessorState:
        """What is known of a process that has said nothing yet; it began at ``started_ns``, wall clock nanoseconds."""
        return ProcessorState(AgentContext(restart_count=0), TraceState(), MetricState(started_ns))

    def to_meta(self) -> dict[str, str]:
        """As texts of a spool."""
        return {
            CONTEXT_KEY: self.context.to_json(),
            TRACE_KEY: self.trace.to_json(),
            METRICS_KEY: self.metrics.to_json(),
        }


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """What rows told.

    Attributes:
        events: The event of each row.
        more: Events that follow from them.
        spans: Spans that ended with them.
    """

    events: list[ElasticEvent]
    derived: list[ElasticEvent]
    spans: list[ElasticSpan]


def process(
    state: ProcessorState, rows: Iterable[tuple[str, str]], redact: Callable[[ElasticEvent], ElasticEvent] | None = None
) -> tuple[ProcessorState, ProcessResult]:
    """The events of raw rows (destination and payload), enriched, what follows from them, and what is known then.

    Args:
        state: The state before them.
        rows: Destination and payload of each.
        redact: What an event goes through before anything is concluded from it; so what it takes away is in no span.
    """
    done = ProcessResult([], [], [])
    for destination, payload in rows:
        told: Derived | None = None
        with guard:
            state, told = _process_record(state, destination, payload, redact)
        if told is None:
            # nothing is known of what to hide in it: the hook may look only at what the row would have been read to
            body = bounded(payload, MAX_BODY) if redact is None else WITHHELD
            told = Derived(ElasticEvent(semconv.UNKNOWN_EVENT, destination, body, None, 0))
        done.events.append(told.event)
        done.derived.extend(told.events)
        done.spans.extend(told.spans)
    return state, done


def _process_record(
    state: ProcessorState, destination: str, payload: str, redact: Callable[[ElasticEvent], ElasticEvent] | None
) -> tuple[ProcessorState, Derived]:
    standing, event = enrich(state.context, parse_record(destination, payload))
    narrative, told = reduce(state.trace, event if redact is None else redact(event))
    if redact is not None:
        told = replace(told, events=tuple(map(redact, told.events)))
    tally = state.metrics
    for each in (told.event, *told.events):
        tally = update(tally, each)
    return ProcessorState(standing, narrative, tally), told


def load_state(meta: Callable[[str], str | None], started_ns: int, path: Path | None) -> ProcessorState:
    """The state after the records that a spool's process has processed.

    Args:
        meta: The spool's texts by key.
        started_ns: When the process began, wall clock nanoseconds.
        path: The spool's file, for warnings.
    """
    initial = ProcessorState.initial(started_ns)

    def load(key: str, decode: Callable[[str], _T], default: _T) -> _T:
        text = meta(key)
        if text is None:
            return default
        try:
            return decode(text)
        except ValueError as error:
            # another version may have written it: the events, which every version can read, are delivered all the same
            logger.warning("spool %s: %s; its events are delivered without the state before them", path, error)
            return default

    return ProcessorState(
        load(CONTEXT_KEY, AgentContext.from_json, initial.context),
        load(TRACE_KEY, TraceState.from_json, initial.trace),
        load(METRICS_KEY, MetricState.from_json, initial.metrics),
    )


def process_remaining(spool: Spool) -> int:
    """Settle the raw rows of a spool whose process is gone, and end what it left open.

    Returns:
        How many raw rows there were.
    """
    rows = spool.unprocessed()
    origin = spool.meta(ORIGIN_KEY)
    known = load_state(spool.meta, Origin.from_json(origin).started_ns if origin is not None else 0, spool.path)
    known, done = process(known, [(row.destination, row.payload) for row in rows])
    narrative, spans = known.trace, tuple[ElasticSpan, ...]()
    with guard:  # its rows must go out all the same
        narrative, spans = finish_orphaned(known.trace)
    if rows or narrative is not known.trace:
        payloads = [(row.sequence, event.to_json()) for row, event in zip(rows, done.events, strict=True)]
        more = [(event.destination, event.to_json()) for event in done.derived]
        more += [(SPANS, span.to_json()) for span in (*done.spans, *spans)]
        spool.commit_processed(payloads, replace(known, trace=narrative).to_meta(), more)
    return len(rows)
