"""What the timeline tells of each node's way through the rounds, and of the time that the job trained.

Guarantees: the truth is what the workers wrote down, what the test did, and the moments at which torch itself
made its events; nothing is allowed for what a slow machine is late by.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.live.harness import is_beat
from tests.live.scenarios.cluster import Worker
from tests.live.scenarios.findings import Case, S, moment_ns, named, pid_of
from torchelastic_otel import semconv

PHASES = ("detect", "stop", "rendezvous", "assign_ranks", "start")
_START = "torchelastic.worker.status.START"
_TICK_NS = 10_000_000
"""By how much the time of a file may be before the clock's: the kernel's tick."""


def check_nodes(case: Case) -> None:
    """See the header of this file."""
    for source, runs in (("spools", case.actual.runs), ("logs", case.actual.runs_of_logs)):
        for job in case.jobs():
            pids = {case.pid(name) for name in job}
            for run in runs:
                if {node["pid"] for node in run["nodes"]} & pids:
                    for reported in run["rounds"][: len(case.expected.rounds)]:
                        _round(case, source, reported, job)
                    _training(case, source, run, job)
    for name in case.cluster.nodes:
        _training_started(case, name)


def _round(case: Case, source: str, reported: Mapping[str, Any], job: str) -> None:
    number = reported["round"]
    expected, where = case.expected.rounds[number], f"{source}: round {number}"
    before = case.expected.rounds[number - 1] if number else None
    if expected.last:
        case.check_equal(
            reported["last_joiner"] and pid_of(reported["last_joiner"]),
            case.pid(expected.last),
            f"{where}: who came last",
        )
    if case.expected.waiting and not expected.nodes:
        case.check_equal(reported["missing_count"], case.expected.waiting, f"{where}: how many nodes are missing")
    away = {case.pid(name) for name in (before.lost if before is not None and expected.nodes else "")}
    case.check_equal(
        {pid_of(node["node_id"]) for node in reported["missing"]}, away, f"{where}: nodes that are missing"
    )
    if reported["restart"] is not None and case.newest:
        unknown = [phase for phase in PHASES if reported["restart"]["phases"][phase] is None]
        case.check_equal(unknown, [], f"{where}: phases of the restart that nobody tells")
    nodes = {pid: node for node in reported["nodes"] for pid in _agents_of(case, node)}
    for name in sorted(set(expected.nodes) & set(job)):
        node = nodes.get(case.pid(name))
        if node is not None:  # else told already
            _left(case, f"{where}: {name}", name, number, node, source)
            _joined(case, f"{where}: {name}", name, number, node)


def _agents_of(case: Case, node: Mapping[str, Any]) -> Iterator[int]:
    """The process id of the node's agent; by its workers under ``static``, where nodes have no ids."""
    if node["node_id"] is not None:
        yield pid_of(node["node_id"])
        return
    workers = {worker["pid"] for worker in node["workers"]}
    for name in case.cluster.nodes:
        if workers & {worker.pid for worker in case.cluster.workers_of(name)}:
            yield case.pid(name)


def _left(case: Case, where: str, name: str, number: int, node: Mapping[str, Any], source: str) -> None:
    """Why a node was no longer in the round: it was lost, it left, its worker failed, another's did, or it was done."""
    expected, end = case.expected.rounds[number], case.expected.ends[name]
    failed = any(True for _ in case.worker_actions(name, number))
    if name in expected.lost:
        reason = "lost"
    elif number != case.expected.rounds_of(name)[-1]:
        reason = "worker_failure" if failed else "membership_change"
    else:
        reason = "worker_failure" if failed else str(end)
    # log records alone do not tell that a process is gone where nobody is left to see it
    if not (source == "logs" and end is None and number == len(case.expected.rounds) - 1):
        case.check_equal(node["left_reason"], reason, f"{where}: why it left")


def _joined(case: Case, where: str, name: str, number: int, node: Mapping[str, Any]) -> None:
    """It came after it was started, and after its last round had begun, and before its workers ran."""
    earlier = [each for each in case.expected.rounds_of(name) if each < number]
    since = max((each.began_ns for each in case.workers(name, earlier[-1])), default=0) if earlier else 0
    since = max(since, case.cluster.started_at_ns[name])
    until = min(each.began_ns for each in case.workers(name, number))
    case.check(
        node["joined_at"] is not None and since <= moment_ns(node["joined_at"]) <= until,
        f"{where}: came at {node['joined_at']}, not between {since} and {until}",
    )


# --- how long the job trained


@dataclass(frozen=True, slots=True)
class Ran:
    """When one node's workers ran in a round, nanoseconds since the epoch.

    Attributes:
        not_before: What torch said last before it started them.
        surely: By when torch had started them, and they had begun.
        over: What torch said next, once it had seen that they do not run any more; ``None`` where it said nothing.
    """

    not_before: int
    surely: int
    over: int | None


