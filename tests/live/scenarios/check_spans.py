"""The spans that arrived, held against the truth."""

from __future__ import annotations

from collections import Counter, defaultdict

from tests.live.scenarios.findings import Case, S, inferred
from tests.support.received import ReceivedSpan
from torchelastic_otel import semconv

SLACK_S = 0.3


def check_spans(case: Case) -> None:
    """See the header of this file."""
    spans = case.actual.all_spans
    ids = Counter((span.trace_id, span.span_id) for span in spans)
    case.check_equal([one for one, times in ids.items() if times > 1], [], "spans that came twice")
    traces: dict[str, list[ReceivedSpan]] = defaultdict(list)
    for span in spans:
        traces[span.trace_id].append(span)
        case.check(span.end_ns >= span.start_ns, f"{span.name} ends before it begins")
        case.check(span.kind == 1, f"{span.name} is of kind {span.kind}")
        for event in span.events:
            inside = span.start_ns <= event.time_ns <= span.end_ns
            case.check(inside, f"{event.name} is not within its span {span.name}")
    for trace, of_it in traces.items():
        roots = [span for span in of_it if not span.parent_id]
        what = f"trace {trace[:6]} of {sorted((owner(case, span), span.name) for span in of_it)}"
        case.check_equal(len(roots), 1, f"roots of {what}")
        known = {span.span_id for span in of_it}
        orphans = [span.name for span in of_it if span.parent_id and span.parent_id not in known]
        case.check_equal(orphans, [], f"spans without their parent in {what}")
        if len(roots) == 1 and roots[0].name == semconv.SPAN_ROUND:
            parts = _parts(case, roots[0], of_it)
            first, last = min(span.start_ns for span in parts), max(span.end_ns for span in parts)
            case.check(roots[0].start_ns - first <= SLACK_S * S, f"begins after its parts: {what}")
            formed = roots[0].error is None
            case.check(not formed or last - roots[0].end_ns <= SLACK_S * S, f"ends before its parts: {what}")
    for number, round_ in enumerate(case.expected.rounds):
        for job in case.jobs():
            if nodes := "".join(sorted(set(round_.nodes) & set(job))):
                _round(case, number, nodes)
    _records(case, set(ids))


def _parts(case: Case, root: ReceivedSpan, spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
    """The spans that the root of a bring-up spans: its own agent's where that did not know the others' when it spoke.

    That is so where they take 2 s more than it did, and under ``static``, where agents do not ask each other.
    """
    name = owner(case, root)
    own_view = {
        each[semconv.RENDEZVOUS_ROUND]
        for each in inferred(case.actual.records[name], semconv.ROUND_STARTED)
        if each[semconv.INFERRED_FROM] == "own_view"
    }
    if root.attributes.get(semconv.RENDEZVOUS_ROUND) not in own_view:
        return spans
    return [span for span in spans if owner(case, span) == name]


def owner(case: Case, span: ReceivedSpan) -> str:
    """The agent that told it."""
    return next(name for name, spans in case.actual.spans.items() if any(each is span for each in spans))


def of_round(case: Case, number: int, nodes: str, name: str) -> dict[str, list[ReceivedSpan]]:
    """The spans of a name in a round, by agent."""
    return {
        node: [
            span
            for span in case.actual.spans[node]
            if span.name == name and span.attributes.get(semconv.RENDEZVOUS_ROUND) == number
        ]
        for node in nodes
    }


def _round(case: Case, number: int, nodes: str) -> None:
    """A round is two traces, shared by its nodes where they can agree; each node has its parts in both."""
    together = case.agreed and (case.expected.backend != "static" or number == 0)
    for name in (semconv.SPAN_RENDEZVOUS, semconv.SPAN_ASSIGN_RANKS, semconv.SPAN_START_WORKERS, semconv.SPAN_WORKERS):
        reported = of_round(case, number, nodes, name)
        for node, spans in reported.items():
            case.check_equal(len(spans), 1, f"{node}: spans {name} of round {number}")
            expected = case.place(node, number)
            for span in spans:
                actual = tuple(span.attributes.get(key) for key in (semconv.GROUP_RANK, semconv.GROUP_WORLD_SIZE))
                case.check_equal(actual, (expected[0], len(nodes)), f"{node}: place of {name} in round {number}")
        traces = {span.trace_id for spans in reported.values() for span in spans}
        case.check_equal(len(traces), 1 if together else len(nodes), f"traces with {name} of round {number}")
    bring_up = [s for spans in of_round(case, number, nodes, semconv.SPAN_ROUND).values() for s in spans]
    training = [s for spans in of_round(case, number, nodes, semconv.SPAN_TRAINING).values() for s in spans]
    case.check_equal(len(bring_up), 1 if together else len(nodes), f"roots of the bring-up of round {number}")
    case.check_equal(len(training), 1 if together else len(nodes), f"roots of the running of round {number}")
    for root in training:
        case.check({trace for trace, _ in root.links} & {each.trace_id for each in bring_up}, "training has no link")
    for node, spans in of_round(case, number, nodes, semconv.SPAN_WORKERS).items():
        failed = bool(list(case.worker_actions(node, number)))
        killed = case.expected.ends[node] is None and number == case.expected.rounds_of(node)[-1]
        for span in spans:
            case.check_equal(span.error is not None, failed or killed, f"{node}: workers of round {number} failed")


def _records(case: Case, spans: set[tuple[str, str]]) -> None:
    """A record of a round says its span, and that is there."""
    for name, records in case.actual.records.items():
        formed = identified = False
        for record in records:
            # where the store comes with the round, or answers late, the run is identified a moment later
            identified = identified or record.event_name == semconv.RUN_IDENTIFIED
            formed = formed or record.attributes.get(semconv.PHASE) == "assign_ranks"
            if formed and identified and record.event_name != semconv.RUN_IDENTIFIED:
                case.check(record.trace_id and record.span_id, f"{name}: {record.event_name} has no span")
            if record.trace_id:
                there = (record.trace_id, record.span_id) in spans
                case.check(there, f"{name}: the span of {record.event_name} {record.uid[-4:]} is not there")
