"""The log records that arrived, held against the truth."""

from __future__ import annotations

import itertools
from collections import Counter

from tests.live.arrivals import assert_tells
from tests.live.scenarios.findings import Case, changes, inferred, named, pid_of
from torchelastic_otel import semconv
from torchelastic_otel.testing.otlp_receiver import ReceivedRecord

HEARTBEATS = ("has sent a keep-alive", "synced its local changes", "has a stale state", "updated its keep-alive")
SECTION_4 = {
    semconv.AGENT_RENDEZVOUS_FINISHED,
    semconv.AGENT_RANKS_ASSIGNED,
    semconv.AGENT_SUCCEEDED,
    semconv.AGENT_FAILED,
    semconv.WORKER_STARTED,
    semconv.WORKER_SUCCEEDED,
    semconv.WORKER_FAILED,
    semconv.WORKER_TERMINATED,
}


def check_logs(case: Case) -> None:
    """See the header of this file."""
    for name in case.cluster.nodes:
        _complete(case, name)
        _torchs_own(case, name)
        _placed(case, name)
        _phases(case, name)
    for job in case.jobs():
        _identified(case, job)
        _rounds(case, job)
    _membership(case)
    _lost_and_left(case)
    _waiting(case)
    _beats(case)


def _complete(case: Case, name: str) -> None:
    """Every row is a record, a heartbeat or a span; numbers have no gap; nothing twice."""
    records, rows = case.actual.records[name], case.actual.rows[name]
    numbers = [int(record.uid.rpartition("-")[2]) for record in records]
    case.check_equal(sorted(row.number for row in rows), list(range(1, len(rows) + 1)), f"{name}: numbers in the spool")
    expected = sorted(row.number for row in rows if not row.span and row.name not in semconv.HEARTBEATS)
    case.check_equal(numbers, expected, f"{name}: numbers of the records that arrived")
    case.check(not {record.event_name for record in records} & semconv.HEARTBEATS, f"{name}: heartbeats are logs")
    case.check(len({record.uid.rpartition("-")[0] for record in records}) <= 1, f"{name}: several origins")


def _torchs_own(case: Case, name: str) -> None:
    """What torch itself recorded is there, in its order."""
    reported = [line["event"] for line in case.cluster.nodes[name].torch_events]
    reported = [event for event in reported if not any(beat in event.get("message", "") for beat in HEARTBEATS)]
    records = [record for record in case.actual.records[name] if semconv.INFERRED not in record.attributes]
    case.check_equal(len(records), len(reported), f"{name}: records of torch's own events")
    for event, record in zip(reported, records, strict=False):
        try:
            assert_tells(record, event)
        except AssertionError as error:
            case.check(False, f"{name}: {record.uid}: {error}")


def _placed(case: Case, name: str) -> None:
    """What torch says of agents and workers carries the round's true rank and world size."""
    rounds = case.expected.rounds_of(name)
    joined = attempts = 0
    for record in case.actual.records[name]:
        joined += record.event_name == semconv.RENDEZVOUS_JOINED
        attempts += record.event_name == semconv.RENDEZVOUS_JOIN_ATTEMPTED
        if record.event_name not in SECTION_4 or semconv.INFERRED in record.attributes:
            continue
        if case.expected.backend == "static":
            joined = attempts = max(1, len(worker_starts_before(case, name, record)))
        if joined != attempts or not 1 <= joined <= len(rounds):
            continue  # in a rendezvous that came to nothing
        round_ = rounds[joined - 1]
        actual = tuple(
            record.attributes.get(key)
            for key in (semconv.RENDEZVOUS_ROUND, semconv.GROUP_RANK, semconv.GROUP_WORLD_SIZE)
        )
        case.check_equal(
            actual, (round_, *case.place(name, round_)), f"{name}: place of {record.event_name} {record.uid[-4:]}"
        )


def worker_starts_before(case: Case, name: str, record: ReceivedRecord) -> list[ReceivedRecord]:
    """The starts of workers up to a record, where torch says nothing of rendezvous."""
    number = case.actual.records[name].index(record)
    return [
        each for each in case.actual.records[name][: number + 1] if each.attributes.get(semconv.PHASE) == "assign_ranks"
    ]


def _phases(case: Case, name: str) -> None:
    """One phase follows on the other, up to the end, which is told as it was."""
    phases = inferred(case.actual.records[name], semconv.AGENT_PHASE_ENTERED)
    for before, after in itertools.pairwise(phases):
        case.check_equal(after.get(semconv.PHASE_PREVIOUS), before[semconv.PHASE], f"{name}: the phase before")
    for each in phases:
        case.check(each.get(semconv.PHASE_DURATION, 0) >= 0, f"{name}: a phase took less than nothing")
    ends = [each.get(semconv.AGENT_OUTCOME) for each in phases if each[semconv.PHASE] == "ended"]
    expected = case.expected.ends[name]
    case.check_equal(ends, [] if expected is None else [expected], f"{name}: how it ended")


