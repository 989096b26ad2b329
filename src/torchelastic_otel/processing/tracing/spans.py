"""Finished spans from a state: the bring-up of a round, and its running.

Guarantees: pure; a span never ends before it begins; there are no spans while the run is not identified.

Not guaranteed: that the root of a running encloses it. It is the part of the job reporter, emitted when that has ended;
another node's part may begin before it and end after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, ElasticEvent
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.span import ElasticSpan, SpanLink
from torchelastic_otel.model.trace_ids import BRING_UP, ROOT, RUNNING
from torchelastic_otel.processing.tracing.state import BRING_UP_SPANS, TraceState


def common_attributes(state: TraceState, round_: int) -> dict[str, AttributeValue]:
    """The attributes of every span of a round."""
    known = {
        semconv.RUN_ID: state.run_id,
        semconv.RENDEZVOUS_ROUND: round_,
        semconv.RENDEZVOUS_BACKEND: state.backend,
        semconv.GROUP_RANK: state.group_rank,
        semconv.GROUP_WORLD_SIZE: state.world_size,
        semconv.RESTART_COUNT: state.restart_count,
    }
    return {key: value for key, value in known.items() if value is not None}


def bring_up_spans(state: TraceState, round_: int, end_ns: int, error: str | None) -> Iterator[ElasticSpan]:
    """The spans of a bring-up; the last one with the error."""
    ids = state.ids(round_)
    if ids is None:
        return
    root, agent = ids.span(BRING_UP, ROOT), state.agent_id or ""
    times: dict[str, int] = {}
    for number, part in enumerate(state.phases):
        name = BRING_UP_SPANS[part.phase]
        again = times[name] = times.get(name, -1) + 1
        end = max(part.start_ns, part.end_ns if part.end_ns is not None else end_ns)
        happened = state.events if part.phase is Phase.RENDEZVOUS else ()
        last = number == len(state.phases) - 1
        yield ElasticSpan(
            name,
            ids.trace(BRING_UP),
            ids.span(BRING_UP, f"{name}{again or ''}", agent),
            root,
            part.start_ns,
            end,
            common_attributes(state, round_),
            tuple(each for each in happened if part.start_ns <= each.time_ns <= end),
            error=error if last else None,
        )


def local_root(state: TraceState, round_: int, end_ns: int, error: str | None) -> Iterator[ElasticSpan]:
    """The root of a bring-up in a trace of this agent alone."""
    began = state.began_ns if state.began_ns is not None else end_ns
    yield from _root_span(state, round_, began, max(began, end_ns), error, {})


def agreed_root(state: TraceState, event: ElasticEvent, round_: int | None) -> Iterator[ElasticSpan]:
    """The root of a bring-up, from the job reporter, once the workers of all nodes run."""
    began, seconds = event.attributes.get(semconv.ROUND_BEGAN), event.attributes.get(semconv.ROUND_DURATION)
    if round_ is None or state.owns_root(round_) or not isinstance(began, int):
        return
    duration_ns = int(seconds * 1e9) if isinstance(seconds, (int, float)) and math.isfinite(seconds) else 0
    last = event.attributes.get(semconv.RENDEZVOUS_LAST_JOINER)
    extra = {} if last is None else {semconv.RENDEZVOUS_LAST_JOINER: last}
    yield from _root_span(state, round_, began, began + max(0, duration_ns), None, extra)


def _root_span(
    state: TraceState,
    round_: int,
    start_ns: int,
    end_ns: int,
    error: str | None,
    extra: Mapping[str, AttributeValue],
) -> Iterator[ElasticSpan]:
    ids = state.ids(round_)
    if ids is None:
        return
    before = state.ids(round_ - 1) if round_ else None
    links = () if before is None else (SpanLink(before.trace(RUNNING), before.span(RUNNING, ROOT)),)
    attributes = common_attributes(state, round_) | dict(state.cause or {}) | dict(extra)
    attributes.pop(semconv.GROUP_RANK, None)
    yield ElasticSpan(
        semconv.SPAN_ROUND,
        ids.trace(BRING_UP),
        ids.span(BRING_UP, ROOT),
        None,
        start_ns,
        end_ns,
        attributes,
        links=links,
        error=error,
    )


def unfinished_spans(state: TraceState, end_ns: int, why: str, *, root: bool) -> Iterator[ElasticSpan]:
    """The spans of a bring-up that failed; a stop without a rendezvous after it belongs to the running trace."""
    if not state.phases:
        return
    if all(part.phase is Phase.STOP for part in state.phases):
        round_ = state.last_round
        ids = None if round_ is None else state.ids(round_)
        if ids is None or round_ is None:
            return
        for number, part in enumerate(state.phases):
            yield ElasticSpan(
                semconv.SPAN_STOP_WORKERS,
                ids.trace(RUNNING),
                ids.span(RUNNING, f"{semconv.SPAN_STOP_WORKERS}{number or ''}", state.agent_id or ""),
                ids.span(RUNNING, ROOT),
                part.start_ns,
                max(part.start_ns, part.end_ns if part.end_ns is not None else end_ns),
                common_attributes(state, round_),
            )
        return
    if state.expected_round is None:
        # it never joined: its attempt belongs to no round of the others
        state, root = replace(state, agreed=False), True
    expected = state.expected_round or 0
    yield from bring_up_spans(state, expected, end_ns, why)
    if root or state.owns_root(expected):
        yield from local_root(state, expected, end_ns, why)


def running_spans(state: TraceState, end_ns: int, error: str, *, root: bool | None) -> list[ElasticSpan]:
    """The spans of a round's running, this node's and, from the job reporter, the root."""
    if state.running_end_ns is not None:
        state = replace(state, restart_count=state.running_restart_count)
    round_, start_ns = state.last_round, state.running_ns
    ids = None if round_ is None else state.ids(round_)
    if round_ is None or start_ns is None or ids is None:
        return []
    end_ns = max(start_ns, end_ns)
    trace, parent = ids.trace(RUNNING), ids.span(RUNNING, ROOT)
    agent = state.agent_id or ""
    workers = ElasticSpan(
        semconv.SPAN_WORKERS,
        trace,
        ids.span(RUNNING, semconv.SPAN_WORKERS, agent),
        parent,
        start_ns,
        end_ns,
        common_attributes(state, round_),
        tuple(each for each in state.events if start_ns <= each.time_ns <= end_ns),
        error=error or None,
    )
    if root is None:
        root = state.reporter_round == round_
    if not (root or state.owns_root(round_)):
        return [workers]
    attributes = common_attributes(state, round_)
    attributes.pop(semconv.GROUP_RANK, None)
    link = SpanLink(ids.trace(BRING_UP), ids.span(BRING_UP, ROOT))
    training = ElasticSpan(
        semconv.SPAN_TRAINING, trace, parent, None, start_ns, end_ns, attributes, links=(link,), error=error or None
    )
    return [workers, training]
