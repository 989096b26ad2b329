"""What an agent says of others and of the whole job: who was lost, who is waited for, what was agreed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history.attributes import number_of, seconds_of, text_of, texts_of
from torchelastic_otel.history.types import Failure, Missing
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.node_id import address_of
from torchelastic_otel.model.phases import RESTART_PHASES
from torchelastic_otel.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class Lost:
    """A node that an agent holds for lost.

    Attributes:
        round: The round that the agent was in.
        node_id: Who.
        group_rank: Its rank in that round.
        heartbeat_ns: Its last heartbeat.
        at_ns: When it was said.
    """

    round: int | None
    node_id: str
    group_rank: int | None = None
    heartbeat_ns: int | None = None
    at_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """A change of membership.

    Attributes:
        round: The new round.
        joined: Node ids.
        left: Node ids.
        lost: Node ids.
    """

    round: int | None
    joined: tuple[str, ...]
    left: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RestartReport:
    """What an agent said of a restart.

    Attributes:
        round: The new round.
        reason: As on ``torchelastic.restart.reason``.
        agreed: Whether all agents agreed on it.
        writer: Whether this agent speaks for the job in the new round.
        cause: What failed first; ``None`` where the reason is no failure.
        index: From 1, for the whole job.
        phases: Durations; empty where the restart has not been completed.
        duration_ns: All of it.
        last_joiner: Node id of who came last.
    """

    round: int | None
    reason: str
    agreed: bool
    writer: bool
    cause: Failure | None
    index: int | None
    phases: tuple[tuple[str, int | None], ...]
    duration_ns: int | None
    last_joiner: str | None


@dataclass(frozen=True, slots=True)
class Begun:
    """What the agent that speaks for a round said when all nodes of it ran.

    Attributes:
        round: The round.
        began_ns: When its bring-up began anywhere.
        trace_id: The trace of its bring-up.
        last_joiner: Node id of who came last.
    """

    round: int | None
    began_ns: int | None
    trace_id: str | None
    last_joiner: str | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What an agent said while a rendezvous was held up.

    Attributes:
        after: The round that it had been in.
        participants: Who is there.
        missing: Who is known to be missing.
        count: How many are missing.
        waited_ns: For how long.
    """

    after: int | None
    participants: tuple[str, ...]
    missing: tuple[Missing, ...]
    count: int | None
    waited_ns: int


Report = Lost | Changed | RestartReport | Begun


def reports_of(event: ElasticEvent, current: int | None) -> Iterator[Report]:
    """What one event says of others.

    Args:
        event: The event.
        current: The round that its agent is in, or was in last.
    """
    round_ = number_of(event, semconv.RENDEZVOUS_ROUND)
    if event.name == semconv.AGENT_LOST:
        node_id = text_of(event, semconv.PEER_NODE_ID)
        if node_id is not None:
            heartbeat_ns = instant(text_of(event, semconv.PEER_LAST_HEARTBEAT))
            rank = number_of(event, semconv.PEER_GROUP_RANK)
            yield Lost(current, node_id, rank, heartbeat_ns, event.time_ns)
    elif event.name == semconv.RENDEZVOUS_NODES_REMOVED:
        for node_id in texts_of(event, semconv.NODES_REMOVED_IDS):
            yield Lost(current, node_id, at_ns=event.time_ns)
    elif event.name == semconv.MEMBERSHIP_CHANGED:
        yield Changed(
            round_ if round_ is not None else current,
            texts_of(event, semconv.MEMBERSHIP_JOINED),
            texts_of(event, semconv.MEMBERSHIP_LEFT),
            texts_of(event, semconv.MEMBERSHIP_LOST),
        )
    elif event.name in (semconv.RESTART_CAUSE_AGREED, semconv.RESTART_COMPLETED):
        yield _told(event, round_ if round_ is not None else current)
    elif event.name == semconv.ROUND_STARTED:
        yield Begun(
            round_ if round_ is not None else current,
            number_of(event, semconv.ROUND_BEGAN),
            event.trace_id,
            text_of(event, semconv.RENDEZVOUS_LAST_JOINER),
        )


def _told(event: ElasticEvent, round_: int | None) -> RestartReport:
    completed = event.name == semconv.RESTART_COMPLETED
    durations = tuple(
        (phase, seconds_of(event, semconv.RESTART_PHASE_DURATION.format(phase=phase))) for phase in RESTART_PHASES
    )
    return RestartReport(
        round_,
        text_of(event, semconv.RESTART_REASON) or "unknown",
        event.attributes.get(semconv.RESTART_AGREED) is True,
        event.attributes.get(semconv.WRITER) is True,
        _cause(event),
        number_of(event, semconv.RESTART_INDEX),
        durations if completed else (),
        seconds_of(event, semconv.RESTART_DURATION) if completed else None,
        text_of(event, semconv.RENDEZVOUS_LAST_JOINER),
    )


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
    )


_MISSING: Final = re.compile(r"(?P<host>.*), last rank (?P<rank>\d{1,9})(?: \((?P<node>.*)\))?")
"""For spools of versions that did not write ``RENDEZVOUS_MISSING_NODE_IDS``."""


def _missing(event: ElasticEvent) -> Iterator[Missing]:
    for item in texts_of(event, semconv.RENDEZVOUS_MISSING_NODE_IDS):
        rank, _, node_id = item.partition(":")
        yield Missing(address_of(node_id), node_id, int(rank) if rank.isdecimal() else None)
    if semconv.RENDEZVOUS_MISSING_NODE_IDS not in event.attributes:
        for sentence in texts_of(event, semconv.RENDEZVOUS_MISSING_NODES):
            found = _MISSING.fullmatch(sentence)
            yield Missing(found["host"], found["node"], int(found["rank"])) if found else Missing(sentence)


def waiting_of(event: ElasticEvent, current: int | None) -> Waiting:
    """What an event says of a rendezvous that is held up."""
    return Waiting(
        current,
        texts_of(event, semconv.RENDEZVOUS_PARTICIPANTS),
        tuple(_missing(event)),
        number_of(event, semconv.RENDEZVOUS_MISSING),
        seconds_of(event, semconv.RENDEZVOUS_WAITED) or 0,
    )


_RFC_3339: Final = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<time>\d\d:\d\d:\d\d)(?:\.(?P<part>\d+))?(?P<zone>[Zz]|[+-]\d\d:?\d\d)?"
)


def instant(text: str | None) -> int | None:
    """The nanoseconds since the epoch of an RFC 3339 time, exact; UTC where it names no zone; ``None`` for none."""
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
