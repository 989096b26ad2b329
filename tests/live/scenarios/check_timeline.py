"""The timeline, as JSON and as text, from spools and from log records alone, held against the truth."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from tests.live.scenarios.expected import failing
from tests.live.scenarios.findings import Case, S, moment_ns, pid_of, slack_s

STOPPED = ("SIGTERM", "SIGINT", "SIGKILL")
OUTCOMES = {"error": "failed", None: "lost"}


def check_timeline(case: Case) -> None:
    """See the header of this file."""
    for source, runs in (("spools", case.seen.runs), ("logs", case.seen.runs_of_logs)):
        case.same(len(runs), len(case.jobs()) if case.truth.rounds else len(runs), f"{source}: runs")
        for job in case.jobs():
            mine = [run for run in runs if {node["pid"] for node in run["nodes"]} & {case.pid(name) for name in job}]
            if len(mine) == 1:
                _run(case, source, mine[0], job)
    _text(case)


def _run(case: Case, source: str, run: Mapping[str, Any], job: str) -> None:
    truth = case.truth
    killed = [name for name in job if truth.ends[name] is None and name in truth.made]
    # that a process is gone is known where its spool is; log records alone can only fall silent
    silent = source == "logs" and bool(killed)
    if not (silent and run["outcome"] in ("unknown", "running")):
        case.same(run["outcome"], truth.outcome, f"{source}: outcome of the run")
    case.same(run["restarts"], len(truth.reasons), f"{source}: restarts")
    case.same([each["round"] for each in run["rounds"]], list(range(len(truth.rounds))), f"{source}: rounds")
    ends = {node["pid"]: node["outcome"] for node in run["nodes"]}
    true = {case.pid(name): OUTCOMES.get(truth.ends[name], truth.ends[name]) for name in job}
    if not truth.made:
        true = dict.fromkeys(true, "failed")
    elif not truth.rounds[-1].nodes or silent:
        # gone before it was in a round, or nobody was left to say that it is
        ends = {pid: "lost" if end == "unknown" else end for pid, end in ends.items()}
    case.same(ends, true, f"{source}: how the agents ended")
    for number, told in enumerate(run["rounds"][: len(truth.rounds)]):
        _round(case, source, number, told, job, silent and number == len(truth.rounds) - 1)
    states = run["time"]
    case.expect(all(value >= 0 for value in states.values()), f"{source}: negative time {states}")
    if run["ended_at"]:
        wall_s = moment_ns(run["ended_at"]) / S - moment_ns(run["started_at"]) / S
        case.expect(abs(sum(states.values()) - wall_s) < 0.1, f"{source}: {states} do not sum to {wall_s:.2f} s")


def _round(case: Case, source: str, number: int, told: Mapping[str, Any], job: str, silent: bool) -> None:
    true, where = case.truth.rounds[number], f"{source}: round {number}"
    if not (silent and told["outcome"] in ("unknown", "running")):
        case.same(told["outcome"], true.outcome, f"{where}: outcome")
    nodes = "".join(sorted(set(true.nodes) & set(job)))
    if nodes:
        case.same(told["world_size"], len(nodes), f"{where}: world size")
        static = case.truth.backend == "static"  # where nodes have no ids
        ranks = sorted((0 if static else pid_of(node["node_id"]), node["group_rank"]) for node in told["nodes"])
        expected = sorted((0 if static else case.pid(name), case.place(name, number)[0]) for name in nodes)
        case.same(ranks, expected, f"{where}: nodes and their ranks")
        workers = {worker["pid"] for node in told["nodes"] for worker in node["workers"]}
        case.same(workers, {w.pid for name in nodes for w in case.workers(name, number)}, f"{where}: workers")
    restart = told["restart"]
    case.same(restart and restart["reason"], true.restart, f"{where}: why it restarted")
    for change, names in (("joined", true.joined), ("left", true.left), ("lost", true.lost)):
        said = {pid_of(node) for node in told["membership"][change]}
        if not (change == "joined" and number == 0) and not (change == "lost" and silent):
            case.same(said, {case.pid(name) for name in names}, f"{where}: nodes that {change}")
    if true.raised:
        case.same((told["first_failure"] or {}).get("kind"), "agent_error", f"{where}: first failure")
    elif not silent or told["first_failure"] is not None:
        _failure(case, where, told["first_failure"], true.first)
    struck = {deed.worker.pid for deed in case.stage.deeds if deed.worker}
    # others are victims, too: the workers that their agents stopped
    said_victims = {
        victim["pid"]
        for victim in told["victims"]
        if victim["exit_code"] is not None and (victim["pid"] in struck or victim["signal"] not in STOPPED)
    }
    victims = {case.stage.deeds[index].worker for index in true.victims}
    case.same(said_victims, {worker.pid for worker in victims if worker}, f"{where}: victims")
    if nodes and case.agreed and case.truth.backend == "c10d":
        traces = {s.trace_id for s in case.seen.all_spans if s.name == "torchelastic.round" and _is_of(s, number)}
        case.expect(told["trace_id"] in traces, f"{where}: trace {told['trace_id']} is none of {traces}")


def _is_of(span: Any, number: int) -> bool:
    return bool(span.attributes.get("torchelastic.rendezvous.round") == number)


def _failure(case: Case, where: str, told: Mapping[str, Any] | None, first: int | None) -> None:
    if first is None or told is None:
        case.same(
            told and (told["kind"], told["pid"], told["message"]),
            None if first is None else "one",
            f"{where}: first failure",
        )
        return
    deed = case.stage.deeds[first]
    if deed.worker is None:
        lost = (told["kind"], told["node_id"] and pid_of(told["node_id"]), told["host"])
        case.same(lost, ("node_lost", case.pid(deed.agent), socket.gethostname()), f"{where}: first failure")
        return
    true = failing(deed)
    keys = ("kind", "rank", "local_rank", "group_rank", "pid", "exit_code", "signal", "error_type", "message")
    expected = (
        true.kind,
        deed.worker.rank,
        deed.worker.local_rank,
        deed.worker.group_rank,
        deed.worker.pid,
        true.exit_code,
        true.signal,
        true.error_type,
        true.message,
    )
    case.same(tuple(told[key] for key in keys), expected, f"{where}: first failure")
    late_s = (moment_ns(told["at"]) - deed.at_ns) / S
    case.expect(-0.01 <= late_s <= slack_s(deed), f"{where}: first failure told {late_s:.3f} s late")


def _text(case: Case) -> None:
    """A person finds the run, each round and each first failure."""
    text = case.seen.text
    for number, true in enumerate(case.truth.rounds):
        if true.nodes:
            case.expect(f"round {number}" in text, f"text: no round {number}")
        if true.first is not None and case.stage.deeds[true.first].worker is not None:
            failed = failing(case.stage.deeds[true.first])
            word = failed.message or failed.signal or f"exit code {failed.exit_code}"
            case.expect(word in text, f"text: no {word!r}")
        if true.restart is not None:
            case.expect(true.restart in text, f"text: no {true.restart!r}")
    case.expect("Traceback" not in text.partition("\n")[0], "text: begins with a traceback")


def dump(case: Case) -> str:
    """The whole document, for whoever looks at a failing scenario."""
    return json.dumps(case.seen.runs, indent=1)
