"""How a round was followed by the next: why, the how-manieth restart of the job it was, and how long each step took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.causes import RoundFailures
from torchelastic_otel.history.reports import Changed, RestartReport
from torchelastic_otel.history.types import LeftReason, Restart, Round
from torchelastic_otel.model.phases import RESTART_PHASES, Phase


def restart_after(
    round_: Round, following: int, here: Sequence[AgentHistory], courses: Sequence[AgentHistory], verdict: RoundFailures
) -> Restart:
    """The restart that ended a round.

    Args:
        round_: The round, as far as it is known.
        following: The number of the next one.
        here: The agents that were in the round.
        courses: All agents of the run.
        verdict: Why it ended.
    """
    told = verdict.agreed
    agreed = told is not None and told.agreed and told.reason != "unknown"
    reason = told.reason if told is not None and agreed else _reason(round_, following, here, courses, verdict)
    completed = _completed(following, courses, verdict)
    if completed is not None:
        phases = dict(completed.phases)
        duration_ns = completed.duration_ns
    else:
        phases = _phases(round_, following, here)
        known = [duration for duration in phases.values() if duration is not None]
        duration_ns = sum(known) if len(known) == len(RESTART_PHASES) else None
    indices = [
        report.index
        for course in courses
        for report in course.reports
        if isinstance(report, RestartReport) and report.round == following and report.index is not None
    ]
    return Restart(reason, max(indices, default=None), agreed, phases, duration_ns)


def _reason(
    round_: Round, following: int, here: Sequence[AgentHistory], courses: Iterable[AgentHistory], verdict: RoundFailures
) -> str:
    """The reason as the events of all nodes tell it; one node's own view where they do not."""
    if verdict.cause is not None:
        return "node_lost" if verdict.cause.kind == "node_lost" else "worker_failure"
    reasons = {node.left_reason for node in round_.nodes}
    left = reasons & {LeftReason.TERMINATED, LeftReason.LEFT}
    if LeftReason.WORKER_FAILURE in reasons and not left:
        return "worker_failure"
    if LeftReason.LOST in reasons:
        return "node_lost"
    if left or any(report.left for report in _changes(following, courses)):
        return "node_left"
    before = {node.node_id for node in round_.nodes}
    new = {course.agent.node_id for course in courses if following in course.parts} - before
    if new or any(report.joined for report in _changes(following, courses)):
        return "membership_change"
    if verdict.agreed is not None and verdict.agreed.reason != "unknown":
        return verdict.agreed.reason
    # all that are here saw a change from elsewhere: what it was is in the files that are missing
    return (
        "unknown"
        if any(not node.told for node in round_.nodes) or len(here) < (round_.world_size or 0)
        else ("membership_change" if LeftReason.MEMBERSHIP_CHANGE in reasons else "unknown")
    )


def _changes(number: int, courses: Iterable[AgentHistory]) -> list[Changed]:
    return [
        report
        for course in courses
        for report in course.reports
        if isinstance(report, Changed) and report.round == number
    ]


def _completed(following: int, courses: Iterable[AgentHistory], verdict: RoundFailures) -> RestartReport | None:
    """The restart as the node of the failure told it: only there something was detected.

    Else as the agent that speaks for the job told it, else as the slowest one did.
    """
    told = [
        (verdict.cause is not None and course.is_node_of(verdict.cause), report)
        for course in courses
        for report in course.reports
        if isinstance(report, RestartReport)
        and report.round == following
        and any(took is not None for _, took in report.phases)
    ]
    best = max(told, key=lambda each: (each[0], each[1].writer, each[1].duration_ns or 0, repr(each[1])), default=None)
    return None if best is None else best[1]


def _phases(round_: Round, following: int, here: Sequence[AgentHistory]) -> dict[str, int | None]:
    """The steps of the node whose failure it was; else of the first that went on."""
    cause = round_.first_failure
    went_on = [course for course in here if following in course.parts]
    if not went_on:
        return dict.fromkeys(RESTART_PHASES)
    course = next((course for course in went_on if cause is not None and course.is_node_of(cause)), went_on[0])
    phases: dict[str, int | None] = dict.fromkeys(RESTART_PHASES)
    for stretch in course.stretches:
        own = (stretch.phase in (Phase.DETECT, Phase.STOP) and stretch.round == round_.round) or (
            stretch.phase in (Phase.RENDEZVOUS, Phase.ASSIGN_RANKS, Phase.START) and stretch.round == following
        )
        if own and stretch.duration_ns is not None:
            phases[stretch.phase.value] = (phases[stretch.phase.value] or 0) + stretch.duration_ns
    if course.ours and phases["stop"] is not None and phases["detect"] is None:
        phases["detect"] = 0  # nothing of its own had failed: there was nothing to detect
    return phases