def _ran(case: Case, name: str) -> list[Ran]:
    """An agent's rounds, as torch's own events tell them; none on a torch that does not tell of starts."""
    reported = [
        (line["at_ns"], line["event"].get("name") == _START)
        for line in case.cluster.nodes[name].torch_events
        if line["thread"] == "MainThread" and not is_beat(line["event"].get("message"))
    ]
    ran = []
    groups = [(start, list(group)) for start, group in itertools.groupby(reported, key=lambda each: each[1])]
    for i, (start, group) in enumerate(groups):
        if start and i:
            over = groups[i + 1][1][0][0] if i + 1 < len(groups) else None
            ran.append(Ran(groups[i - 1][1][-1][0], group[-1][0], over))
    return ran


def _training(case: Case, source: str, run: Mapping[str, Any], job: str) -> None:
    """It trains while the workers of all nodes run, until the first thing that ends the round."""
    ran = {name: _ran(case, name) for name in job}
    if any(len(ran[name]) != len(case.expected.rounds_of(name)) for name in job):
        case.check(not case.newest, f"torch itself tells of other starts than the workers: {ran}")
        return
    least = most = 0
    for number, expected in enumerate(case.expected.rounds):
        nodes = sorted(set(expected.nodes) & set(job))
        of_round = [ran[name][case.expected.rounds_of(name).index(number)] for name in nodes]
        # a node that leaves ends nothing: who goes on is told as training until it notices
        stayed = [each for name, each in zip(nodes, of_round, strict=True) if name not in expected.left]
        overs = [each.over for each in stayed if each.over is not None]
        if not of_round or not overs:
            continue
        # torch reports an error before the workers are stopped for it
        most += max(0, min(overs) + _TICK_NS - max(each.not_before for each in of_round))
        began = max(each.began_ns for name in nodes for each in case.workers(name, number))
        since = max(began, *(each.surely for each in of_round))
        least += max(0, _first_end(case, number, nodes) - _TICK_NS - since)
    actual = run["time"]["training"]
    case.check(least / S <= actual <= most / S, f"{source}: trained {actual} s, not {least / S} to {most / S} s")


def _first_end(case: Case, number: int, nodes: list[str]) -> int:
    """When the first thing happened that could end a round; 0 where a node was lost, which is found out later."""
    expected = case.expected.rounds[number]
    if expected.lost:
        return 0
    ends = [action.at_ns for name in nodes for _, action in case.worker_actions(name, number)]
    ends += [action.at_ns for action in case.cluster.actions if action.worker is None and action.agent in expected.left]
    if number + 1 < len(case.expected.rounds):
        ends += [case.cluster.started_at_ns[name] for name in case.expected.rounds[number + 1].joined]
    pids = {each.pid for name in nodes for each in case.workers(name, number)}
    ends += [
        int(str(line["at_ns"])) for line in case.cluster.worker_log() if line["what"] == "done" and line["pid"] in pids
    ]
    return min(ends, default=0)


def _training_started(case: Case, name: str) -> None:
    """Each worker that says that it trains is told once, at the moment at which it said so."""
    begun = {each.pid: each for each in case.cluster.workers_of(name)}
    about = {
        int(str(line["pid"])): int(str(line["at_ns"]))
        for line in case.cluster.worker_log()
        if line["what"] == "is about to train" and line["pid"] in begun
    }
    reported = named(case.actual.records[name], semconv.TRAINING_STARTED)
    actual = sorted(
        (record.attributes[semconv.WORKER_RANK], record.attributes[semconv.WORKER_LOCAL_RANK]) for record in reported
    )
    case.check_equal(
        actual, sorted((begun[pid].rank, begun[pid].local_rank) for pid in about), f"{name}: workers that train"
    )
    for record in reported:
        case.check(
            any(at_ns <= record.time_ns <= begun[pid].began_ns for pid, at_ns in about.items()),
            f"{name}: training began at {record.time_ns}, of which no worker knows",
        )
    for source, runs in (("spools", case.actual.runs), ("logs", case.actual.runs_of_logs)):
        for round_ in (round_ for run in runs for round_ in run["rounds"]):
            trains = []
            for worker in (worker for node in round_["nodes"] for worker in node["workers"]):
                if worker["pid"] in begun:
                    _trains(case, f"{source}: {name}", worker, about.get(worker["pid"]), begun[worker["pid"]])
                    trains.append(worker["training_at"])
            if trains and about:
                all_of_it = [w["training_at"] for node in round_["nodes"] for w in node["workers"] if w["training_at"]]
                case.check_equal(
                    round_["training_at"], max(all_of_it, default=None), f"{source}: when the round trained"
                )


def _trains(case: Case, where: str, reported: Mapping[str, Any], about: int | None, worker: Worker) -> None:
    actual = reported["training_at"]
    if about is None:
        case.check_equal(actual, None, f"{where}: since when worker {worker.pid} trains")
    else:
        inside = actual is not None and about <= moment_ns(actual) <= worker.began_ns
        case.check(inside, f"{where}: worker {worker.pid} trains since {actual}, not {about} to {worker.began_ns}")
