"""Why a round ended, as agents propose it to each other: the earliest proposal of the lowest weight is the cause.

Guarantees: ``earlier`` is commutative, and associative but for ambiguity, so that agents may propose in any order and
agree; if the error bounds of two proposals overlap, the cause is ambiguous, and stays so. It decides as
:func:`~torchelastic_otel.model.failure.decide` does over all proposals. Workers that were outside a collective when
they were stopped are stored apart, and count only if all that failed waited (:func:`with_culprits`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from torchelastic_otel import semconv
from torchelastic_otel.model.failure import HANG, Evidence, Weight, may_precede, waited_for_another
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
        failure_kind: As on the failure's own record.
        function: The function of the program where it happened, or where a culprit of a hang was stopped.
        file: Its file.
        line: The line.
        waited: Whether it failed since it waited for another.
        others_failed: Whether others failed by themselves.
        others_waited: Whether others failed since they waited for another.
        culprits: Of a hang: all workers that others waited for, each with its place, in words.
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
    failure_kind: str | None = None
    function: str | None = None
    file: str | None = None
    line: int | None = None
    waited: bool = False
    others_failed: bool = False
    others_waited: bool = False
    culprits: tuple[str, ...] = ()

    @property
    def weight(self) -> Weight:
        """How it weighs as a cause."""
        if self.failure_kind == HANG:
            return Weight.HANG
        # an older version does not write whether it waited
        waited = self.waited or waited_for_another(self.error_type, self.message)
        return Weight.WAITED if self.kind == WORKER_FAILURE and waited else Weight.OWN

    @property
    def evidence(self) -> Evidence | None:
        """What decided; ``None`` for what is no worker's failure."""
        if self.kind != WORKER_FAILURE:
            return None
        if self.weight == Weight.HANG:
            return Evidence.STACK_AT_STOP
        if self.weight == Weight.WAITED:
            return Evidence.ALL_WAITED
        if self.others_failed:
            return Evidence.EARLIEST
        return Evidence.OTHERS_WAITED if self.others_waited else Evidence.ONLY_FAILURE

    @property
    def place(self) -> str | None:
        """The place in the program, in words."""
        return place_text(self.function, self.file, self.line)

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
            "failure_kind": self.failure_kind,
            "function": self.function,
            "file": self.file,
            "line": self.line,
            "culprits": self.culprits or None,
        }
        attributes: dict[str, Any] = {f"{semconv.CAUSE}.{key}": value for key, value in of.items() if value is not None}
        attributes[semconv.RESTART_REASON] = self.kind
        attributes[semconv.FAILURE_AMBIGUOUS] = self.ambiguous
        if self.evidence is not None:
            attributes[semconv.FAILURE_EVIDENCE] = self.evidence.value
        return attributes


def place_text(function: object, file: object, line: object) -> str | None:
    """A place in the program, in words; ``None`` if the file is unknown."""
    if not isinstance(file, str) or not file:
        return None
    where = f"{file.rpartition('/')[2]}:{line}" if isinstance(line, int) else file.rpartition("/")[2]
    return f"{function} ({where})" if function else where


def earlier(one: Cause, other: Cause) -> Cause:
    """Of two causes that of the lower weight, of equal weight the earlier; ambiguous if their error bounds overlap."""
    first, second = sorted((one, other), key=_order)
    is_same = _itself(first) == _itself(second)
    # a last heartbeat always precedes what the loss of its node did to others: never ambiguous
    overlap = (
        first.kind == second.kind == WORKER_FAILURE
        and first.weight == second.weight
        and may_precede(second.time_ns, second.error_ns, first.time_ns)
    )
    other_weight = None if is_same or second.kind != WORKER_FAILURE else second.weight
    return replace(
        first,
        # a repeated proposal, without knowledge of the others, does not remove it
        ambiguous=first.ambiguous or (second.ambiguous if is_same else overlap),
        others_failed=first.others_failed or second.others_failed or other_weight == Weight.OWN,
        others_waited=first.others_waited or second.others_waited or other_weight == Weight.WAITED,
    )


def _itself(cause: Cause) -> Cause:
    # what depends on the order in which agents propose does not count
    return replace(cause, ambiguous=False, others_failed=False, others_waited=False)


def _order(cause: Cause) -> tuple[int, int, str]:
    return cause.weight, cause.time_ns, _itself(cause).to_json()


MAX_CULPRITS: Final = 16
"""More of them are not stored: that many ranks that did not come are no hang of one."""


def add_culprits(stored: Sequence[Cause], new: Sequence[Cause]) -> tuple[Cause, ...]:
    """Workers that were outside a collective when they were stopped, each once, by rank, at most a bounded number."""
    return tuple(sorted({*stored, *new}, key=_by_rank))[:MAX_CULPRITS]


def with_culprits(cause: Cause | None, culprits: Sequence[Cause]) -> Cause | None:
    """The cause, which is a hang if all that failed waited, and some worker was outside a collective.

    Args:
        cause: The agreed cause.
        culprits: The workers that were outside a collective when they were stopped.
    """
    if cause is None or cause.weight != Weight.WAITED or not culprits:
        return cause
    first, *_ = culprits = sorted(culprits, key=_by_rank)
    return replace(first, ambiguous=False, culprits=tuple(map(_culprit_text, culprits)))


def _by_rank(cause: Cause) -> tuple[int, str]:
    return 1 << 63 if cause.rank is None else cause.rank, cause.to_json()


def _culprit_text(cause: Cause) -> str:
    where = f" in {cause.place}" if cause.place else ""
    return f"rank {cause.rank} on {cause.host}{where}"
