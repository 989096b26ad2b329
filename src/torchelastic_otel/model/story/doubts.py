"""What the events cannot tell, and what was derived rather than told: sentences for the person who reads the story."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.story.agents import STORE
from torchelastic_otel.model.story.course import Course
from torchelastic_otel.model.story.losses import Loss
from torchelastic_otel.model.story.ranges import ranges
from torchelastic_otel.model.story.types import LeftReason, Outcome, Round, Run

_MOST = 8
"""Nodes that are named in one sentence."""


def inferred(
    run: Run, courses: Sequence[Course], by_time: Sequence[Course], losses: Mapping[tuple[str, int], Loss]
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
    for loss in sorted(losses.values(), key=lambda loss: (loss.round, loss.node_id)):
        if loss.source == "stream":
            said.append(f"{loss.node_id} is held for lost in round {loss.round} since its events stop without an end")
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


def unknown(run: Run, courses: Sequence[Course], notes: Iterable[str]) -> tuple[str, ...]:
    """What the events cannot tell."""
    said: list[str] = []
    said += _missing_files(run)
    if run.outcome == Outcome.UNKNOWN:
        said.append(_why_no_outcome(run, courses))
    for round_ in run.rounds:
        said += _of_round(round_, courses)
    for course in courses:
        if course.end.why_unknown:
            said.append(f"how {course.agent.name} ended: {course.end.why_unknown}")
        if course.end.is_victim and course.end.outcome == Outcome.FAILED and run.outcome != Outcome.SUCCEEDED:
            lost = "lost" if course.parts else "did not reach"
            said.append(
                f"why {course.agent.name} {lost} the others: it ended with {course.end.error_type}, which does not say"
            )
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
        names = ", ".join(member.node_id or "?" for member in untold[:_MOST])
        more = f" and {len(untold) - _MOST} more" if len(untold) > _MOST else ""
        said.append(f"the events of {len(untold)} of {len(run.nodes)} nodes are not here: {names}{more}")
    everywhere = {node.group_rank for round_ in run.rounds for node in round_.nodes}
    for round_ in run.rounds:
        # under static a round is each agent's own count
        ranks = everywhere if run.backend == "static" else {node.group_rank for node in round_.nodes}
        if round_.world_size is not None and len(ranks) < round_.world_size:
            absent = [rank for rank in range(round_.world_size) if rank not in ranks]
            said.append(
                f"round {round_.round} had {round_.world_size} nodes; nothing is here of nodes {ranges(absent)}"
            )
    return said


def _why_no_outcome(run: Run, courses: Sequence[Course]) -> str:
    if not run.rounds and courses and all(course.stood_by_ns or course.waited_ns for course in courses):
        return f"how the run went: {_named(courses)} only stood by, or waited for a place in it"
    endless = [course for course in courses if course.end.at_ns is None and course.end.outcome == Outcome.UNKNOWN]
    if endless:
        return f"how the run ended: the events of {_named(endless)} stop without an end; it may still run"
    return "how the run ended: not all of its nodes are here; those that are did not fail"


def _of_round(round_: Round, courses: Sequence[Course]) -> list[str]:
    said = []
    number = round_.round
    if round_.first_failure is not None and round_.first_failure.ambiguous:
        said.append(f"which failure came first in round {number}: others lie within the error of the clock readings")
    rose = [node for node in round_.nodes if node.left_reason == LeftReason.WORKER_FAILURE and not node.failures]
    if rose and round_.first_failure is not None and not (round_.restart is not None and round_.restart.agreed):
        said.append(
            f"when the workers of {len(rose)} of its nodes failed in round {number}: torch records no event for that"
        )
    if round_.restart is not None and round_.first_failure is None:
        if round_.restart.reason == "worker_failure":
            said.append(
                f"which worker failed in round {number}: torch records no event for a failure that leads to a restart"
            )
        elif round_.restart.reason == "unknown":
            said.append(f"why round {number} ended: what is here does not tell")
    steps = [phase for phase, took in round_.restart.phases.items() if took is None] if round_.restart else []
    if steps:
        said.append(f"how long {', '.join(steps)} took in the restart after round {number}")
    here = [course for course in courses if number in course.parts]
    gaps = [
        course
        for course in here
        if any(s.round == number and s.end_ns is None and s is not course.stretches[-1] for s in course.stretches)
    ]
    if gaps:
        said.append(f"when phases of round {number} ended on {_named(gaps)}: events are missing")
    if round_.world_size is None and round_.missing_count > len(round_.missing):
        said.append(f"who {round_.missing_count - len(round_.missing)} of the missing nodes of round {number} are")
    if round_.outcome == Outcome.FAILED and round_.first_failure is None and round_.restart is None:
        ends = {node.left_reason.value for node in round_.nodes if node.left_reason is not None}
        if not ends <= {"terminated", "succeeded"}:
            said.append(f"what failed first in round {number}: no event here tells")
    running = any(s.phase == Phase.RUNNING for course in here for s in course.stretches if s.round == number)
    if here and not running and round_.outcome != Outcome.RUNNING:
        said.append(f"when workers ran in round {number}")
    return said


def _rounds(numbers: Sequence[int]) -> str:
    return f"round {numbers[0]}" if len(numbers) == 1 else f"rounds {ranges(numbers)}"


def _named(courses: Sequence[Course]) -> str:
    names = ", ".join(course.agent.name for course in courses[:_MOST])
    return names + (f" and {len(courses) - _MOST} more" if len(courses) > _MOST else "")
