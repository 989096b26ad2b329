"""Reports in single events: attributes by type, a worker's failure, lost and missing nodes, membership, restarts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history.types import AgentEvents, Failure, MissingNode
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.node_id import address_of
from torchelastic_otel.model.phases import RESTART_PHASES
from torchelastic_otel.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class LostReport:
    """An agent considers a node lost.

    Attributes:
        round: The agent's round.
    """

    round: int | None
    node_id: str
    group_rank: int | None = None
    heartbeat_ns: int | None = None


@dataclass(frozen=True, slots=True)
class MembershipReport:
    """The membership changed.

    Attributes:
        round: The new round.
    """

    round: int | None
    joined: tuple[str, ...]
    left: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RestartReport:
    """The job restarted.

    Attributes:
        reason: As on ``torchelastic.restart.reason``.
        agreed: Whether all agents agreed on it.
        is_reporter: Whether this agent is the job reporter of the new round.
        cause: What failed first; ``None`` if the reason is not a failure.
        phases: Durations; empty if the restart is not complete.
        last_joiner: Node id of the node that joined last.
    """

    round: int | None
    reason: str
    agreed: bool
    is_reporter: bool
    cause: Failure | None
    index: int | None
    phases: tuple[tuple[str, int | None], ...]
    duration_ns: int | None
    last_joiner: str | None


@dataclass(frozen=True, slots=True)
class RoundReport:
    """All nodes of a round run, from its job reporter.

    Attributes:
        began_ns: When its bring-up began on the first node.
        last_joiner: Node id of the node that joined last.
    """

    round: int | None
    began_ns: int | None
    trace_id: str | None
    last_joiner: str | None


@dataclass(frozen=True, slots=True)
class RendezvousWait:
    """A rendezvous is waiting for nodes.

    Attributes:
        after: The agent's round before.
        participants: Nodes that have joined.
    """

    after: int | None
    participants: tuple[str, ...]
    missing: tuple[MissingNode, ...]
    count: int | None
    waited_ns: int


Report = LostReport | MembershipReport | RestartReport | RoundReport


def text_of(event: ElasticEvent, name: str) -> str | None:
    """An attribute that is a text."""
    value = event.attributes.get(name)
    return value if isinstance(value, str) else None


def number_of(event: ElasticEvent, name: str) -> int | None:
    """An attribute that is an integer."""
    value = event.attributes.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def seconds_of(event: ElasticEvent, name: str) -> int | None:
    """An attribute that is a number of seconds, as nanoseconds."""
    value = event.attributes.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e10:
        return round(value * NS_PER_S)
    return None


def texts_of(event: ElasticEvent, name: str) -> tuple[str, ...]:
    """An attribute that is a list of texts."""
    value = event.attributes.get(name)
    return value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()


def reports_in(event: ElasticEvent, current: int | None) -> Iterator[Report]:
    """What one event reports about other nodes and the job.

    Args:
        event: The event.
        current: The last round of its agent so far.
    """
    round_ = number_of(event, semconv.RENDEZVOUS_ROUND)
    round_ = round_ if round_ is not None else current
    if event.name == semconv.AGENT_LOST:
        node_id = text_of(event, semconv.PEER_NODE_ID)
        if node_id is not None:
            heartbeat_ns = rfc3339_ns(text_of(event, semconv.PEER_LAST_HEARTBEAT))
            yield LostReport(current, node_id, number_of(event, semconv.PEER_GROUP_RANK), heartbeat_ns)
    elif event.name == semconv.RENDEZVOUS_NODES_REMOVED:
        for node_id in texts_of(event, semconv.NODES_REMOVED_IDS):
            yield LostReport(current, node_id)
    elif event.name == semconv.MEMBERSHIP_CHANGED:
        yield MembershipReport(
            round_,
            texts_of(event, semconv.MEMBERSHIP_JOINED),
            texts_of(event, semconv.MEMBERSHIP_LEFT),
            texts_of(event, semconv.MEMBERSHIP_LOST),
        )
    elif event.name in (semconv.RESTART_CAUSE_AGREED, semconv.RESTART_COMPLETED):
        is_complete = event.name == semconv.RESTART_COMPLETED
        names = {phase: semconv.RESTART_PHASE_DURATION.format(phase=phase) for phase in RESTART_PHASES}
        yield RestartReport(
            round_,
            text_of(event, semconv.RESTART_REASON) or "unknown",
            event.attributes.get(semconv.RESTART_AGREED) is True,
            event.attributes.get(semconv.WRITER) is True,
            _cause(event),
            number_of(event, semconv.RESTART_INDEX),
            tuple((phase, seconds_of(event, name)) for phase, name in names.items()) if is_complete else (),
            seconds_of(event, semconv.RESTART_DURATION) if is_complete else None,
            text_of(event, semconv.RENDEZVOUS_LAST_JOINER),
        )
    elif event.name == semconv.ROUND_STARTED:
        began_ns = number_of(event, semconv.ROUND_BEGAN)
        yield RoundReport(round_, began_ns, event.trace_id, text_of(event, semconv.RENDEZVOUS_LAST_JOINER))


def _cause(event: ElasticEvent) -> Failure | None:
    reason = text_of(event, semconv.RESTART_REASON)
    if reason not in ("worker_failure", "node_lost"):
        return None

    def text(name: str) -> str | None:
        return text_of(event, f"{semconv.CAUSE}.{name}")

    def number(name: str) -> int | None:
        return number_of(event, f"{semconv.CAUSE}.{name}")

    if all(value is None for value in (text("host"), text("node.id"), number("rank"), number("group.rank"))):
        return None
    if reason == "node_lost":
        kind = "node_lost"
    elif text("failure_kind"):
        kind = str(text("failure_kind"))
    elif text("error_type") == "uninterruptible_sleep":
        kind = "uninterruptible_sleep"
    elif text("signal"):
        kind = "signal"
    else:
        kind = "exception" if text("message") else "exit"
    return Failure(
        kind=kind,
        host=text("host"),
        node_id=text("node.id"),
        group_rank=number("group.rank"),
        rank=number("rank"),
        local_rank=number("local_rank"),
        pid=number("pid"),
        exit_code=number("exit_code"),
        signal=text("signal"),
        error_type=text("error_type"),
        message=text("message"),
        at_ns=number("time"),
        error_ns=seconds_of(event, f"{semconv.CAUSE}.time_error") or 0,
        inferred_from="store" if event.attributes.get(semconv.RESTART_AGREED) is True else "own_view",
        ambiguous=event.attributes.get(semconv.FAILURE_AMBIGUOUS) is True,
        function=text("function"),
        file=text("file"),
        line=number("line"),
        evidence=text_of(event, semconv.FAILURE_EVIDENCE),
        culprits=texts_of(event, f"{semconv.CAUSE}.culprits"),
    )


def worker_failure(event: ElasticEvent, source: AgentEvents, group_rank: int | None, before: Failure | None) -> Failure:
    """The failure of a worker that an event reports.

    Args:
        event: From this package when the failure happened, or from torch at the end of the job.
        source: The worker's agent.
        group_rank: The node's rank in the round.
        before: The same failure as reported by an earlier event.
    """
    inferred = event.attributes.get(semconv.INFERRED) is True
    signal = text_of(event, semconv.WORKER_SIGNAL)
    in_collective = event.attributes.get(semconv.WORKER_IN_COLLECTIVE)
    raised = semconv.EXCEPTION_TYPE in event.attributes or semconv.EXCEPTION_MESSAGE in event.attributes
    failure = Failure(
        kind=text_of(event, semconv.FAILURE_KIND) or ("exception" if raised else "signal" if signal else "exit"),
        host=source.origin.host_name,
        node_id=source.node_id,
        group_rank=group_rank,
        rank=number_of(event, semconv.WORKER_RANK),
        local_rank=number_of(event, semconv.WORKER_LOCAL_RANK),
        pid=number_of(event, semconv.WORKER_PID),
        exit_code=number_of(event, semconv.PROCESS_EXIT_CODE),
        signal=signal,
        error_type=text_of(event, semconv.ERROR_TYPE),
        message=text_of(event, semconv.EXCEPTION_MESSAGE),
        traceback=text_of(event, semconv.EXCEPTION_STACKTRACE),
        at_ns=event.time_ns,
        error_ns=(seconds_of(event, semconv.FAILURE_TIME_ERROR) or 0) if inferred else None,
        inferred_from=(text_of(event, semconv.INFERRED_FROM) or "hook") if inferred else "torch",
        ambiguous=event.attributes.get(semconv.FAILURE_AMBIGUOUS) is True,
        function=text_of(event, semconv.CODE_FUNCTION_NAME),
        file=text_of(event, semconv.CODE_FILE_PATH),
        line=number_of(event, semconv.CODE_LINE_NUMBER),
        stack=text_of(event, semconv.CODE_STACKTRACE),
        in_collective=in_collective if isinstance(in_collective, bool) else None,
        explanation=text_of(event, semconv.FAILURE_EXPLANATION),
        evidence=text_of(event, semconv.FAILURE_EVIDENCE),
    )
    if before is None:
        return failure
    return completed(failure, before) if inferred else completed(before, failure)


def completed(failure: Failure, other: Failure) -> Failure:
    """A failure with the values that only another report of the same failure has; its time stays its own."""
    missing = {name: getattr(other, name) for name in Failure.__slots__ if getattr(failure, name) is None}
    missing.pop("error_ns", None)
    return replace(failure, **missing)


_MISSING: Final = re.compile(r"(?P<host>.*), last rank (?P<rank>\d{1,9})(?: \((?P<node>.*)\))?")
"""An item of ``RENDEZVOUS_MISSING_NODES``, for versions that did not write ``RENDEZVOUS_MISSING_NODE_IDS``."""


def rendezvous_wait(event: ElasticEvent, current: int | None) -> RendezvousWait:
    """The report of a rendezvous that is waiting."""
    missing = []
    for text in texts_of(event, semconv.RENDEZVOUS_MISSING_NODE_IDS):
        rank, _, node_id = text.partition(":")
        missing.append(MissingNode(address_of(node_id), node_id, int(rank) if rank.isdecimal() else None))
    if semconv.RENDEZVOUS_MISSING_NODE_IDS not in event.attributes:
        for text in texts_of(event, semconv.RENDEZVOUS_MISSING_NODES):
            found = _MISSING.fullmatch(text)
            node = MissingNode(found["host"], found["node"], int(found["rank"])) if found else MissingNode(text)
            missing.append(node)
    return RendezvousWait(
        current,
        texts_of(event, semconv.RENDEZVOUS_PARTICIPANTS),
        tuple(missing),
        number_of(event, semconv.RENDEZVOUS_MISSING),
        seconds_of(event, semconv.RENDEZVOUS_WAITED) or 0,
    )


_RFC_3339: Final = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<time>\d\d:\d\d:\d\d)(?:\.(?P<part>\d+))?(?P<zone>[Zz]|[+-]\d\d:?\d\d)?"
)


def rfc3339_ns(text: str | None) -> int | None:
    """The nanoseconds since the epoch of an RFC 3339 time, exact; UTC if it has no zone; ``None`` if it is none."""
    found = _RFC_3339.fullmatch(text.strip()) if text else None
    if found is None:
        return None
    zone = (found["zone"] or "Z").upper().replace("Z", "+00:00")
    try:
        moment = datetime.fromisoformat(f"{found['date']}T{found['time']}{zone[:3]}:{zone[-2:]}")
        seconds = moment.astimezone(timezone.utc).timestamp()
    except (ValueError, OverflowError):
        return None
    return int(seconds) * NS_PER_S + int((found["part"] or "0").ljust(9, "0")[:9])
