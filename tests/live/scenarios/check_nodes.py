"""What the timeline tells of each node's way through the rounds, and of the time that the job trained.

What always holds: the truth is what the workers wrote down, what the test did, and the moments at which torch itself
made its events; nothing is allowed for what a slow machine is late by.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.live.harness import is_beat
from tests.live.scenarios.cluster import Being
from tests.live.scenarios.findings import Case, S, moment_ns, named, pid_of
from torchelastic_otel import semconv

PHASES = ("detect", "stop", "rendezvous", "assign_ranks", "start")
_START = "torchelastic.worker.status.START"
_TICK_NS = 10_000_000
"""By how much the time of a file may be before the clock's: the kernel's tick."""


def check_nodes(case: Case) -> None:
    """See the header of this file."""
    for source, runs in (("spools", case.seen.runs), ("logs", case.seen.runs_of_logs)):
        for job in case.jobs():
            pids = {case.pid(name) for name in job}
            for run in runs:
                if {node["pid"] for node in run["nodes"]} & pids:
                    for told in run["rounds"][: len(case.truth.rounds)]:
                        _round(case, source, told, job)
                    _training(case, source, run, job)
    for name in case.stage.cast:
        _training_started(case, name)


def _round(case: Case, source: str, told: Mapping[str, Any], job: str) -> None:
    number = told["round"]
    true, where = case.truth.rounds[number], f"{source}: round {number}"
    before = case.truth.rounds[number - 1] if number else None
    if true.last:
        case.same(told["last_joiner"] and pid_of(told["last_joiner"]), case.pid(true.last), f"{where}: who came last")
    if case.truth.waiting and not true.nodes:
        case.same(told["missing_count"], case.truth.waiting, f"{where}: how many nodes are missing")
    away = {case.pid(name) for name in (before.lost if before is not None and true.nodes else "")}
    case.same({pid_of(node["node_id"]) for node in told["missing"]}, away, f"{where}: nodes that are missing")
    if told["restart"] is not None and case.newest:
        unknown = [phase for phase in PHASES if told["restart"]["phases"][phase] is None]
        case.same(unknown, [], f"{where}: phases of the restart that nobody tells")
    nodes = {pid: node for node in told["nodes"] for pid in _agents_of(case, node)}
    for name in sorted(set(true.nodes) & set(job)):
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
    for name in case.stage.cast:
        if workers & {being.pid for being in case.stage.beings(name)}:
            yield case.pid(name)


def _left(case: Case, where: str, name: str, number: int, node: Mapping[str, Any], source: str) -> None:
    """Why a node was no longer in the round: it was lost, it left, its worker failed, another's did, or it was done."""
    true, end = case.truth.rounds[number], case.truth.ends[name]
    failed = any(True for _ in case.struck(name, number))
    if name in true.lost:
        reason = "lost"
    elif number != case.truth.rounds_of(name)[-1]:
        reason = "worker_failure" if failed else "membership_change"
    else:
        reason = "worker_failure" if failed else str(end)
    # log records alone do not tell that a process is gone where nobody is left to see it
    if not (source == "logs" and end is None and number == len(case.truth.rounds) - 1):
        case.same(node["left_reason"], reason, f"{where}: why it left")


