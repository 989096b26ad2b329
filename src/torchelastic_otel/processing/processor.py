"""Unprocessed records to events, spans and metrics, after the commit that a caller in torch waits for.

Guarantees: an unprocessed record contains all that was observed (the text and two clock readings), so that every
process that reads it, also from an orphaned spool, derives the same event; the state is stored with the last processed
record, and derived rows are appended, all in the same transaction; a record that cannot be processed becomes an unknown
event and affects no other: if it stayed unprocessed, it would block every row behind it.
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
    """What was observed, as ASCII; nothing of it is parsed."""
    written = "-" + text if text.isascii() and "\0" not in text else "=" + json.dumps(text)
    return f"{wall_ns} {monotonic_ns} {written}"


def parse_record(destination: str, payload: str) -> ElasticEvent:
    """The event of an unprocessed record.

    Raises:
        Exception: Of any kind: it cannot be read.
    """
    wall, monotonic, written = payload.split(" ", 2)
    text = written[1:] if written.startswith("-") else json.loads(written[1:])
    return parse(text, destination, time_ns=int(wall), observed_ns=int(wall), monotonic_ns=int(monotonic))


@dataclass(frozen=True, slots=True)
class ProcessorState:
    """The state of a process after its events so far.

    Attributes:
        context: What is added to the next event.
        trace: The open spans.
        metrics: The counters.
    """

    context: AgentContext
    trace: TraceState
    metrics: MetricState

    @staticmethod
    def initial(started_ns: int) -> ProcessorState:
        """The state of a process without events; it began at ``started_ns``, wall clock nanoseconds."""
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
    """The result of processing records.

    Attributes:
        events: The event of each record.
        derived: Events that follow from them.
        spans: Spans that ended with them.
    """

    events: list[ElasticEvent]
    derived: list[ElasticEvent]
    spans: list[ElasticSpan]


def process(
    state: ProcessorState, rows: Iterable[tuple[str, str]], redact: Callable[[ElasticEvent], ElasticEvent] | None = None
) -> tuple[ProcessorState, ProcessResult]:
    """Process records: the state after them, and their events, enriched, with what is derived.

    Args:
        state: The state before them.
        rows: Destination and payload of each.
        redact: Applied to an event before anything is derived from it, so that what it removes is in no span.
    """
    done = ProcessResult([], [], [])
    for destination, payload in rows:
        derived: Derived | None = None
        with guard:
            state, derived = _process_record(state, destination, payload, redact)
        if derived is None:
            # it is unknown what to redact: the hook takes only parsed events
            body = bounded(payload, MAX_BODY) if redact is None else WITHHELD
            derived = Derived(ElasticEvent(semconv.UNKNOWN_EVENT, destination, body, None, 0))
        done.events.append(derived.event)
        done.derived.extend(derived.events)
        done.spans.extend(derived.spans)
    return state, done


def _process_record(
    state: ProcessorState, destination: str, payload: str, redact: Callable[[ElasticEvent], ElasticEvent] | None
) -> tuple[ProcessorState, Derived]:
    context, event = enrich(state.context, parse_record(destination, payload))
    trace, derived = reduce(state.trace, event if redact is None else redact(event))
    if redact is not None:
        derived = replace(derived, events=tuple(map(redact, derived.events)))
    metrics = state.metrics
    for each in (derived.event, *derived.events):
        metrics = update(metrics, each)
    return ProcessorState(context, trace, metrics), derived


def load_state(
    meta: Callable[[str], str | None], started_ns: int, warn: Callable[[ValueError], object] = lambda error: None
) -> ProcessorState:
    """The state after the records that a spool's process has processed.

    Args:
        meta: The spool's texts by key.
        started_ns: When the process began, wall clock nanoseconds.
        warn: Receives the error of each text that cannot be decoded; the initial state is used for it.
    """
    initial = ProcessorState.initial(started_ns)

    def load(key: str, decode: Callable[[str], _T], default: _T) -> _T:
        text = meta(key)
        if text is None:
            return default
        try:
            return decode(text)
        except ValueError as error:
            warn(error)  # another version may have written it: every version can read the events themselves
            return default

    return ProcessorState(
        load(CONTEXT_KEY, AgentContext.from_json, initial.context),
        load(TRACE_KEY, TraceState.from_json, initial.trace),
        load(METRICS_KEY, MetricState.from_json, initial.metrics),
    )


def process_remaining(spool: Spool) -> int:
    """Process what an orphaned spool has not processed, and end its open spans.

    Returns:
        How many unprocessed records there were.
    """
    rows = spool.unprocessed()
    origin = spool.meta(ORIGIN_KEY)

    def warn(error: ValueError) -> None:
        logger.warning("spool %s: %s; its events are delivered without the state before them", spool.path, error)

    known = load_state(spool.meta, Origin.from_json(origin).started_ns if origin is not None else 0, warn)
    known, done = process(known, [(row.destination, row.payload) for row in rows])
    trace, spans = known.trace, tuple[ElasticSpan, ...]()
    with guard:  # its rows must be delivered all the same
        trace, spans = finish_orphaned(known.trace)
    if rows or trace is not known.trace:
        payloads = [(row.sequence, event.to_json()) for row, event in zip(rows, done.events, strict=True)]
        more = [(event.destination, event.to_json()) for event in done.derived]
        more += [(SPANS, span.to_json()) for span in (*done.spans, *spans)]
        spool.commit_processed(payloads, replace(known, trace=trace).to_meta(), more)
    return len(rows)
