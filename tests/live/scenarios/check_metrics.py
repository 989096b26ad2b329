"""The metrics that arrived, held against the truth."""

from __future__ import annotations

from collections import Counter

from tests.live.scenarios.expected import expected_failure
from tests.live.scenarios.findings import Case, S, changes, named
from tests.support.received import ReceivedMetric
from torchelastic_otel import semconv

NEAR_S = 0.3


def check_metrics(case: Case) -> None:
    """See the header of this file."""
    _restarts(case)
    _failures(case)
    _membership(case)
    _gauges(case)
    for name in case.cluster.nodes:
        _time(case, name)
        _events(case, name)
    for job in case.jobs():
        _job_time(case, job)


def values(metric: ReceivedMetric | None, key: str) -> Counter[str]:
    """The values of a counter by an attribute, those that are 0 left out."""
    counted: Counter[str] = Counter()
    for point in metric.points if metric is not None else ():
        if point.value:
            counted[str(point.attributes.get(key))] += point.value  # type: ignore[assignment]
    return counted


def total(case: Case, metric: str, key: str, agents: str | None = None) -> Counter[str]:
    """The sum over agents."""
    added: Counter[str] = Counter()
    for name, newest in case.actual.newest.items():
        if agents is None or name in agents:
            added += values(newest.get(metric), key)
    return added


def _restarts(case: Case) -> None:
    """The sum over all agents is the job's."""
    expected = Counter(case.expected.reasons)
    if not case.agreed and len(case.cluster.nodes) > 1:
        expected = Counter(case.expected.local_restart_reasons or expected.elements())
    case.check_equal(
        dict(total(case, semconv.METRIC_RESTARTS, semconv.RESTART_REASON)), dict(expected), "restarts counted"
    )


def _failures(case: Case) -> None:
    """Each failure counts once, as what it was."""
    reported = total(case, semconv.METRIC_FAILURES, semconv.FAILURE_KIND)
    expected = Counter(expected_failure(action).kind for _, action in case.worker_actions())
    case.check_equal(dict(reported), dict(expected), "failures counted by kind")
    if case.agreed:
        firsts = [case.cluster.actions[each.first] for each in case.expected.rounds if each.first is not None]
        causes = sum(action.worker is not None for action in firsts)
        # after the last round nobody agrees on anything any more: each agent's first failure is its own cause
        last = {action.agent for _, action in case.worker_actions(round_=len(case.expected.rounds) - 1)}
        causes += max(0, len(last) - 1)
        roles = {"cause": causes, "victim": sum(expected.values()) - causes}
        reported = total(case, semconv.METRIC_FAILURES, semconv.FAILURE_ROLE)
        case.check_equal(
            dict(reported), {key: number for key, number in roles.items() if number}, "failures counted by role"
        )


def _membership(case: Case) -> None:
    """Joined, left, lost, as the job's."""
    reported = total(case, semconv.METRIC_MEMBERSHIP_CHANGES, semconv.MEMBERSHIP_CHANGE)
    expected = {change: sum(nodes.values()) for change, nodes in changes(case).items() if nodes}
    if not case.agreed:
        reported, expected = _gone(reported), dict(_gone(Counter(expected)))
    case.check_equal(dict(reported), expected, "membership changes counted")


def _gone(changes: Counter[str]) -> Counter[str]:
    """Who cannot ask the others does not know whether a node left or was lost."""
    return +Counter({"joined": changes["joined"], "lost": changes["left"] + changes["lost"]})


def _gauges(case: Case) -> None:
    """What the job's gauges ever said is true of one of its rounds."""
    rounds = {float(number) for number, each in enumerate(case.expected.rounds) if each.nodes}
    sizes = {float(len(each.nodes)) for each in case.expected.rounds}
    if case.expected.runs:
        sizes = {float(len(job)) for job in case.expected.runs}
    for name, gauges in case.actual.gauges.items():
        actual = gauges.get(semconv.METRIC_RENDEZVOUS_ROUND, set())
        case.check(actual <= rounds, f"{name}: the gauge of the round said {actual} of {rounds}")
        actual = gauges.get(semconv.METRIC_WORLD_SIZE, set())
        case.check(actual <= sizes, f"{name}: the gauge of the world size said {actual} of {sizes}")


def _time(case: Case, name: str) -> None:
    """An agent's states sum to its life."""
    spent = values(case.actual.newest[name].get(semconv.METRIC_AGENT_TIME), semconv.TIME_STATE)
    case.check(all(value >= 0 for value in spent.values()), f"{name}: negative time {spent}")
    phases = named(case.actual.records[name], semconv.AGENT_PHASE_ENTERED)
    if not phases or case.expected.ends[name] is None:
        return
    lived_s = (phases[-1].time_ns - phases[0].time_ns) / S
    said_s = sum(spent.values())
    case.check(abs(said_s - lived_s) < NEAR_S, f"{name}: lived {lived_s:.2f} s, its time sums to {said_s:.2f} s")


def _job_time(case: Case, job: str) -> None:
    """The job's states sum to its life, as far as those who spoke for it could see."""
    spent = total(case, semconv.METRIC_TIME, semconv.TIME_STATE, job)
    records = [record for name in job for record in named(case.actual.records[name], semconv.AGENT_PHASE_ENTERED)]
    if not any(r.nodes for r in case.expected.rounds) or None in {case.expected.ends[name] for name in job}:
        return
    lived_s = (max(r.time_ns for r in records) - min(r.time_ns for r in records)) / S
    came = [min(r.time_ns for r in named(case.actual.records[name], semconv.AGENT_PHASE_ENTERED)) for name in job]
    late_s = 3.0 + (max(came) - min(came)) / S  # who speaks for the job may have come last, or ended first
    said_s = sum(spent.values())
    expected = lived_s - late_s < said_s < lived_s + NEAR_S
    case.check(expected, f"{job}: lived {lived_s:.2f} s, time told {said_s:.2f} s")


def _events(case: Case, name: str) -> None:
    """Events are counted by name, each once; torch's heartbeats may go on after the last numbers are told."""
    reported = values(case.actual.newest[name].get(semconv.METRIC_EVENTS), semconv.EVENT_NAME)
    expected = Counter(row.name for row in case.actual.rows[name] if not row.span and not row.unprocessed)
    for beat in semconv.HEARTBEATS:
        reported.pop(beat, None), expected.pop(beat, None)
    if case.expected.ends[name] is not None:
        case.check_equal(dict(reported), dict(expected), f"{name}: events counted")
