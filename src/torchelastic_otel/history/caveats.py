"""Sentences for a person: what was inferred and what is unknown; and numbers and names in groups.

Guarantees: one sentence for each kind of doubt, however many nodes and rounds it applies to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.failures import Losses
from torchelastic_otel.history.types import LeftReason, Outcome, Round, Run
from torchelastic_otel.model.phases import Phase

_MOST: Final = 8
_STORE: Final = "store"
"""``Failure.inferred_from`` of a cause that all agents agreed on."""
_Doubt = tuple[str, str]
"""The text before and after the round numbers that a doubt applies to."""


def ranges(numbers: Iterable[int], most: int = _MOST) -> str:
    """``0-37,39``: the numbers as ranges, each once, rising; of more than ``most`` ranges the first, and a count."""
    groups: list[list[int]] = []
    for number in sorted(set(numbers)):
        if groups and number == groups[-1][1] + 1:
            groups[-1][1] = number
        else:
            groups.append([number, number])
    shown = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in groups[:most])
    if len(groups) <= most:
        return shown
    return f"{shown},... ({sum(last - first + 1 for first, last in groups)} of them)"


def names_of(names: Sequence[str], most: int = _MOST) -> str:
    """``a, b and 6 more``: the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def inferred(
    run: Run, agents: Sequence[AgentHistory], by_time: Sequence[AgentHistory], losses: Losses
) -> tuple[str, ...]:
    """What was derived, and from what.

    Args:
        run: The run.
        agents: Its agents.
        by_time: Those that belong to it only because their time overlaps that of the others.
        losses: Its lost nodes.
    """
    sentences = []
    if run.nonce is None and len(agents) > 1:
        sentences.append(
            f"{len(agents)} nodes are treated as one run because they share the run id {run.run_id!r} and overlap in"
            " time; they agreed on no nonce that would confirm it"
        )
    elif by_time:
        sentences.append(
            f"{_named(by_time)} did not agree on the nonce of this run with the others; assigned to it by time"
        )
    if run.backend == "static" and len(run.rounds) > 1:
        sentences.append(
            "round numbers are each node's own count: with the static backend, nodes restart independently"
        )
    untimed = [r.round for r in run.rounds if r.training_ns is not None and not _has_training_report(r)]
    if untimed:
        sentences.append(
            f"in {_rounds(untimed)}, training is counted from the start of the workers: no worker reported its first"
            " step (torchelastic_otel.training_started)"
        )
    torch_only = [agent for agent in agents if not agent.has_phase_events and agent.rounds]
    if torch_only:
        sentences.append(
            f"the phases of {_named(torch_only)} are inferred from torch's own events: detecting and stopping are"
            " counted as training there"
        )
    lost = [(loss.round, loss.node_id) for loss in losses.values() if loss.source == "stream"]
    lost += [
        (agent.last_round, agent.name)
        for agent in agents
        if agent.has_vanished and agent.node_id is None and agent.last_round is not None
    ]
    if lost:
        are, their = ("is", "its") if len(lost) == 1 else ("are", "their")
        names, numbers = [name for _, name in sorted(lost)], [number for number, _ in lost]
        sentences.append(
            f"{names_of(names)} {are} considered lost in {_rounds(numbers)} because {their} events stop without an end"
        )
    decided = [
        r.round
        for r in run.rounds
        if r.first_failure is not None and r.first_failure.inferred_from != _STORE and len(r.nodes) > 1
        and not (r.restart is not None and r.restart.agreed)
    ]  # fmt: skip
    if decided:
        sentences.append(
            f"the first failure in {_rounds(decided)} was determined by the times of the nodes whose events are"
            " available"
        )
    return tuple(sentences)


def unknown(
    run: Run, agents: Sequence[AgentHistory], open_ended: Sequence[AgentHistory], notes: Iterable[str]
) -> tuple[str, ...]:
    """What the events do not reveal.

    Args:
        run: The run.
        agents: Its agents.
        open_ended: Those of them with an unknown duration.
        notes: Sentences about missing data.
    """
    sentences = _missing_events(run)
    if run.outcome == Outcome.UNKNOWN:
        sentences.append(_why_no_outcome(run, agents))
    if any(agent.rounds for agent in open_ended):
        names = _named(open_ended)
        sentences.append(f"the effective training time: no event shows how long {names} continued after the last event")
    sentences += _by_rounds((doubt, round_.round) for round_ in run.rounds for doubt in _doubts(round_, agents))
    for why in sorted({agent.end.why_unknown for agent in agents} - {""}):
        sentences.append(f"how {_named([agent for agent in agents if agent.end.why_unknown == why])} ended: {why}")
    if run.outcome != Outcome.SUCCEEDED:
        sentences += _why_they_lost_the_others(agents)
    if any(agent.times[0] is None for agent in agents):
        sentences.append("times: recordings of torch's own JSON have none; captures, spools and OTLP do")
    if run.rounds and run.rounds[0].round > 0:
        sentences.append(f"rounds before {run.rounds[0].round}: their events are missing")
    return (*sentences, *notes)


def _has_training_report(round_: Round) -> bool:
    return any(worker.training_ns is not None for node in round_.nodes for worker in node.workers)


