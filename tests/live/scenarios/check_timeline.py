"""The timeline, as JSON and as text, from spools and from log records alone, held against the truth."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from tests.live.scenarios.expected import expected_failure
from tests.live.scenarios.findings import Case, S, moment_ns, pid_of, slack_s

STOPPED = ("SIGTERM", "SIGINT", "SIGKILL")
OUTCOMES = {"error": "failed", None: "lost"}


def check_timeline(case: Case) -> None:
    """See the header of this file."""
    for source, runs in (("spools", case.actual.runs), ("logs", case.actual.runs_of_logs)):
        case.check_equal(len(runs), len(case.jobs()) if case.expected.rounds else len(runs), f"{source}: runs")
        for job in case.jobs():
            mine = [run for run in runs if {node["pid"] for node in run["nodes"]} & {case.pid(name) for name in job}]
            if len(mine) == 1:
                _run(case, source, mine[0], job)
    _text(case)


def _run(case: Case, source: str, run: Mapping[str, Any], job: str) -> None:
    expected = case.expected
    killed = [name for name in job if expected.ends[name] is None and name in expected.created]
    # that a process is gone is known where its spool is; log records alone can only fall silent
    silent = source == "logs" and bool(killed)
    if not (silent and run["outcome"] in ("unknown", "running")):
        case.check_equal(run["outcome"], expected.outcome, f"{source}: outcome of the run")
    case.check_equal(run["restarts"], len(expected.reasons), f"{source}: restarts")
    case.check_equal([each["round"] for each in run["rounds"]], list(range(len(expected.rounds))), f"{source}: rounds")
    ends = {node["pid"]: node["outcome"] for node in run["nodes"]}
    expected_ends = {case.pid(name): OUTCOMES.get(expected.ends[name], expected.ends[name]) for name in job}
    if not expected.created:
        expected_ends = dict.fromkeys(expected_ends, "failed")
    elif not expected.rounds[-1].nodes or silent:
        # gone before it was in a round, or nobody was left to say that it is
        ends = {pid: "lost" if end == "unknown" else end for pid, end in ends.items()}
    case.check_equal(ends, expected_ends, f"{source}: how the agents ended")
    for number, reported in enumerate(run["rounds"][: len(expected.rounds)]):
        _round(case, source, number, reported, job, silent and number == len(expected.rounds) - 1)
    states = run["time"]
    case.check(all(value >= 0 for value in states.values()), f"{source}: negative time {states}")
    if run["ended_at"]:
        wall_s = moment_ns(run["ended_at"]) / S - moment_ns(run["started_at"]) / S
        case.check(abs(sum(states.values()) - wall_s) < 0.1, f"{source}: {states} do not sum to {wall_s:.2f} s")


def _round(case: Case, source: str, number: int, reported: Mapping[str, Any], job: str, silent: bool) -> None:
    expected, where = case.expected.rounds[number], f"{source}: round {number}"
    if not (silent and reported["outcome"] in ("unknown", "running")):
        case.check_equal(reported["outcome"], expected.outcome, f"{where}: outcome")
    nodes = "".join(sorted(set(expected.nodes) & set(job)))
    if nodes:
        case.check_equal(reported["world_size"], len(nodes), f"{where}: world size")
        static = case.expected.backend == "static"  # where nodes have no ids
        ranks = sorted((0 if static else pid_of(node["node_id"]), node["group_rank"]) for node in reported["nodes"])
        expected_ranks = sorted((0 if static else case.pid(name), case.place(name, number)[0]) for name in nodes)
        case.check_equal(ranks, expected_ranks, f"{where}: nodes and their ranks")
        workers = {worker["pid"] for node in reported["nodes"] for worker in node["workers"]}
        case.check_equal(workers, {w.pid for name in nodes for w in case.workers(name, number)}, f"{where}: workers")
    restart = reported["restart"]
    case.check_equal(restart and restart["reason"], expected.restart, f"{where}: why it restarted")
    for change, names in (("joined", expected.joined), ("left", expected.left), ("lost", expected.lost)):
        actual = {pid_of(node) for node in reported["membership"][change]}
        if not (change == "joined" and number == 0) and not (change == "lost" and silent):
            case.check_equal(actual, {case.pid(name) for name in names}, f"{where}: nodes that {change}")
    if expected.raised:
        case.check_equal((reported["first_failure"] or {}).get("kind"), "agent_error", f"{where}: first failure")
    elif not silent or reported["first_failure"] is not None:
        _failure(case, where, reported["first_failure"], expected.first)
    acted_on = {action.worker.pid for action in case.cluster.actions if action.worker}
    # others are victims, too: the workers that their agents stopped
    actual_victims = {
        victim["pid"]
        for victim in reported["victims"]
        if victim["exit_code"] is not None and (victim["pid"] in acted_on or victim["signal"] not in STOPPED)
    }
    victims = {case.cluster.actions[index].worker for index in expected.victims}
    case.check_equal(actual_victims, {worker.pid for worker in victims if worker}, f"{where}: victims")
    if nodes and case.agreed and case.expected.backend == "c10d":
        traces = {s.trace_id for s in case.actual.all_spans if s.name == "torchelastic.round" and _is_of(s, number)}
        case.check(reported["trace_id"] in traces, f"{where}: trace {reported['trace_id']} is none of {traces}")


def _is_of(span: Any, number: int) -> bool:
    return bool(span.attributes.get("torchelastic.rendezvous.round") == number)


def _failure(case: Case, where: str, reported: Mapping[str, Any] | None, first: int | None) -> None:
    if first is None or reported is None:
        case.check_equal(
            reported and (reported["kind"], reported["pid"], reported["message"]),
            None if first is None else "one",
            f"{where}: first failure",
        )
        return
    action = case.cluster.actions[first]
    if action.worker is None:
        lost = (reported["kind"], reported["node_id"] and pid_of(reported["node_id"]), reported["host"])
        case.check_equal(lost, ("node_lost", case.pid(action.agent), socket.gethostname()), f"{where}: first failure")
        return
    failure = expected_failure(action)
    keys = ("kind", "rank", "local_rank", "group_rank", "pid", "exit_code", "signal", "error_type", "message")
    expected = (
        failure.kind,
        action.worker.rank,
        action.worker.local_rank,
        action.worker.group_rank,
        action.worker.pid,
        failure.exit_code,
        failure.signal,
        failure.error_type,
        failure.message,
    )
    case.check_equal(tuple(reported[key] for key in keys), expected, f"{where}: first failure")
    late_s = (moment_ns(reported["at"]) - action.at_ns) / S
    case.check(-0.01 <= late_s <= slack_s(action), f"{where}: first failure told {late_s:.3f} s late")


def _text(case: Case) -> None:
    """A person finds the run, each round and each first failure."""
    text = case.actual.text
    for number, expected in enumerate(case.expected.rounds):
        if expected.nodes:
            case.check(f"round {number}" in text, f"text: no round {number}")
        if expected.first is not None and case.cluster.actions[expected.first].worker is not None:
            failed = expected_failure(case.cluster.actions[expected.first])
            word = failed.message or failed.signal or f"exit code {failed.exit_code}"
            case.check(word in text, f"text: no {word!r}")
        if expected.restart is not None:
            case.check(expected.restart in text, f"text: no {expected.restart!r}")
    case.check("Traceback" not in text.partition("\n")[0], "text: begins with a traceback")


def dump(case: Case) -> str:
    """The whole document, for whoever looks at a failing scenario."""
    return json.dumps(case.actual.runs, indent=1)
