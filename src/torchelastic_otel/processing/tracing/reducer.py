"""One agent's own story as it goes on: what follows from its events, told as more events and as finished spans.

What always holds:

- ``narrate`` is pure: a narrative and an event give a narrative, the event with its trace, more events, and spans.
- A span is told once, when it has ended; a round has two traces, its bring-up and its running, and each comes whole.
- A span never ends before it begins, whatever the wall clock does.
- Who speaks for the whole job tells the roots; where nothing is agreed, each agent tells a trace of its own.
- The narrative is kept with the spool's rows, so that whoever finds a dead agent's spool can end its spans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.processing.tracing.placement import noted, placed, round_of
from torchelastic_otel.processing.tracing.restarts import UNKNOWN_CAUSE, restart_completed, tells_cause
from torchelastic_otel.processing.tracing.spans import agreed_root, bring_up_parts, own_root, running_spans, unfinished
from torchelastic_otel.processing.tracing.state import BRING_UP_SPANS, OpenPhase, TraceState

MAX_PARTS: Final = 64
_AFTER_RUNNING: Final = frozenset({Phase.STOP, Phase.RENDEZVOUS, Phase.EXIT_BARRIER, Phase.ENDED})
"""Workers have run; the rendezvous follows at once where an agent stops them in a way of its own."""
_SAY_THE_ROUND: Final = frozenset(
    {
        semconv.RENDEZVOUS_PARTICIPANT_ADDED,
        semconv.RENDEZVOUS_WAIT_LIST_ADDED,
        semconv.RENDEZVOUS_REDUNDANCY_LIST_ADDED,
    }
)


@dataclass(frozen=True, slots=True)
class Derived:
    """What follows from one event.

    Attributes:
        event: The event, with the trace and span that it belongs to.
        events: Events that follow from it.
        spans: Spans that ended with it.
    """

    event: ElasticEvent
    events: tuple[ElasticEvent, ...] = ()
    spans: tuple[ElasticSpan, ...] = ()


def reduce(narrative: TraceState, event: ElasticEvent) -> tuple[TraceState, Derived]:
    """Go on with one event, enriched; what follows from it."""
    time_ns = event.time_ns or event.observed_ns
    events: list[ElasticEvent] = []
    spans: list[ElasticSpan] = []
    of = event.attributes
    if event.name == semconv.AGENT_STARTED:
        narrative = _begin(event)
    elif narrative.agent_id is None:
        return narrative, Derived(event)
    elif event.name == semconv.RUN_IDENTIFIED:
        narrative = replace(
            narrative,
            nonce=str(of.get(semconv.RUN_NONCE)),
            agreed=of.get(semconv.INFERRED_FROM) == "store",
            hosts_store=of.get(semconv.HOSTS_STORE) is True,
        )
        if narrative.phase is Phase.RUNNING:
            narrative, spans = _tell_bring_up(narrative)
    elif event.name == semconv.AGENT_PHASE_ENTERED:
        if narrative.ran_ns is not None and of.get(semconv.PHASE) != Phase.RUNNING.value:
            # it runs no longer, and nobody has said why it restarted: told with what is known
            narrative, completed = restart_completed(replace(narrative, cause=UNKNOWN_CAUSE), event)
            events.append(completed)
        narrative, spans = _enter(narrative, event, time_ns)
    elif event.name == semconv.RESTART_STARTED:
        narrative = replace(narrative, restarting=True, restart_count=_int(of.get(semconv.RESTART_COUNT)))
    elif event.name == semconv.RESTART_CAUSE_AGREED:
        writer = round_of(event) if of.get(semconv.WRITER) is True else narrative.writer_round
        cause = {key: value for key, value in of.items() if tells_cause(key)}
        # an answer that comes when the next rendezvous has begun is about the round before
        late = narrative.phase is Phase.RENDEZVOUS
        narrative = replace(narrative, cause=narrative.cause if late else cause, writer_round=writer)
    elif event.name == semconv.ROUND_STARTED:
        round_ = round_of(event)
        if round_ is not None:
            narrative = replace(narrative, writer_round=max(round_, narrative.writer_round or 0))
        spans += agreed_root(narrative, event, round_)
    elif event.name == semconv.WORKER_FAILED and semconv.INFERRED in of and not narrative.failed:
        narrative = replace(narrative, failed=event.body[:256])
    elif event.name == semconv.AGENT_LOST and of.get(semconv.WRITER) is True:
        narrative = replace(narrative, writer_round=round_of(event))
    if event.name in _SAY_THE_ROUND and narrative.phase is Phase.RENDEZVOUS:
        narrative = replace(narrative, expected_round=round_of(event))
    if narrative.ran_ns is not None and narrative.cause is not None:
        narrative, completed = restart_completed(narrative, event)
        events.append(completed)
    narrative = noted(replace(narrative, last_ns=max(narrative.last_ns, time_ns)), event, time_ns)
    return narrative, Derived(placed(narrative, event), tuple(placed(narrative, each) for each in events), tuple(spans))


def finish_orphaned(narrative: TraceState) -> tuple[TraceState, tuple[ElasticSpan, ...]]:
    """What there is to tell of an agent whose process is gone and that did not say so: its open spans, as errors.

    They end with the last sign of it. The roots are told where no other agent can: it was alone, or hosted the store.
    """
    if not narrative.is_open:
        return narrative, ()
    alone = narrative.ends_the_job
    why = "the agent's process ended without a word"
    end_ns = max(narrative.last_ns, narrative.phase_ns)
    spans = [*unfinished(narrative, end_ns, why, root=alone)]
    spans += running_spans(narrative, end_ns, why, root=alone and narrative.writer_round == narrative.last_round)
    return replace(narrative, phase=Phase.ENDED, parts=(), running_ns=None), tuple(spans)


# --- phases


def _begin(event: ElasticEvent) -> TraceState:
    of = event.attributes
    agent_id, run_id, backend = (of.get(key) for key in (semconv.AGENT_ID, semconv.RUN_ID, semconv.RENDEZVOUS_BACKEND))
    return TraceState(
        agent_id=str(agent_id),
        run_id=str(run_id),
        backend=None if backend is None else str(backend),
    )


def _enter(narrative: TraceState, event: ElasticEvent, time_ns: int) -> tuple[TraceState, list[ElasticSpan]]:
    try:
        phase = Phase(str(event.attributes.get(semconv.PHASE)))
    except ValueError:
        return narrative, []  # of a newer version
    before = narrative.phase
    spans: list[ElasticSpan] = []
    durations = dict(narrative.durations or {})
    if before is not None and narrative.phase_monotonic_ns is not None and event.monotonic_ns is not None:
        durations[before.value] = durations.get(before.value, 0) + max(
            0, event.monotonic_ns - narrative.phase_monotonic_ns
        )
    parts = tuple(part if part.end_ns is not None else replace(part, end_ns=time_ns) for part in narrative.parts)
    narrative = replace(
        narrative,
        parts=parts,
        durations=durations,
        phase=phase,
        phase_ns=time_ns,
        phase_monotonic_ns=event.monotonic_ns,
    )
    if before is Phase.RUNNING:
        # a bring-up that waited for the run to be identified goes without a trace
        narrative = replace(narrative, parts=(), began_ns=None)
    if phase in (Phase.DETECT, Phase.STOP) and narrative.began_ns is None:
        narrative = replace(narrative, began_ns=time_ns)
    if phase in BRING_UP_SPANS and len(narrative.parts) < MAX_PARTS:
        narrative = replace(narrative, parts=(*narrative.parts, OpenPhase(phase, time_ns)))
    if before is not None and phase in _AFTER_RUNNING:
        told = running_spans(narrative, _running_end(narrative, before, time_ns), narrative.failed, root=None)
        spans += told
        if told or phase is not Phase.EXIT_BARRIER:
            narrative = replace(narrative, running_ns=None)
    if phase is Phase.RENDEZVOUS:
        narrative = _go_to_rendezvous(narrative, before, time_ns)
    elif phase is Phase.ASSIGN_RANKS:
        round_ = round_of(event)
        narrative = replace(
            narrative,
            expected_round=round_,
            group_rank=_int(event.attributes.get(semconv.GROUP_RANK)),
            world_size=_int(event.attributes.get(semconv.GROUP_WORLD_SIZE)),
        )
    elif phase is Phase.RUNNING:
        narrative, more = _brought_up(narrative, event, time_ns)
        spans += more
    elif phase is Phase.ENDED:
        outcome = str(event.attributes.get(semconv.AGENT_OUTCOME))
        why = f"{outcome}: {event.attributes.get(semconv.ERROR_TYPE, 'the agent ended')}"
        spans += unfinished(narrative, time_ns, why, root=narrative.ends_the_job)
        narrative = replace(narrative, parts=(), began_ns=None)
    return narrative, spans


def _running_end(narrative: TraceState, before: Phase, time_ns: int) -> int:
    # what came before a stop is the detection of a failure: the workers ran until then
    began = narrative.began_ns
    return began if before is Phase.DETECT and began is not None else time_ns


def _go_to_rendezvous(narrative: TraceState, before: Phase | None, time_ns: int) -> TraceState:
    return replace(
        narrative,
        began_ns=narrative.began_ns if narrative.began_ns is not None else time_ns,
        expected_round=None if narrative.last_round is None else narrative.last_round + 1,
        group_rank=None,
        world_size=None,
        events=(),
        cause=None,
    )


def _brought_up(narrative: TraceState, event: ElasticEvent, time_ns: int) -> tuple[TraceState, list[ElasticSpan]]:
    # an agent that starts workers again without a rendezvous is in the same round, whose spans have their ids
    again = narrative.last_round is not None and narrative.last_round == narrative.expected_round
    narrative = replace(
        narrative,
        last_round=narrative.expected_round,
        running_ns=narrative.running_ns if again else time_ns,
        parts=() if again else narrative.parts,
        failed="",
        ran_ns=time_ns if narrative.restarting else None,
        ran_monotonic_ns=event.monotonic_ns,
        durations=narrative.durations if narrative.restarting else None,
    )
    # under static the store, and with it the run's nonce, may be known only after the workers run: then it waits
    return (narrative, []) if narrative.nonce is None else _tell_bring_up(narrative)


def _tell_bring_up(narrative: TraceState) -> tuple[TraceState, list[ElasticSpan]]:
    round_, ran_ns = narrative.last_round, narrative.running_ns
    spans: list[ElasticSpan] = []
    if round_ is not None and ran_ns is not None and narrative.parts:
        spans += bring_up_parts(narrative, round_, ran_ns, None)
        if narrative.tells_root(round_):
            spans += own_root(narrative, round_, ran_ns, None)
    since_ns = narrative.phase_ns if ran_ns is None else ran_ns
    running = tuple(each for each in narrative.events if each.time_ns >= since_ns)
    return replace(narrative, began_ns=None, parts=(), events=running), spans


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