def _missing_events(run: Run) -> list[str]:
    sentences = []
    without = [member for member in run.nodes if not member.has_events]
    if without:
        names = names_of([member.node_id or "?" for member in without])
        sentences.append(f"the events of {len(without)} of {len(run.nodes)} nodes are missing: {names}")
    all_ranks = {node.group_rank for round_ in run.rounds for node in round_.nodes}
    absent: list[tuple[_Doubt, int]] = []
    for round_ in run.rounds:
        # with the static backend a round number is each agent's own count
        ranks = all_ranks if run.backend == "static" else {node.group_rank for node in round_.nodes}
        if round_.world_size is not None and len(ranks) < round_.world_size:
            missing = [rank for rank in range(round_.world_size) if rank not in ranks]
            which = f"{'node' if len(missing) == 1 else 'nodes'} {ranges(missing)}"
            absent.append((("", f" had {round_.world_size} nodes; there are no events of {which}"), round_.round))
    return sentences + _by_rounds(absent)


def _why_no_outcome(run: Run, agents: Sequence[AgentHistory]) -> str:
    if not run.rounds and agents and all(agent.standby_ns or agent.wait_listed_ns for agent in agents):
        were = "was" if len(agents) == 1 else "were"
        return f"how the run went: {_named(agents)} {were} only on standby, or waited for a place"
    endless = [agent for agent in agents if agent.is_open and not agent.has_vanished]
    if endless:
        return f"how the run ended: the events of {_named(endless)} stop without an end; it may still be running"
    return "how the run ended: some of its nodes are missing; the available ones did not fail"


def _why_they_lost_the_others(agents: Sequence[AgentHistory]) -> list[str]:
    groups: dict[tuple[str, str], list[AgentHistory]] = {}
    for agent in agents:
        if agent.end.lost_the_others and agent.end.outcome == Outcome.FAILED:
            lost = "lost" if agent.rounds else "did not reach"
            groups.setdefault((lost, agent.end.error_type or ""), []).append(agent)
    return [
        f"why {_named(group)} {lost} the others: {'it' if len(group) == 1 else 'they'} ended with {error},"
        " which does not give the reason"
        for (lost, error), group in groups.items()
    ]


def _by_rounds(doubts: Iterable[tuple[_Doubt, int]]) -> list[str]:
    """One sentence for each doubt, with all its rounds."""
    groups: dict[_Doubt, list[int]] = {}
    for doubt, number in doubts:
        groups.setdefault(doubt, []).append(number)
    return [f"{before}{_rounds(numbers)}{behind}" for (before, behind), numbers in groups.items()]


def _doubts(round_: Round, agents: Sequence[AgentHistory]) -> Iterator[_Doubt]:
    number, first, restart = round_.round, round_.first_failure, round_.restart
    agreed = restart is not None and restart.agreed
    if first is not None and first.ambiguous:
        why = "no event has the time" if first.at_ns is None else "others are within the error of the clock readings"
        yield "which failure came first in ", f": {why}"
    lost = [node for node in round_.nodes if node.left_reason == LeftReason.LOST and node.left_ns is None]
    if lost and first is not None and first.kind != "node_lost" and not agreed:
        were = "was" if len(lost) == 1 else "were"
        names = names_of([node.node_id or node.host or "?" for node in lost])
        yield f"whether {names} {were} lost before the first failure in ", ": there are no heartbeats"
    rose = [node for node in round_.nodes if node.left_reason == LeftReason.WORKER_FAILURE and not node.failures]
    if rose and first is not None and not agreed:
        yield f"when the workers of {len(rose)} of its nodes failed in ", ": torch records no event for that"
    if restart is not None and first is None:
        if restart.reason == "worker_failure":
            yield "which worker failed in ", ": torch records no event for a failure that leads to a restart"
        elif restart.reason == "unknown":
            yield "why ", " ended: no available event has the reason"
    phases = [phase for phase, took in restart.phases.items() if took is None] if restart else []
    if phases:
        yield f"how long {', '.join(phases)} took in the restart after ", ""
    members = [agent for agent in agents if number in agent.rounds]
    gaps = [
        agent
        for agent in members
        if any(i.round == number and i.end_ns is None and i is not agent.phases[-1] for i in agent.phases)
    ]
    if gaps:
        yield "when phases of ", f" ended on {_named(gaps)}: events are missing"
    if round_.world_size is None and round_.missing_count > len(round_.missing):
        yield f"the identity of {round_.missing_count - len(round_.missing)} of the missing nodes of ", ""
    if round_.outcome == Outcome.FAILED and first is None and restart is None:
        ends = {node.left_reason.value for node in round_.nodes if node.left_reason is not None}
        if not ends <= {"terminated", "succeeded"}:
            yield "what failed first in ", ": no available event has it"
    running = any(i.phase == Phase.RUNNING for agent in members for i in agent.phases if i.round == number)
    if members and not running and round_.outcome != Outcome.RUNNING:
        yield "when workers ran in ", ""


def _rounds(numbers: Sequence[int]) -> str:
    return f"round {numbers[0]}" if len(set(numbers)) == 1 else f"rounds {ranges(numbers)}"


def _named(agents: Sequence[AgentHistory]) -> str:
    return names_of([agent.name for agent in agents])
