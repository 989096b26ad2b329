"""From a narrative to finished spans: the bring-up of a round, and its running.

What always holds: pure; a span never ends before it begins; nothing is told while the run is not identified.

Not promised: that the root of a running encloses it. It is the part of who speaks for the job, told when that has
ended; another node's part may begin before it and end after it.
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


def common(narrative: TraceState, round_: int) -> dict[str, AttributeValue]:
    """What every span of a round carries."""
    known = {
        semconv.RUN_ID: narrative.run_id,
        semconv.RENDEZVOUS_ROUND: round_,
        semconv.RENDEZVOUS_BACKEND: narrative.backend,
        semconv.GROUP_RANK: narrative.group_rank,
        semconv.GROUP_WORLD_SIZE: narrative.world_size,
        semconv.RESTART_COUNT: narrative.restart_count,
    }
    return {key: value for key, value in known.items() if value is not None}


def bring_up_parts(narrative: TraceState, round_: int, end_ns: int, error: str | None) -> Iterator[ElasticSpan]:
    """The spans of a bring-up; the last one with the error."""
    ids = narrative.ids(round_)
    if ids is None:
        return
    root, agent = ids.span(BRING_UP, ROOT), narrative.agent_id or ""
    times: dict[str, int] = {}
    for number, part in enumerate(narrative.parts):
        name = BRING_UP_SPANS[part.phase]
        again = times[name] = times.get(name, -1) + 1
        end = max(part.start_ns, part.end_ns if part.end_ns is not None else end_ns)
        happened = narrative.events if part.phase is Phase.RENDEZVOUS else ()
        last = number == len(narrative.parts) - 1
        yield ElasticSpan(
            name,
            ids.trace(BRING_UP),
            ids.span(BRING_UP, f"{name}{again or ''}", agent),
            root,
            part.start_ns,
            end,
            common(narrative, round_),
            tuple(each for each in happened if part.start_ns <= each.time_ns <= end),
            error=error if last else None,
        )


def own_root(narrative: TraceState, round_: int, end_ns: int, error: str | None) -> Iterator[ElasticSpan]:
    """The root of a bring-up that this agent tells by itself."""
    began = narrative.began_ns if narrative.began_ns is not None else end_ns
    yield from _root_span(narrative, round_, began, max(began, end_ns), error, {})


def agreed_root(narrative: TraceState, event: ElasticEvent, round_: int | None) -> Iterator[ElasticSpan]:
    """The root of a bring-up, told by who speaks for the whole job, once all nodes' workers run."""
    began, seconds = event.attributes.get(semconv.ROUND_BEGAN), event.attributes.get(semconv.ROUND_DURATION)
    if round_ is None or narrative.tells_root(round_) or not isinstance(began, int):
        return
    duration_ns = int(seconds * 1e9) if isinstance(seconds, (int, float)) and math.isfinite(seconds) else 0
    last = event.attributes.get(semconv.RENDEZVOUS_LAST_JOINER)
    extra = {} if last is None else {semconv.RENDEZVOUS_LAST_JOINER: last}
    yield from _root_span(narrative, round_, began, began + max(0, duration_ns), None, extra)


def _root_span(
    narrative: TraceState,
    round_: int,
    start_ns: int,
    end_ns: int,
    error: str | None,
    extra: Mapping[str, AttributeValue],
) -> Iterator[ElasticSpan]:
    ids = narrative.ids(round_)
    if ids is None:
        return
    before = narrative.ids(round_ - 1) if round_ else None
    links = () if before is None else (SpanLink(before.trace(RUNNING), before.span(RUNNING, ROOT)),)
    attributes = common(narrative, round_) | dict(narrative.cause or {}) | dict(extra)
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


def unfinished(narrative: TraceState, end_ns: int, why: str, *, root: bool) -> Iterator[ElasticSpan]:
    """The spans of a bring-up that came to nothing; a stop that no rendezvous followed belongs to the running trace."""
    if not narrative.parts:
        return
    if all(part.phase is Phase.STOP for part in narrative.parts):
        round_ = narrative.last_round
        ids = None if round_ is None else narrative.ids(round_)
        if ids is None or round_ is None:
            return
        for number, part in enumerate(narrative.parts):
            yield ElasticSpan(
                semconv.SPAN_STOP_WORKERS,
                ids.trace(RUNNING),
                ids.span(RUNNING, f"{semconv.SPAN_STOP_WORKERS}{number or ''}", narrative.agent_id or ""),
                ids.span(RUNNING, ROOT),
                part.start_ns,
                max(part.start_ns, part.end_ns if part.end_ns is not None else end_ns),
                common(narrative, round_),
            )
        return
    if narrative.expected_round is None:
        # it was never let in: what it tried has no place in a round of the others
        narrative, root = replace(narrative, agreed=False), True
    expected = narrative.expected_round or 0
    yield from bring_up_parts(narrative, expected, end_ns, why)
    if root or narrative.tells_root(expected):
        yield from own_root(narrative, expected, end_ns, why)


def running_spans(narrative: TraceState, end_ns: int, error: str, *, root: bool | None) -> list[ElasticSpan]:
    """The spans of a round's running, this node's and, from who speaks for the job, the root."""
    round_, start_ns = narrative.last_round, narrative.running_ns
    ids = None if round_ is None else narrative.ids(round_)
    if round_ is None or start_ns is None or ids is None:
        return []
    end_ns = max(start_ns, end_ns)
    trace, parent = ids.trace(RUNNING), ids.span(RUNNING, ROOT)
    agent = narrative.agent_id or ""
    workers = ElasticSpan(
        semconv.SPAN_WORKERS,
        trace,
        ids.span(RUNNING, semconv.SPAN_WORKERS, agent),
        parent,
        start_ns,
        end_ns,
        common(narrative, round_),
        tuple(each for each in narrative.events if start_ns <= each.time_ns <= end_ns),
        error=error or None,
    )
    if root is None:
        root = narrative.writer_round == round_
    if not (root or narrative.tells_root(round_)):
        return [workers]
    attributes = common(narrative, round_)
    attributes.pop(semconv.GROUP_RANK, None)
    link = SpanLink(ids.trace(BRING_UP), ids.span(BRING_UP, ROOT))
    training = ElasticSpan(
        semconv.SPAN_TRAINING, trace, parent, None, start_ns, end_ns, attributes, links=(link,), error=error or None
    )
    return [workers, training]
