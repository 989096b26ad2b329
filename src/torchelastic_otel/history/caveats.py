"""What the events cannot tell, and what was derived rather than told: sentences for the person who reads the story.

What always holds: there is one sentence for each kind of doubt, however many nodes and rounds it is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.agents import STORE
from torchelastic_otel.history.lost_nodes import LostNode
from torchelastic_otel.history.ranges import named, ranges
from torchelastic_otel.history.types import LeftReason, Outcome, Round, Run
from torchelastic_otel.model.phases import Phase


def inferred(
    run: Run,
    courses: Sequence[AgentHistory],
    by_time: Sequence[AgentHistory],
    losses: Mapping[tuple[str, int], LostNode],
) -> tuple[str, ...]:
    """What was derived, and from what."""
    said = []
    if run.nonce is None and len(courses) > 1:
        said.append(
            f"{len(courses)} nodes are taken for one run since they share the run id {run.run_id!r} and lived at the"
            " same time; nothing they agreed on says so"
        )
    elif by_time:
        said.append(f"{_named(by_time)} did not agree with the others on what tells this run from others of its name;"
                    " taken for part of it by time")  # fmt: skip
    if run.backend == "static" and len(run.rounds) > 1:
        said.append("rounds are each node's own count: under static, nodes restart without telling the others")
    trained = [r for r in run.rounds if r.training_ns is not None]
    untold = [r.round for r in trained if not _training_is_told(r)]
    if untold:
        said.append(
            f"in {_rounds(untold)}, training is counted from when the workers ran: no worker told of its first step"
            " (torchelastic_otel.training_started)"
        )
    torchs = [course for course in courses if not course.ours and course.parts]
    if torchs:
        said.append(
            f"the phases of {_named(torchs)} are inferred from torch's own events: detecting and stopping are within"
            " the time of training there"
        )
    held = [(loss.round, loss.node_id) for loss in losses.values() if loss.source == "stream"]
    held += [
        (course.last_round, course.agent.name)
        for course in courses
        if course.is_gone and course.agent.node_id is None and course.last_round is not None
    ]
    if held:
        are, their = ("is", "its") if len(held) == 1 else ("are", "their")
        names, numbers = [name for _, name in sorted(held)], [number for number, _ in held]
        said.append(
            f"{named(names)} {are} held for lost in {_rounds(numbers)} since {their} events stop without an end"
        )
    decided = [
        r.round
        for r in run.rounds
        if r.first_failure is not None and r.first_failure.inferred_from != STORE and len(r.nodes) > 1
        and not (r.restart is not None and r.restart.agreed)
    ]  # fmt: skip
    if decided:
        said.append(
            f"what failed first in {_rounds(decided)} was decided by the times of the nodes whose events are here"
        )
    return tuple(said)


def unknown(
    run: Run, courses: Sequence[AgentHistory], silent: Sequence[AgentHistory], notes: Iterable[str]
) -> tuple[str, ...]:
    """What the events cannot tell.

    Args:
        run: The run, as far as it is known.
        courses: Its agents.
        silent: Those of them of which nobody knows how long they went on.
        notes: What is known to be missing.
    """
    said: list[str] = []
    said += _missing_files(run)
    if run.outcome == Outcome.UNKNOWN:
        said.append(_why_no_outcome(run, courses))
    if any(course.parts for course in silent):
        said.append(f"the effective training time: how long {_named(silent)} went on after the last event is not told")
    said += _by_rounds((each, round_.round) for round_ in run.rounds for each in _of_round(round_, courses))
    for why in sorted({course.end.why_unknown for course in courses} - {""}):
        said.append(f"how {_named([course for course in courses if course.end.why_unknown == why])} ended: {why}")
    if run.outcome != Outcome.SUCCEEDED:
        said += _why_they_lost_the_others(courses)
    if any(course.agent.times[0] is None for course in courses):
        said.append("times: the recordings of torch's own JSON carry none; captures, spools and OTLP do")
    if run.rounds and run.rounds[0].round > 0:
        said.append(f"rounds before {run.rounds[0].round}: no event of them is here")
    return (*said, *notes)


def _training_is_told(round_: Round) -> bool:
    return any(worker.training_ns is not None for node in round_.nodes for worker in node.workers)


def _missing_files(run: Run) -> list[str]:
    said = []
    untold = [member for member in run.nodes if not member.told]
    if untold:
        names = named([member.node_id or "?" for member in untold])
        said.append(f"the events of {len(untold)} of {len(run.nodes)} nodes are not here: {names}")
    everywhere = {node.group_rank for round_ in run.rounds for node in round_.nodes}
    absent: list[tuple[_Doubt, int]] = []
    for round_ in run.rounds:
        # under static a round is each agent's own count
        ranks = everywhere if run.backend == "static" else {node.group_rank for node in round_.nodes}
        if round_.world_size is not None and len(ranks) < round_.world_size:
            missing = ranges(rank for rank in range(round_.world_size) if rank not in ranks)
            absent.append((("", f" had {round_.world_size} nodes; nothing is here of nodes {missing}"), round_.round))
    return said + _by_rounds(absent)


def _why_no_outcome(run: Run, courses: Sequence[AgentHistory]) -> str:
    if not run.rounds and courses and all(course.stood_by_ns or course.waited_ns for course in courses):
        return f"how the run went: {_named(courses)} only stood by, or waited for a place in it"
    endless = [course for course in courses if course.is_open and not course.is_gone]
    if endless:
        return f"how the run ended: the events of {_named(endless)} stop without an end; it may still run"
    return "how the run ended: not all of its nodes are here; those that are did not fail"


def _why_they_lost_the_others(courses: Sequence[AgentHistory]) -> list[str]:
    groups: dict[tuple[str, str], list[AgentHistory]] = {}
    for course in courses:
        if course.end.is_victim and course.end.outcome == Outcome.FAILED:
            lost = "lost" if course.parts else "did not reach"
            groups.setdefault((lost, course.end.error_type or ""), []).append(course)
    return [
        f"why {_named(group)} {lost} the others: {'it' if len(group) == 1 else 'they'} ended with {error},"
        " which does not say"
        for (lost, error), group in groups.items()
    ]


_Doubt = tuple[str, str]
"""What stands before and behind the numbers of the rounds that a doubt is of."""


def _by_rounds(doubts: Iterable[tuple[_Doubt, int]]) -> list[str]:
    """One sentence for each doubt, of all its rounds."""
    groups: dict[_Doubt, list[int]] = {}
    for doubt, number in doubts:
        groups.setdefault(doubt, []).append(number)
    return [f"{before}{_rounds(numbers)}{behind}" for (before, behind), numbers in groups.items()]


def _of_round(round_: Round, courses: Sequence[AgentHistory]) -> Iterator[_Doubt]:
    number, first, restart = round_.round, round_.first_failure, round_.restart
    if first is not None and first.ambiguous:
        within = "nobody tells when" if first.at_ns is None else "others lie within the error of the clock readings"
        yield "which failure came first in ", f": {within}"
    gone = [node for node in round_.nodes if node.left_reason == LeftReason.LOST and node.left_ns is None]
    if gone and first is not None and first.kind != "node_lost" and not (restart is not None and restart.agreed):
        names = named([node.node_id or node.host or "?" for node in gone])
        yield (
            f"whether {names} {'was' if len(gone) == 1 else 'were'} lost before what failed first in ",
            ": no heartbeat is here",
        )
    rose = [node for node in round_.nodes if node.left_reason == LeftReason.WORKER_FAILURE and not node.failures]
    if rose and first is not None and not (restart is not None and restart.agreed):
        yield f"when the workers of {len(rose)} of its nodes failed in ", ": torch records no event for that"
    if restart is not None and first is None:
        if restart.reason == "worker_failure":
            yield "which worker failed in ", ": torch records no event for a failure that leads to a restart"
        elif restart.reason == "unknown":
            yield "why ", " ended: what is here does not tell"
    steps = [phase for phase, took in restart.phases.items() if took is None] if restart else []
    if steps:
        yield f"how long {', '.join(steps)} took in the restart after ", ""
    here = [course for course in courses if number in course.parts]
    gaps = [
        course
        for course in here
        if any(s.round == number and s.end_ns is None and s is not course.stretches[-1] for s in course.stretches)
    ]
    if gaps:
        yield "when phases of ", f" ended on {_named(gaps)}: events are missing"
    if round_.world_size is None and round_.missing_count > len(round_.missing):
        yield f"who {round_.missing_count - len(round_.missing)} of the missing nodes of ", " are"
    if round_.outcome == Outcome.FAILED and first is None and restart is None:
        ends = {node.left_reason.value for node in round_.nodes if node.left_reason is not None}
        if not ends <= {"terminated", "succeeded"}:
            yield "what failed first in ", ": no event here tells"
    running = any(s.phase == Phase.RUNNING for course in here for s in course.stretches if s.round == number)
    if here and not running and round_.outcome != Outcome.RUNNING:
        yield "when workers ran in ", ""


def _rounds(numbers: Sequence[int]) -> str:
    return f"round {numbers[0]}" if len(set(numbers)) == 1 else f"rounds {ranges(numbers)}"


def _named(courses: Sequence[AgentHistory]) -> str:
    return named([course.agent.name for course in courses])
