"""The trace of one agent, reduced from its events: what is derived from each, as more events and as finished spans.

Guarantees:

- ``reduce`` is pure: a state and an event give a state, the event with its trace, derived events, and spans.
- A span is emitted once, when it has ended; a round has two traces, its bring-up and its running, and each is complete.
- A span never ends before it begins, whatever the wall clock does.
- The job reporter emits the roots; without agreement, each agent has traces of its own.
- The state is stored with the rows of the spool, so that an adopter can end the spans of a killed agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.cause import UNKNOWN
from torchelastic_otel.model.event import AttributeValue, ElasticEvent, Severity, int_attribute
from torchelastic_otel.model.phases import RESTART_PHASES, Phase
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.processing.tracing.placement import (
    is_of_past_round,
    round_of,
    with_span_context,
    with_span_event,
)
from torchelastic_otel.processing.tracing.spans import (
    agreed_root,
    bring_up_spans,
    common_attributes,
    local_root,
    running_spans,
    unfinished_spans,
)
from torchelastic_otel.processing.tracing.state import BRING_UP_SPANS, OpenPhase, TraceState
from torchelastic_otel.torch_events.catalogue import message_of

MAX_PHASES: Final = 64
UNKNOWN_CAUSE: Final[Mapping[str, AttributeValue]] = {semconv.RESTART_REASON: UNKNOWN, semconv.RESTART_AGREED: False}
"""The attributes if no cause was reported."""
_AFTER_RUNNING: Final = frozenset({Phase.RENDEZVOUS, Phase.EXIT_BARRIER, Phase.ENDED})
"""Workers have run, and their failures are reported, which may be after they began to be stopped; the rendezvous
follows at once if an agent stops them in a way of its own."""
_ROUND_EVENTS: Final = frozenset(
    {
        semconv.RENDEZVOUS_PARTICIPANT_ADDED,
        semconv.RENDEZVOUS_WAIT_LIST_ADDED,
        semconv.RENDEZVOUS_REDUNDANCY_LIST_ADDED,
    }
)


@dataclass(frozen=True, slots=True)
class Derived:
    """What is derived from one event.

    Attributes:
        event: The event, with the trace and span that it belongs to.
        events: Derived events.
        spans: Spans that ended with it.
    """

    event: ElasticEvent
    events: tuple[ElasticEvent, ...] = ()
    spans: tuple[ElasticSpan, ...] = ()


def reduce(state: TraceState, event: ElasticEvent) -> tuple[TraceState, Derived]:
    """The state after one event, enriched, and what is derived from it."""
    time_ns = event.time_ns or event.observed_ns
    events: list[ElasticEvent] = []
    spans: list[ElasticSpan] = []
    of = event.attributes
    if event.name == semconv.AGENT_STARTED:
        state = _agent_started(event)
    elif state.agent_id is None:
        return state, Derived(event)
    elif event.name == semconv.RUN_IDENTIFIED:
        state = replace(
            state,
            nonce=str(of.get(semconv.RUN_NONCE)),
            agreed=of.get(semconv.INFERRED_FROM) == "store",
            hosts_store=of.get(semconv.HOSTS_STORE) is True,
        )
        if state.phase is Phase.RUNNING:
            state, spans = _bring_up_ended(state)
    elif event.name == semconv.AGENT_PHASE_ENTERED:
        if state.restarted_ns is not None and of.get(semconv.PHASE) != Phase.RUNNING.value:
            # it runs no longer, and no cause was reported: emitted with what is known
            state, completed = restart_completed(replace(state, cause=UNKNOWN_CAUSE), event)
            events.append(completed)
        state, spans = _phase_entered(state, event, time_ns)
    elif event.name == semconv.RESTART_STARTED:
        state = replace(state, restarting=True, restart_count=int_attribute(event, semconv.RESTART_COUNT))
    elif event.name == semconv.RESTART_CAUSE_AGREED:
        writer = round_of(event) if of.get(semconv.WRITER) is True else state.reporter_round
        cause = {key: value for key, value in of.items() if _is_cause_attribute(key)}
        # an answer that comes when the next rendezvous has begun is about the round before
        late = state.phase is Phase.RENDEZVOUS
        state = replace(state, cause=state.cause if late else cause, reporter_round=writer)
    elif event.name == semconv.ROUND_STARTED:
        round_ = round_of(event)
        if round_ is not None:
            state = replace(state, reporter_round=max(round_, state.reporter_round or 0))
        spans += agreed_root(state, event, round_)
    elif event.name == semconv.WORKER_FAILED and semconv.INFERRED in of and not state.failure:
        if not is_of_past_round(state, event):
            state = replace(state, failure=event.body[:256])
    elif event.name == semconv.AGENT_LOST and of.get(semconv.WRITER) is True:
        state = replace(state, reporter_round=round_of(event))
    if event.name in _ROUND_EVENTS and state.phase is Phase.RENDEZVOUS:
        state = replace(state, expected_round=round_of(event))
    if state.restarted_ns is not None and state.cause is not None:
        state, completed = restart_completed(state, event)
        events.append(completed)
    state = with_span_event(replace(state, last_ns=max(state.last_ns, time_ns)), event, time_ns)
    return state, Derived(
        with_span_context(state, event), tuple(with_span_context(state, each) for each in events), tuple(spans)
    )


def finish_orphaned(state: TraceState) -> tuple[TraceState, tuple[ElasticSpan, ...]]:
    """The open spans of an agent whose process disappeared without reporting an end, as errors.

    They end with its last event. The roots are emitted if no other agent can: it was alone, or hosted the store.
    """
    if not state.is_open:
        return state, ()
    alone = state.is_last_reporter
    error = "the agent's process disappeared without reporting an end"
    end_ns = max(state.last_ns, state.phase_ns)
    spans = [*unfinished_spans(state, end_ns, error, root=alone)]
    root = alone and state.reporter_round == state.last_round
    if state.running_end_ns is None:
        spans = [*spans, *running_spans(state, end_ns, error, root=root)]
    else:
        spans = [*running_spans(state, state.running_end_ns, state.failure or error, root=root), *spans]
    return replace(state, phase=Phase.ENDED, phases=(), running_ns=None, running_end_ns=None), tuple(spans)


# --- phases


def _agent_started(event: ElasticEvent) -> TraceState:
    of = event.attributes
    agent_id, run_id, backend = (of.get(key) for key in (semconv.AGENT_ID, semconv.RUN_ID, semconv.RENDEZVOUS_BACKEND))
    return TraceState(
        agent_id=str(agent_id),
        run_id=str(run_id),
        backend=None if backend is None else str(backend),
    )


def _phase_entered(state: TraceState, event: ElasticEvent, time_ns: int) -> tuple[TraceState, list[ElasticSpan]]:
    try:
        phase = Phase(str(event.attributes.get(semconv.PHASE)))
    except ValueError:
        return state, []  # of a newer version
    before = state.phase
    spans: list[ElasticSpan] = []
    durations = dict(state.durations or {})
    if before is not None and state.phase_monotonic_ns is not None and event.monotonic_ns is not None:
        durations[before.value] = durations.get(before.value, 0) + max(0, event.monotonic_ns - state.phase_monotonic_ns)
    phases = tuple(each if each.end_ns is not None else replace(each, end_ns=time_ns) for each in state.phases)
    state = replace(
        state,
        phases=phases,
        durations=durations,
        phase=phase,
        phase_ns=time_ns,
        phase_monotonic_ns=event.monotonic_ns,
    )
    if before is Phase.RUNNING:
        # a bring-up that waited for the run to be identified goes without a trace
        state = replace(state, phases=(), began_ns=None)
    if phase in (Phase.DETECT, Phase.STOP) and state.began_ns is None:
        state = replace(state, began_ns=time_ns)
    if phase in BRING_UP_SPANS and len(state.phases) < MAX_PHASES:
        state = replace(state, phases=(*state.phases, OpenPhase(phase, time_ns)))
    if before is not None and phase is Phase.STOP and state.running_end_ns is None:
        ended_ns = _workers_ended_ns(state, before, time_ns)
        state = replace(state, running_end_ns=ended_ns, running_restart_count=state.restart_count)
    elif before is not None and (phase in _AFTER_RUNNING or state.running_end_ns is not None):
        ended = running_spans(state, _workers_ended_ns(state, before, time_ns), state.failure, root=None)
        spans += ended
        if ended or phase is not Phase.EXIT_BARRIER:
            state = replace(state, running_ns=None, running_end_ns=None)
    if phase is Phase.RENDEZVOUS:
        state = _rendezvous_entered(state, before, time_ns)
    elif phase is Phase.ASSIGN_RANKS:
        round_ = round_of(event)
        state = replace(
            state,
            expected_round=round_,
            group_rank=int_attribute(event, semconv.GROUP_RANK),
            world_size=int_attribute(event, semconv.GROUP_WORLD_SIZE),
        )
    elif phase is Phase.RUNNING:
        state, more = _workers_started(state, event, time_ns)
        spans += more
    elif phase is Phase.ENDED:
        outcome = str(event.attributes.get(semconv.AGENT_OUTCOME))
        error = f"{outcome}: {event.attributes.get(semconv.ERROR_TYPE, 'the agent ended')}"
        spans += unfinished_spans(state, time_ns, error, root=state.is_last_reporter)
        state = replace(state, phases=(), began_ns=None)
    return state, spans


def _workers_ended_ns(state: TraceState, before: Phase, time_ns: int) -> int:
    # what came before a stop is the detection of a failure: the workers ran until then
    began = state.began_ns
    if state.running_end_ns is not None:
        return state.running_end_ns
    return began if before is Phase.DETECT and began is not None else time_ns


def _rendezvous_entered(state: TraceState, before: Phase | None, time_ns: int) -> TraceState:
    return replace(
        state,
        began_ns=state.began_ns if state.began_ns is not None else time_ns,
        expected_round=None if state.last_round is None else state.last_round + 1,
        group_rank=None,
        world_size=None,
        events=(),
        cause=None,
    )


def _workers_started(state: TraceState, event: ElasticEvent, time_ns: int) -> tuple[TraceState, list[ElasticSpan]]:
    # an agent that starts workers again without a rendezvous is in the same round, whose spans have their ids
    again = state.last_round is not None and state.last_round == state.expected_round
    state = replace(
        state,
        last_round=state.expected_round,
        running_ns=state.running_ns if again else time_ns,
        running_end_ns=None,
        phases=() if again else state.phases,
        failure="",
        restarted_ns=time_ns if state.restarting else None,
        restarted_monotonic_ns=event.monotonic_ns,
        durations=state.durations if state.restarting else None,
    )
    # under static the store, and with it the run's nonce, may be known only after the workers run: then it waits
    return (state, []) if state.nonce is None else _bring_up_ended(state)


def _bring_up_ended(state: TraceState) -> tuple[TraceState, list[ElasticSpan]]:
    round_, restarted_ns = state.last_round, state.running_ns
    spans: list[ElasticSpan] = []
    if round_ is not None and restarted_ns is not None and state.phases:
        spans += bring_up_spans(state, round_, restarted_ns, None)
        if state.owns_root(round_):
            spans += local_root(state, round_, restarted_ns, None)
    since_ns = state.phase_ns if restarted_ns is None else restarted_ns
    running = tuple(each for each in state.events if each.time_ns >= since_ns)
    return replace(state, began_ns=None, phases=(), events=running), spans


# --- restarts: emitted once the workers run again and the cause is known, or will not be known


def restart_completed(state: TraceState, event: ElasticEvent) -> tuple[TraceState, ElasticEvent]:
    """The state after a restart, and its event, which is derived from this one."""
    durations = dict(state.durations or {})
    durations[Phase.DETECT.value] = durations.get(Phase.DETECT.value, 0) + _undetected_ns(state)
    seconds = {phase: durations.get(phase, 0) / 1e9 for phase in RESTART_PHASES}
    round_ = state.last_round
    attributes: dict[str, AttributeValue] = {semconv.INFERRED: True, **(state.cause or {})}
    attributes |= common_attributes(state, round_) if round_ is not None else {}
    attributes[semconv.RESTART_DURATION] = round(sum(seconds.values()), 9)
    for phase, value in seconds.items():
        attributes[semconv.RESTART_PHASE_DURATION.format(phase=phase)] = value
    if semconv.NODE_ID in event.attributes:
        attributes[semconv.NODE_ID] = event.attributes[semconv.NODE_ID]
    completed = ElasticEvent(
        semconv.RESTART_COMPLETED,
        event.destination,
        message_of(semconv.RESTART_COMPLETED, attributes),
        state.restarted_ns,
        event.observed_ns,
        state.restarted_monotonic_ns,
        Severity.WARN,
        attributes,
    )
    return replace(state, restarted_ns=None, restarting=False, durations=None), completed


def _undetected_ns(state: TraceState) -> int:
    """From the agreed cause, on another node, to the moment when this agent began to do something about it.

    Both by their own host's wall clock: where those differ, this differs by as much.
    """
    cause = state.cause or {}
    failed_ns, durations = cause.get(f"{semconv.CAUSE}.time"), state.durations or {}
    if cause.get(semconv.RESTART_AGREED) is not True or not isinstance(failed_ns, int) or state.restarted_ns is None:
        return 0
    began_ns = state.restarted_ns - sum(durations.get(phase, 0) for phase in RESTART_PHASES)
    return max(0, began_ns - failed_ns)


def _is_cause_attribute(name: str) -> bool:
    """Whether an attribute of ``torchelastic.restart.cause_agreed`` is an attribute of the restart as well."""
    return name.startswith((semconv.CAUSE + ".", "torchelastic.restart.")) or name in (
        semconv.FAILURE_AMBIGUOUS,
        semconv.FAILURE_EVIDENCE,
        semconv.WRITER,
        semconv.INFERRED_FROM,
    )