def _identified(case: Case, job: str) -> None:
    """All agents of a job hold one nonce; those of another hold another."""
    actual = {name: inferred(case.actual.records[name], semconv.RUN_IDENTIFIED) for name in job}
    for name, reported in actual.items():
        if case.expected.ends[name] is not None:
            case.check_equal(len(reported), 1, f"{name}: times it was identified")
    nonces = {reported[0].get(semconv.RUN_NONCE) for reported in actual.values() if reported}
    sources = {reported[0].get(semconv.INFERRED_FROM) for reported in actual.values() if reported}
    if nonces and case.agreed:
        case.check_equal(len(nonces), 1, f"{job}: nonces")
        case.check_equal(sources, {"store"}, f"{job}: where the nonce is from")


def _rounds(case: Case, job: str) -> None:
    """Each round is said to have started once, by one agent for all."""
    started = [each for name in job for each in inferred(case.actual.records[name], semconv.ROUND_STARTED)]
    expected = [number for number, each in enumerate(case.expected.rounds) if set(each.nodes) & set(job)]
    case.check_equal(
        sorted(each[semconv.RENDEZVOUS_ROUND] for each in started), expected, f"{job}: rounds that started"
    )
    for each in started:
        size = len(set(case.expected.rounds[each[semconv.RENDEZVOUS_ROUND]].nodes) & set(job))
        case.check_equal(each.get(semconv.GROUP_WORLD_SIZE), size, f"{job}: nodes of a round that started")


def _membership(case: Case) -> None:
    """Who came, left and was lost is said once for the job."""
    reported: dict[str, Counter[int]] = {"joined": Counter(), "left": Counter(), "lost": Counter()}
    for each in inferred(case.actual.all_records, semconv.MEMBERSHIP_CHANGED):
        for change, key in (
            ("joined", semconv.MEMBERSHIP_JOINED),
            ("left", semconv.MEMBERSHIP_LEFT),
            ("lost", semconv.MEMBERSHIP_LOST),
        ):
            reported[change].update(pid_of(node) for node in each.get(key, ()))
    expected = changes(case)
    if not case.agreed:
        # who cannot ask the others does not know whether a node left or was lost
        reported["lost"], reported["left"] = reported["lost"] + reported["left"], Counter()
    for change, counter in reported.items():
        case.check_equal(dict(counter), dict(expected[change]), f"nodes that {change}")


def _lost_and_left(case: Case) -> None:
    """Survivors say who is lost; who got a signal says that it leaves."""
    reported = {pid_of(each[semconv.PEER_NODE_ID]) for each in inferred(case.actual.all_records, semconv.AGENT_LOST)}
    expected = set()
    for before, after in zip(case.expected.rounds, case.expected.rounds[1:], strict=False):
        gone = before.lost if case.agreed else before.lost + before.left
        if after.nodes:
            expected |= {case.pid(name) for name in gone}
    case.check_equal(reported, expected, "agents told as lost")
    for name in case.cluster.nodes:
        leaving = inferred(case.actual.records[name], semconv.AGENT_LEAVING)
        signals = [action.what for action in case.cluster.actions if action.worker is None and action.agent == name]
        true_signals = signals if case.expected.ends[name] == "terminated" else []
        case.check_equal(
            [each.get(semconv.WORKER_SIGNAL) for each in leaving], true_signals, f"{name}: signals it leaves for"
        )


def _waiting(case: Case) -> None:
    """Who waits says how many are missing."""
    if case.expected.waiting:
        for name in case.cluster.nodes:
            waiting = inferred(case.actual.records[name], semconv.RENDEZVOUS_WAITING)
            case.check(waiting, f"{name}: says nothing of its waiting")
            missing = {each.get(semconv.RENDEZVOUS_MISSING) for each in waiting}
            case.check_equal(missing, {case.expected.waiting}, f"{name}: nodes that are missing")


def _beats(case: Case) -> None:
    """A heartbeat that fails is told by whose it is; one that fails is nothing to anybody else."""
    failed = {
        name for name in case.cluster.nodes if named(case.actual.records[name], semconv.RENDEZVOUS_KEEP_ALIVE_FAILED)
    }
    if case.expected.failed_heartbeats:
        case.check_equal(failed, set(case.expected.failed_heartbeats), "agents whose heartbeats failed")
        silent = inferred(case.actual.all_records, semconv.AGENT_SILENT)
        case.check_equal([each[semconv.PEER_NODE_ID] for each in silent], [], "agents told as silent")
