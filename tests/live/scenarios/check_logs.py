"""The log records that arrived, held against the truth."""

from __future__ import annotations

import itertools
from collections import Counter

from tests.live.arrivals import assert_tells
from tests.live.scenarios.findings import Case, changes, named, ours, pid_of
from torchelastic_otel import semconv
from torchelastic_otel.demo.receiver import Received

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
    for name in case.stage.cast:
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
    records, rows = case.seen.records[name], case.seen.rows[name]
    numbers = [int(record.uid.rpartition("-")[2]) for record in records]
    case.same(sorted(row.number for row in rows), list(range(1, len(rows) + 1)), f"{name}: numbers in the spool")
    true = sorted(row.number for row in rows if not row.span and row.name not in semconv.HEARTBEATS)
    case.same(numbers, true, f"{name}: numbers of the records that arrived")
    case.expect(not {record.event_name for record in records} & semconv.HEARTBEATS, f"{name}: heartbeats are logs")
    case.expect(len({record.uid.rpartition("-")[0] for record in records}) <= 1, f"{name}: several origins")


def _torchs_own(case: Case, name: str) -> None:
    """What torch itself recorded is there, in its order."""
    told = [line["event"] for line in case.stage.cast[name].told]
    told = [event for event in told if not any(beat in event.get("message", "") for beat in HEARTBEATS)]
    records = [record for record in case.seen.records[name] if semconv.INFERRED not in record.attributes]
    case.same(len(records), len(told), f"{name}: records of torch's own events")
    for event, record in zip(told, records, strict=False):
        try:
            assert_tells(record, event)
        except AssertionError as error:
            case.expect(False, f"{name}: {record.uid}: {error}")


def _placed(case: Case, name: str) -> None:
    """What torch says of agents and workers carries the round's true rank and world size."""
    rounds = case.truth.rounds_of(name)
    joined = attempts = 0
    for record in case.seen.records[name]:
        joined += record.event_name == semconv.RENDEZVOUS_JOINED
        attempts += record.event_name == semconv.RENDEZVOUS_JOIN_ATTEMPTED
        if record.event_name not in SECTION_4 or semconv.INFERRED in record.attributes:
            continue
        if case.truth.backend == "static":
            joined = attempts = max(1, len(ours_before(case, name, record)))
        if joined != attempts or not 1 <= joined <= len(rounds):
            continue  # in a rendezvous that came to nothing
        round_ = rounds[joined - 1]
        said = tuple(
            record.attributes.get(key)
            for key in (semconv.RENDEZVOUS_ROUND, semconv.GROUP_RANK, semconv.GROUP_WORLD_SIZE)
        )
        case.same(said, (round_, *case.place(name, round_)), f"{name}: place of {record.event_name} {record.uid[-4:]}")


def ours_before(case: Case, name: str, record: Received) -> list[Received]:
    """The starts of workers up to a record, where torch says nothing of rendezvous."""
    number = case.seen.records[name].index(record)
    return [
        each for each in case.seen.records[name][: number + 1] if each.attributes.get(semconv.PHASE) == "assign_ranks"
    ]


def _phases(case: Case, name: str) -> None:
    """One phase follows on the other, up to the end, which is told as it was."""
    phases = ours(case.seen.records[name], semconv.AGENT_PHASE_ENTERED)
    for before, after in itertools.pairwise(phases):
        case.same(after.get(semconv.PHASE_PREVIOUS), before[semconv.PHASE], f"{name}: the phase before")
    for each in phases:
        case.expect(each.get(semconv.PHASE_DURATION, 0) >= 0, f"{name}: a phase took less than nothing")
    ends = [each.get(semconv.AGENT_OUTCOME) for each in phases if each[semconv.PHASE] == "ended"]
    true = case.truth.ends[name]
    case.same(ends, [] if true is None else [true], f"{name}: how it ended")