def _joined(case: Case, where: str, name: str, number: int, node: Mapping[str, Any]) -> None:
    """It came after it was started, and after its last round had begun, and before its workers ran."""
    earlier = [each for each in case.truth.rounds_of(name) if each < number]
    since = max((each.began_ns for each in case.workers(name, earlier[-1])), default=0) if earlier else 0
    since = max(since, case.stage.entered[name])
    until = min(each.began_ns for each in case.workers(name, number))
    case.expect(
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
    told = [
        (line["at_ns"], line["event"].get("name") == _START)
        for line in case.stage.cast[name].told
        if line["thread"] == "MainThread" and not is_beat(line["event"].get("message"))
    ]
    ran = []
    groups = [(start, list(group)) for start, group in itertools.groupby(told, key=lambda each: each[1])]
    for i, (start, group) in enumerate(groups):
        if start and i:
            over = groups[i + 1][1][0][0] if i + 1 < len(groups) else None
            ran.append(Ran(groups[i - 1][1][-1][0], group[-1][0], over))
    return ran


def _training(case: Case, source: str, run: Mapping[str, Any], job: str) -> None:
    """It trains while the workers of all nodes run, until the first thing that ends the round."""
    ran = {name: _ran(case, name) for name in job}
    if any(len(ran[name]) != len(case.truth.rounds_of(name)) for name in job):
        case.expect(not case.newest, f"torch itself tells of other starts than the workers: {ran}")
        return
    least = most = 0
    for number, true in enumerate(case.truth.rounds):
        nodes = sorted(set(true.nodes) & set(job))
        of_round = [ran[name][case.truth.rounds_of(name).index(number)] for name in nodes]
        # a node that leaves ends nothing: who goes on is told as training until it notices
        stayed = [each for name, each in zip(nodes, of_round, strict=True) if name not in true.left]
        overs = [each.over for each in stayed if each.over is not None]
        if not of_round or not overs:
            continue
        most += max(0, min(overs) - max(each.not_before for each in of_round))
        began = max(each.began_ns for name in nodes for each in case.workers(name, number))
        since = max(began, *(each.surely for each in of_round))
        least += max(0, _first_end(case, number, nodes) - _TICK_NS - since)
    said = run["time"]["training"]
    case.expect(least / S <= said <= most / S, f"{source}: trained {said} s, not {least / S} to {most / S} s")


def _first_end(case: Case, number: int, nodes: list[str]) -> int:
    """When the first thing happened that could end a round; 0 where a node was lost, which is found out later."""
    true = case.truth.rounds[number]
    if true.lost:
        return 0
    ends = [deed.at_ns for name in nodes for _, deed in case.struck(name, number)]
    ends += [deed.at_ns for deed in case.stage.deeds if deed.worker is None and deed.agent in true.left]
    if number + 1 < len(case.truth.rounds):
        ends += [case.stage.entered[name] for name in case.truth.rounds[number + 1].joined]
    pids = {each.pid for name in nodes for each in case.workers(name, number)}
    ends += [int(str(line["at_ns"])) for line in case.stage.diary() if line["what"] == "done" and line["pid"] in pids]
    return min(ends, default=0)


def _training_started(case: Case, name: str) -> None:
    """Each worker that says that it trains is told once, at the moment at which it said so."""
    begun = {each.pid: each for each in case.stage.beings(name)}
    about = {
        int(str(line["pid"])): int(str(line["at_ns"]))
        for line in case.stage.diary()
        if line["what"] == "is about to train" and line["pid"] in begun
    }
    told = named(case.seen.records[name], semconv.TRAINING_STARTED)
    said = sorted(
        (record.attributes[semconv.WORKER_RANK], record.attributes[semconv.WORKER_LOCAL_RANK]) for record in told
    )
    case.same(said, sorted((begun[pid].rank, begun[pid].local_rank) for pid in about), f"{name}: workers that train")
    for record in told:
        case.expect(
            any(at_ns <= record.time_ns <= begun[pid].began_ns for pid, at_ns in about.items()),
            f"{name}: training began at {record.time_ns}, of which no worker knows",
        )
    for source, runs in (("spools", case.seen.runs), ("logs", case.seen.runs_of_logs)):
        for round_ in (round_ for run in runs for round_ in run["rounds"]):
            trains = []
            for worker in (worker for node in round_["nodes"] for worker in node["workers"]):
                if worker["pid"] in begun:
                    _trains(case, f"{source}: {name}", worker, about.get(worker["pid"]), begun[worker["pid"]])
                    trains.append(worker["training_at"])
            if trains and about:
                all_of_it = [w["training_at"] for node in round_["nodes"] for w in node["workers"] if w["training_at"]]
                case.same(round_["training_at"], max(all_of_it, default=None), f"{source}: when the round trained")


def _trains(case: Case, where: str, worker: Mapping[str, Any], about: int | None, being: Being) -> None:
    said = worker["training_at"]
    if about is None:
        case.same(said, None, f"{where}: since when worker {being.pid} trains")
    else:
        inside = said is not None and about <= moment_ns(said) <= being.began_ns
        case.expect(inside, f"{where}: worker {being.pid} trains since {said}, not {about} to {being.began_ns}")
