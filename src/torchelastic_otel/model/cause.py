"""Why a round ended, as agents propose it to each other: the earliest proposal is the cause.

Guarantees: ``earlier`` is commutative, and associative but for ambiguity, so that agents may propose in any order and
agree; if the error bounds of two proposals overlap, the cause is ambiguous, and stays so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torchelastic_otel import semconv
from torchelastic_otel.model.serialization import Serializable

WORKER_FAILURE = "worker_failure"
MEMBERSHIP_CHANGE = "membership_change"
NODE_LOST = "node_lost"
NODE_LEFT = "node_left"
UNKNOWN = "unknown"
REASONS = (WORKER_FAILURE, MEMBERSHIP_CHANGE, NODE_LOST, NODE_LEFT, UNKNOWN)
"""The values of ``torchelastic.restart.reason``."""


@dataclass(frozen=True, slots=True)
class Cause(Serializable):
    """What ended a round.

    Attributes:
        kind: One of :data:`REASONS`.
        time_ns: When, nanoseconds since the epoch.
        error_ns: By how much it may have been earlier, nanoseconds.
        host: The host's name; of a lost node, its address.
        node_id: Torch's ``addr_pid_localid``.
        group_rank: The node's rank in the round that ended.
        rank: The worker's global rank.
        local_rank: The worker's rank on its node.
        pid: The worker's process id.
        exit_code: Its exit code, minus the signal's number for a signal.
        signal: The signal's name.
        error_type: As on the failure's own record.
        message: As on the failure's own record, bounded.
        ambiguous: Whether another failure may have been earlier, within the error bounds.
    """

    OMIT_NONE: ClassVar[bool] = True

    kind: str
    time_ns: int
    error_ns: int = 0
    host: str | None = None
    node_id: str | None = None
    group_rank: int | None = None
    rank: int | None = None
    local_rank: int | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    error_type: str | None = None
    message: str | None = None
    ambiguous: bool = False

    def attributes(self) -> Mapping[str, Any]:
        """As attributes; the reason and the ambiguity have names of their own."""
        of = {
            "host": self.host,
            "node.id": self.node_id,
            "group.rank": self.group_rank,
            "rank": self.rank,
            "local_rank": self.local_rank,
            "pid": self.pid,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "error_type": self.error_type,
            "message": self.message,
            "time": self.time_ns,
            "time_error": self.error_ns / 1e9,
        }
        attributes: dict[str, Any] = {f"{semconv.CAUSE}.{key}": value for key, value in of.items() if value is not None}
        attributes[semconv.RESTART_REASON] = self.kind
        attributes[semconv.FAILURE_AMBIGUOUS] = self.ambiguous
        return attributes


def may_precede(time_ns: int, error_ns: int, other_ns: int) -> bool:
    """Whether what was observed at ``time_ns`` may be earlier than ``other_ns`` by its error bound; nanoseconds."""
    return time_ns - error_ns <= other_ns


def earlier(one: Cause, other: Cause) -> Cause:
    """The earlier of two causes; ambiguous if their error bounds overlap."""
    # ambiguity does not count: it may depend on the order in which agents propose
    first, second = sorted((one, other), key=lambda cause: (cause.time_ns, replace(cause, ambiguous=False).to_json()))
    same = replace(first, ambiguous=False) == replace(second, ambiguous=False)
    # a last heartbeat always precedes what the loss of its node did to others: never ambiguous
    both_failed = not same and first.kind == second.kind == WORKER_FAILURE
    overlap = both_failed and may_precede(second.time_ns, second.error_ns, first.time_ns)
    # a repeated proposal, without knowledge of the ambiguity, does not remove it
    return replace(first, ambiguous=first.ambiguous or overlap or (same and second.ambiguous))