def _identified(case: Case, job: str) -> None:
    """All agents of a job hold one nonce; those of another hold another."""
    said = {name: ours(case.seen.records[name], semconv.RUN_IDENTIFIED) for name in job}
    for name, told in said.items():
        if case.truth.ends[name] is not None:
            case.same(len(told), 1, f"{name}: times it was identified")
    nonces = {told[0].get(semconv.RUN_NONCE) for told in said.values() if told}
    sources = {told[0].get(semconv.INFERRED_FROM) for told in said.values() if told}
    if nonces and case.agreed:
        case.same(len(nonces), 1, f"{job}: nonces")
        case.same(sources, {"store"}, f"{job}: where the nonce is from")


def _rounds(case: Case, job: str) -> None:
    """Each round is said to have started once, by one agent for all."""
    started = [each for name in job for each in ours(case.seen.records[name], semconv.ROUND_STARTED)]
    true = [number for number, each in enumerate(case.truth.rounds) if set(each.nodes) & set(job)]
    case.same(sorted(each[semconv.RENDEZVOUS_ROUND] for each in started), true, f"{job}: rounds that started")
    for each in started:
        size = len(set(case.truth.rounds[each[semconv.RENDEZVOUS_ROUND]].nodes) & set(job))
        case.same(each.get(semconv.GROUP_WORLD_SIZE), size, f"{job}: nodes of a round that started")


def _membership(case: Case) -> None:
    """Who came, left and was lost is said once for the job."""
    told: dict[str, Counter[int]] = {"joined": Counter(), "left": Counter(), "lost": Counter()}
    for each in ours(case.seen.all_records, semconv.MEMBERSHIP_CHANGED):
        for change, key in (
            ("joined", semconv.MEMBERSHIP_JOINED),
            ("left", semconv.MEMBERSHIP_LEFT),
            ("lost", semconv.MEMBERSHIP_LOST),
        ):
            told[change].update(pid_of(node) for node in each.get(key, ()))
    true = changes(case)
    if not case.agreed:
        # who cannot ask the others does not know whether a node left or was lost
        told["lost"], told["left"] = told["lost"] + told["left"], Counter()
    for change, counter in told.items():
        case.same(dict(counter), dict(true[change]), f"nodes that {change}")


def _lost_and_left(case: Case) -> None:
    """Survivors say who is lost; who got a signal says that it leaves."""
    told = {pid_of(each[semconv.PEER_NODE_ID]) for each in ours(case.seen.all_records, semconv.AGENT_LOST)}
    true = set()
    for before, after in zip(case.truth.rounds, case.truth.rounds[1:], strict=False):
        gone = before.lost if case.agreed else before.lost + before.left
        if after.nodes:
            true |= {case.pid(name) for name in gone}
    case.same(told, true, "agents told as lost")
    for name in case.stage.cast:
        leaving = ours(case.seen.records[name], semconv.AGENT_LEAVING)
        signals = [deed.what for deed in case.stage.deeds if deed.worker is None and deed.agent == name]
        true_signals = signals if case.truth.ends[name] == "terminated" else []
        case.same([each.get(semconv.WORKER_SIGNAL) for each in leaving], true_signals, f"{name}: signals it leaves for")


def _waiting(case: Case) -> None:
    """Who waits says how many are missing."""
    if case.truth.waiting:
        for name in case.stage.cast:
            waiting = ours(case.seen.records[name], semconv.RENDEZVOUS_WAITING)
            case.expect(waiting, f"{name}: says nothing of its waiting")
            missing = {each.get(semconv.RENDEZVOUS_MISSING) for each in waiting}
            case.same(missing, {case.truth.waiting}, f"{name}: nodes that are missing")


def _beats(case: Case) -> None:
    """A heartbeat that fails is told by whose it is; one that fails is nothing to anybody else."""
    failed = {name for name in case.stage.cast if named(case.seen.records[name], semconv.RENDEZVOUS_KEEP_ALIVE_FAILED)}
    if case.truth.beats_failed:
        case.same(failed, set(case.truth.beats_failed), "agents whose heartbeats failed")
        silent = ours(case.seen.all_records, semconv.AGENT_SILENT)
        case.same([each[semconv.PEER_NODE_ID] for each in silent], [], "agents told as silent")
