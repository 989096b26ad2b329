"""Failures of workers, each counted once, as cause or victim according to the agreement of all agents.

Guarantees: a failure is identified by its round, rank and process id; only those of the newest round are remembered,
at most a bounded number; a failure waits for its role until the cause of its round is agreed, or the agent ends.

Facts: torch records failures at the end of a job only, also those that were inferred before, and workers that the
agent itself stopped, with exit code -15 (torch 2.13 to 2.15).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.cause import NODE_LEFT, NODE_LOST
from torchelastic_otel.model.event import ElasticEvent, int_attribute
from torchelastic_otel.model.failure import FAILURE_KINDS, HANG
from torchelastic_otel.model.serialization import stored_as
from torchelastic_otel.processing.metrics.catalogue import FAILURE_ROLES

MAX_REMEMBERED: Final = 1024
"""Failures of one round on one node that are distinguished; further ones count each time."""
_STOPPED: Final = ("SIGTERM", "SIGKILL")


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """One worker's failure.

    Attributes:
        round: The round; ``None`` if unknown.
        rank: The worker's global rank.
        pid: Its process id.
        kind: One of :data:`~torchelastic_otel.model.failure.FAILURE_KINDS`.
        role: ``cause`` or ``victim``, in this agent's local view.
        time_ns: When, nanoseconds since the epoch.
        trace_id: Its trace.
        span_id: Its span.
    """

    round: int | None
    rank: int | None
    pid: int | None
    kind: str
    role: str
    time_ns: int
    trace_id: str | None = None
    span_id: str | None = None


@dataclass(frozen=True, slots=True)
class Failures:
    """See the header of this file.

    Attributes:
        undecided: Those whose role is not known yet.
        seen: The newest round's, by round, rank and process id.
    """

    undecided: tuple[WorkerFailure, ...] = ()
    seen: tuple[tuple[int | None, int | None, int | None], ...] = field(default=(), metadata=stored_as("told"))


def add(failures: Failures, event: ElasticEvent) -> Failures:
    """Add a failure of a worker, inferred or recorded by torch."""
    of = event.attributes.get
    failure = WorkerFailure(
        int_attribute(event, semconv.RENDEZVOUS_ROUND),
        int_attribute(event, semconv.WORKER_RANK),
        int_attribute(event, semconv.WORKER_PID),
        _kind(event),
        str(of(semconv.FAILURE_ROLE)),
        event.time_ns or event.observed_ns,
        event.trace_id,
        event.span_id,
    )
    known = (failure.round, failure.rank, failure.pid)
    seen = tuple(other for other in failures.seen if other[0] == failure.round)
    if known in seen:
        return failures
    if of(semconv.INFERRED) is not True:
        if seen and of(semconv.WORKER_SIGNAL) in _STOPPED:
            return failures  # the agent stopped it because of the others
        failure = replace(failure, role="victim" if seen else "cause")
    elif failure.role not in FAILURE_ROLES:
        failure = replace(failure, role="cause")
    seen = (*seen, known)[-MAX_REMEMBERED:]
    return Failures((*failures.undecided, failure), seen)


def decide(failures: Failures, agreed: ElasticEvent | None = None) -> tuple[Failures, tuple[WorkerFailure, ...]]:
    """The failures whose role is known now, each with its role.

    Args:
        failures: The failures so far.
        agreed: The event with the cause; ``None`` if there will be none, so that this agent's local view applies.
    """
    if agreed is None:
        return replace(failures, undecided=()), failures.undecided
    round_ = int_attribute(agreed, semconv.RENDEZVOUS_ROUND)
    role = _role_by(agreed)
    before = tuple(f for f in failures.undecided if f.round is None or round_ is None or f.round < round_)
    waiting = tuple(f for f in failures.undecided if f not in before)
    return replace(failures, undecided=waiting), tuple(replace(f, role=role(f)) for f in before)


def _role_by(agreed: ElasticEvent) -> Callable[[WorkerFailure], str]:
    of = agreed.attributes.get
    rank, pid = int_attribute(agreed, semconv.CAUSE + ".rank"), int_attribute(agreed, semconv.CAUSE + ".pid")
    if of(semconv.RESTART_AGREED) is False:
        return lambda failure: failure.role
    if of(semconv.RESTART_REASON) in (NODE_LOST, NODE_LEFT):
        return lambda failure: "victim"
    if rank is None and pid is None:
        return lambda failure: failure.role
    if of(f"{semconv.CAUSE}.failure_kind") == HANG:
        return lambda failure: "cause" if failure.kind == HANG else "victim"
    return lambda failure: "cause" if failure.rank == rank and pid in (None, failure.pid) else "victim"


def _kind(event: ElasticEvent) -> str:
    kind = event.attributes.get(semconv.FAILURE_KIND)
    if kind in FAILURE_KINDS:
        return str(kind)
    if semconv.EXCEPTION_TYPE in event.attributes:
        return "exception"
    return "signal" if semconv.WORKER_SIGNAL in event.attributes else "exit"
