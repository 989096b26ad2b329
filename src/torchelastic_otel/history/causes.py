"""What failed first in a round, and what only fell with it.

What always holds: the cause that the agents agreed on wins; else the failures of all nodes are merged and the
earliest holds, one whose error bound reaches back to it makes it ambiguous; a node that was lost and last heard of
before the failure comes before it; an agent that died of losing the others is never the cause. Who an agent stopped is
a victim where something failed, and nobody's victim where nothing did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torchelastic_otel.history.agent_history import AgentHistory
from torchelastic_otel.history.lost_nodes import LostNode
from torchelastic_otel.history.outcomes import SIGNALLED
from torchelastic_otel.history.reports import RestartReport
from torchelastic_otel.history.types import Failure, Outcome
from torchelastic_otel.model.phases import Phase

_NEVER: Final = 1 << 63
_STOPPED: Final = ("SIGTERM", "SIGKILL")


@dataclass(frozen=True, slots=True)
class RoundFailures:
    """Why a round ended.

    Attributes:
        cause: What failed first; ``None`` where nothing did, or nobody told.
        victims: What else failed, or was stopped since something had; each worker once, by time.
        agreed: What the agents agreed on, or one of them held; ``None`` where none said anything.
    """

    cause: Failure | None
    victims: tuple[Failure, ...]
    agreed: RestartReport | None


def round_failures(
    round_: int, courses: Sequence[AgentHistory], losses: Iterable[LostNode], told: Sequence[RestartReport]
) -> RoundFailures:
    """Why a round ended.

    Args:
        round_: Its number.
        courses: The agents that were in it.
        losses: Nodes that were lost in it.
        told: What agents said after the next join of why it ended.
    """
    failures = [failure for course in courses for failure in course.parts[round_].failures.values()]
    failures += [
        failure for course in courses if course.last_round == round_ and (failure := _of_the_agent(course)) is not None
    ]
    failures.sort(key=_order)
    agreed = _best(told)
    if agreed is not None and agreed.agreed and agreed.cause is not None:
        cause = _fuller(agreed.cause, failures)
    elif agreed is not None and agreed.agreed and agreed.reason in ("membership_change", "node_left"):
        cause = None
    else:
        cause = _earliest(failures, [_of_loss(loss) for loss in losses])
        cause = cause or (agreed.cause if agreed is not None else None)
        if cause is not None and any(_left_before(course, round_, cause) for course in courses):
            cause = None
    if cause is not None and cause.kind == "node_lost":
        # others know it by its address; where its own events are here, so is its name
        hosts = {course.agent.node_id: course.agent.origin.host_name for course in courses}
        cause = replace(cause, host=hosts.get(cause.node_id, cause.host))
    if cause is not None:
        failures += [failure for course in courses for failure in _stopped_workers(course, round_)]
        failures.sort(key=_order)
    return RoundFailures(cause, tuple(failure for failure in failures if not _same(failure, cause)), agreed)


def _stopped_workers(course: AgentHistory, round_: int) -> list[Failure]:
    """The workers that fell while its agent stopped them: by a signal, or not well; none of them is told as failed."""
    part = course.parts[round_]
    stops = [s.start_ns for s in course.stretches if (s.round, s.phase) == (round_, Phase.STOP) and s.start_ns]
    began_ns = min(stops, default=0)
    return [
        replace(failure, group_rank=part.group_rank, error_type=failure.error_type or failure.signal or "exit")
        for key, failure in part.fallen.items()
        if key not in part.failures and _at(failure) >= began_ns
    ]


def _left_before(course: AgentHistory, round_: int, cause: Failure) -> bool:
    """Whether an agent was told to end before the failure, which then is what its going did to the others."""
    leaving_ns = course.end.leaving_ns
    return course.last_round == round_ and leaving_ns is not None and leaving_ns <= _at(cause)


def _best(told: Sequence[RestartReport]) -> RestartReport | None:
    """What all agreed on before what one held, who speaks for the job before who does not, an ended restart first."""
    return max(
        told,
        key=lambda each: (each.agreed, each.writer, bool(each.phases), each.reason != "unknown", repr(each)),
        default=None,
    )


def _order(failure: Failure) -> tuple[int, int, int, str]:
    at_ns = _NEVER if failure.at_ns is None else failure.at_ns
    return at_ns, _stopped(failure), failure.rank if failure.rank is not None else _NEVER, failure.node_id or ""


def _stopped(failure: Failure) -> int:
    """Whether it looks like a worker that an agent stopped: torch tells those as failed, too (2.13)."""
    return int(failure.inferred_from == "torch" and failure.signal in _STOPPED)


def _earliest(failures: Sequence[Failure], lost: Sequence[Failure]) -> Failure | None:
    candidates = [failure for failure in failures if not _stopped(failure)] or list(failures)
    first = candidates[0] if candidates else None
    gone = min(lost, key=_order, default=None)
    if gone is not None and (first is None or (gone.at_ns is not None and gone.at_ns <= _at(first))):
        return replace(gone, ambiguous=any(other is not gone and other.at_ns is None for other in lost))
    if first is None:
        return None
    doubt = any(
        other is not first and (other.error_ns is None or _at(other) - other.error_ns <= _at(first))
        for other in candidates
    )
    return replace(first, ambiguous=first.ambiguous or doubt)


def _at(failure: Failure) -> int:
    return _NEVER if failure.at_ns is None else failure.at_ns


def _of_loss(loss: LostNode) -> Failure:
    said = "its last heartbeat" if loss.source == "heartbeat" else "the last that is told of it"
    return Failure(
        kind="node_lost",
        host=loss.node_id.rsplit("_", 2)[0],
        node_id=loss.node_id,
        group_rank=loss.group_rank,
        error_type="node_lost",
        message="the node was lost" + (f"; {said} is its time here" if loss.heard_ns is not None else ""),
        at_ns=loss.heard_ns,
        inferred_from=loss.source,
    )


def _of_the_agent(course: AgentHistory) -> Failure | None:
    """What an agent raised itself; what it was told by a signal, or by losing the others, is no cause."""
    end = course.end
    if end.outcome != Outcome.FAILED or end.error_type in (None, SIGNALLED) or end.is_victim:
        return None
    last = course.parts[course.last_round] if course.last_round is not None else None
    return Failure(
        kind="agent_error",
        host=course.agent.origin.host_name,
        node_id=course.agent.node_id,
        group_rank=last.group_rank if last is not None else None,
        pid=course.agent.origin.pid or None,
        error_type=end.error_type,
        message=end.message,
        at_ns=end.at_ns,
        inferred_from="agent",
    )


def agents_error(courses: Sequence[AgentHistory]) -> Failure | None:
    """What made a rendezvous fail that never formed a round."""
    return _earliest(sorted((e for course in courses if (e := _of_the_agent(course)) is not None), key=_order), [])


def _same(failure: Failure, cause: Failure | None) -> bool:
    if cause is None or failure.node_id != cause.node_id:
        return False
    if failure.node_id is None and failure.host != cause.host:
        return False  # static and etcd have no node ids, and containers the same process ids
    if (failure.kind == "agent_error") != (cause.kind == "agent_error"):
        return False
    if failure.pid is not None and cause.pid is not None:
        return failure.pid == cause.pid
    return failure.rank is not None and failure.rank == cause.rank


def _fuller(cause: Failure, failures: Iterable[Failure]) -> Failure:
    """The agreed cause, with what its own node says beside: the traceback, and what it was inferred from."""
    own = next((failure for failure in failures if _same(failure, cause)), None)
    if own is None:
        return cause
    missing = {name: getattr(own, name) for name in Failure.__slots__ if getattr(cause, name) is None}
    missing |= {"kind": own.kind, "host": own.host or cause.host}
    return replace(cause, **missing, inferred_from=own.inferred_from or cause.inferred_from)
