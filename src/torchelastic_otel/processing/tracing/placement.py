"""The trace and the span in which an event happened, and the events that a span shows.

Guarantees: the events that are remembered for a span are bounded, in number and in length; an event whose round or
trace is not known is unchanged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent, int_attribute
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.span import SpanEvent
from torchelastic_otel.model.text import bounded
from torchelastic_otel.model.trace_ids import BRING_UP, ROOT, RUNNING
from torchelastic_otel.processing.tracing.state import BRING_UP_SPANS, TraceState

MAX_SPAN_EVENTS: Final = 64
MAX_SPAN_EVENT_VALUE: Final = 512
_BRING_UP_PHASES: Final = frozenset({Phase.RENDEZVOUS, Phase.ASSIGN_RANKS, Phase.START})
_BRING_UP_EVENTS: Final = frozenset({semconv.ROUND_STARTED, semconv.RESTART_CAUSE_AGREED, semconv.RESTART_COMPLETED})
_WORKER_ENDS: Final = frozenset({semconv.WORKER_FAILED, semconv.WORKER_EXITED})
"""They may be reported when the next round has begun."""
_SPAN_EVENT_ATTRIBUTES: Final = frozenset(
    {
        semconv.NODE_ID,
        semconv.RENDEZVOUS_ROUND,
        semconv.GROUP_RANK,
        semconv.GROUP_WORLD_SIZE,
        semconv.WORKER_RANK,
        semconv.WORKER_LOCAL_RANK,
        semconv.WORKER_PID,
        semconv.WORKER_SIGNAL,
        semconv.PROCESS_EXIT_CODE,
        semconv.ERROR_TYPE,
        semconv.EXCEPTION_TYPE,
        semconv.EXCEPTION_MESSAGE,
        semconv.FAILURE_ROLE,
        semconv.FAILURE_KIND,
        semconv.FAILURE_EVIDENCE,
        semconv.CODE_FUNCTION_NAME,
        semconv.CODE_FILE_PATH,
        semconv.CODE_LINE_NUMBER,
        semconv.PEER_NODE_ID,
        semconv.PEER_GROUP_RANK,
        semconv.RENDEZVOUS_MISSING,
        semconv.RENDEZVOUS_MISSING_NODES,
    }
)


def with_span_event(state: TraceState, event: ElasticEvent, time_ns: int) -> TraceState:
    """Remember the event for its span, if that span shows events."""
    if event.name in semconv.HEARTBEATS or event.name == semconv.AGENT_PHASE_ENTERED:
        return state
    if is_of_past_round(state, event):
        return state  # the span of its round is finished
    shown = state.phase in (Phase.RENDEZVOUS, Phase.RUNNING, Phase.DETECT)
    shown = shown or (event.name == semconv.WORKER_FAILED and state.running_end_ns is not None)
    if not shown or len(state.events) >= MAX_SPAN_EVENTS or event.name in _BRING_UP_EVENTS:
        return state
    kept = {
        key: bounded(value, MAX_SPAN_EVENT_VALUE) if isinstance(value, str) else value
        for key, value in event.attributes.items()
        if key in _SPAN_EVENT_ATTRIBUTES
    }
    return replace(state, events=(*state.events, SpanEvent(event.name, time_ns, kept)))


def with_span_context(state: TraceState, event: ElasticEvent) -> ElasticEvent:
    """The event with the trace and the span in which it happened, if they are known."""
    which, name = RUNNING, semconv.SPAN_WORKERS
    round_ = state.last_round
    agent = state.agent_id or ""
    if event.name in _BRING_UP_EVENTS:
        which, name, agent = BRING_UP, ROOT, ""
        round_ = round_of(event)
    elif event.name in _WORKER_ENDS and semconv.INFERRED in event.attributes and round_of(event) is not None:
        round_ = round_of(event)
    elif state.phase in _BRING_UP_PHASES:
        which, name, round_ = BRING_UP, BRING_UP_SPANS[state.phase], state.expected_round
    ids = None if round_ is None else state.ids(round_)
    if round_ is None or ids is None:
        return event
    return replace(event, trace_id=ids.trace(which), span_id=ids.span(which, name, agent))


def is_of_past_round(state: TraceState, event: ElasticEvent) -> bool:
    """Whether a worker's end is reported when the workers of the next round run."""
    round_, last = round_of(event), state.last_round
    return event.name in _WORKER_ENDS and round_ is not None and last is not None and round_ < last


def round_of(event: ElasticEvent) -> int | None:
    """The round in an event; ``None`` if it has none."""
    return int_attribute(event, semconv.RENDEZVOUS_ROUND)
