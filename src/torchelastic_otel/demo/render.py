"""The demonstration's summary as text for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from torchelastic_otel import semconv
from torchelastic_otel.demo.job import FailureFile
from torchelastic_otel.demo.received import Received
from torchelastic_otel.demo.spools import SpoolReport
from torchelastic_otel.demo.summary import AgentReport, Summary, describe

_PREFIX = "torchelastic."
_WIDTH = 110


def render_summary(summary: Summary, failure_files: Sequence[FailureFile]) -> str:
    """What arrived at the embedded receiver, node by node, and the verdict; ends with a line feed."""
    lines = ["", "What arrived", "============"]
    for agent in summary.agents:
        lines += _agent(agent)
    lines += ["", f"Restarts       {_restarts(summary)}", f"First failure  {_failure(summary, failure_files)}"]
    if summary.duplicates:
        lines.append(f"Duplicates     {summary.duplicates} (delivery is at least once; log.record.uid tells them)")
    return "\n".join([*lines, "", *_verdict(summary)]) + "\n"


def render_spools(reports: Sequence[SpoolReport], nodes: Mapping[str, str], endpoint: str) -> tuple[str, bool]:
    """What a real collector accepted, told from the agents' spools.

    Args:
        reports: The spools.
        nodes: The nodes that ran and their protocols.
        endpoint: The collector, for the text.

    Returns:
        The text, which ends with a line feed, and whether everything was accepted.
    """
    lines = ["", f"What {endpoint} accepted", "=" * (14 + len(endpoint))]
    for report in reports:
        accepted = max(0, report.written - report.pending - report.lost)
        lines.append(
            f"{report.node:<14} {accepted} of {report.written} events by {nodes.get(report.node, '-')}"
            f", {report.pending} pending, {report.lost} refused or lost"
        )
    silent = [node for node in nodes if not any(report.node == node and report.written for report in reports)]
    lines += [f"{node:<14} wrote no event" for node in silent]
    complete = not silent and all(report.pending == 0 and report.lost == 0 for report in reports)
    lines += ["", "Everything was accepted." if complete else "NOT everything was accepted."]
    return "\n".join(lines) + "\n", complete


def _agent(agent: AgentReport) -> list[str]:
    written = "?" if agent.written is None else agent.written
    lines = [
        "",
        f"{agent.node}: {agent.arrived} of {written} events by {' and '.join(agent.protocols) or '-'}"
        f" (agent {agent.origin_id})",
    ]
    for who in sorted(agent.counts, key=lambda who: (who != "agent", len(who), who)):
        lines += _counts(who, agent.counts[who])
    return lines


def _counts(who: str, counts: Counter[str]) -> list[str]:
    lines, line = [], f"  {who:<8}"
    for name, count in counts.most_common():
        word = f" {name.removeprefix(_PREFIX)} {count},"
        if len(line) + len(word) > _WIDTH:
            lines.append(line)
            line = " " * 10
        line += word
    return [*lines, line.rstrip(",")]


def _restarts(summary: Summary) -> str:
    rounds = sorted({number for agent in summary.agents for number in agent.rounds})
    failures = ", ".join(f"{agent.node} {agent.restarts}" for agent in summary.agents)
    told = f"rounds {rounds[0]} to {rounds[-1]}" if rounds else "no round known"
    return f"{told}; restarts that an agent's own workers caused: {failures or 'none'}"


def _failure(summary: Summary, files: Sequence[FailureFile]) -> str:
    if summary.failure is not None:
        return _failure_event(summary.failure)
    if files:
        # torch records nothing for a failure that leads to a restart, in every version up to 2.15.
        first = files[0]
        return (
            f"{first.node}, local rank {first.local_rank}: {' '.join(first.error.split())}"
            " (from the worker's error file: torch sends no event for it)"
        )
    return "none"


def _failure_event(record: Received) -> str:
    known = record.attributes
    who = [str(record.resource.get(semconv.HOST_NAME, "-"))]
    for label, attribute in (
        ("rank", semconv.WORKER_RANK),
        ("exit code", semconv.PROCESS_EXIT_CODE),
        ("signal", semconv.WORKER_SIGNAL),
    ):
        if attribute in known:
            who.append(f"{label} {known[attribute]}")
    kind = known.get(semconv.EXCEPTION_TYPE, known.get(semconv.ERROR_TYPE))
    message = known.get(semconv.EXCEPTION_MESSAGE, record.body)
    inferred = " (inferred: torch sends no event for it)" if known.get(semconv.INFERRED) else ""
    text = " ".join(f"{kind}: {message}".split()) if kind else " ".join(str(message).split())
    return f"{', '.join(who)}: {text}{inferred}"


def _verdict(summary: Summary) -> list[str]:
    total = sum(agent.arrived for agent in summary.agents)
    if summary.complete:
        return [f"Nothing is missing: {total} events of {len(summary.agents)} agents, each that their spools hold."]
    lines = ["SOMETHING IS MISSING:"]
    lines += [f"  nothing arrived from {node}" for node in summary.silent_nodes]
    lines += [
        f"  {agent.node}: {describe(agent.missing)}, of {agent.written} events"
        for agent in summary.agents
        if agent.missing and agent.arrived
    ]
    lines += [f"  {agent.node}: its spool cannot be read" for agent in summary.agents if agent.written is None]
    if summary.without_uid:
        lines.append(f"  {summary.without_uid} records without a log.record.uid: no telling what is missing")
    return lines
