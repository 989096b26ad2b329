"""Who did it: the rule by which agents, their agreement and the history distinguish a cause from its victims.

Guarantees: :func:`decide` is a pure function of a set of failures, from any nodes, in any order; a repeated failure
changes nothing. What a failure's text does not show is not assumed: an unknown text is no victim's.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

HANG: Final = "hang"
OUT_OF_MEMORY: Final = "out_of_memory"
UNINTERRUPTIBLE_SLEEP: Final = "uninterruptible_sleep"
FAILURE_KINDS: Final = ("exception", "exit", "signal", HANG, OUT_OF_MEMORY, UNINTERRUPTIBLE_SLEEP)
"""The values of ``torchelastic.failure.kind``."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the program.

    Attributes:
        function: The function's qualified name.
        file: The file's path.
        line: The line, from 1.
    """

    function: str
    file: str
    line: int


class Weight(enum.IntEnum):
    """How a failure weighs as a cause; the lowest of all failures is the cause."""

    OWN = 0
    """It failed by itself; also a lost node, and one that left."""
    HANG = 1
    """It did not fail; when it was stopped, its stack was outside a collective while others waited in one."""
    WAITED = 2
    """It failed since it waited for another."""


class Evidence(str, enum.Enum):
    """What decided; the values of ``torchelastic.failure.evidence``."""

    ONLY_FAILURE = "only_failure"
    """Nothing else failed."""
    EARLIEST = "earliest"
    """Several failed by themselves, this one first."""
    OTHERS_WAITED = "others_waited"
    """All others failed since they waited for another."""
    STACK_AT_STOP = "stack_at_stop"
    """All that failed waited; this one was outside a collective when it was stopped."""
    ALL_WAITED = "all_waited"
    """All that failed waited for another, and no stack shows for which: the network, or a cause that left no trace."""


class FailureLike(Protocol):
    """What a decision needs of a failure."""

    @property
    def weight(self) -> Weight:
        """How it weighs."""
        ...

    @property
    def at_ns(self) -> int | None:
        """The latest time at which it can have happened."""
        ...

    @property
    def error_ns(self) -> int | None:
        """By how much it may have happened earlier; ``None`` if unknown."""
        ...

    @property
    def rank(self) -> int | None:
        """The worker's global rank."""
        ...


F = TypeVar("F", bound=FailureLike)
_NEVER: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Decision(Generic[F]):
    """Who did it.

    Attributes:
        causes: The cause; of a hang all culprits, by rank. Empty if nothing failed.
        evidence: What decided; ``None`` if nothing failed.
        ambiguous: Whether another failure may be the cause as well.
    """

    causes: tuple[F, ...] = ()
    evidence: Evidence | None = None
    ambiguous: bool = False


def decide(failures: Sequence[F]) -> Decision[F]:
    """Who did it.

    Args:
        failures: What failed, and the workers that were outside a collective when they were stopped, each once.
    """
    failed = [failure for failure in failures if failure.weight != Weight.HANG]
    if not failed:
        return Decision()  # workers were stopped, and nothing had failed
    own = sorted((failure for failure in failed if failure.weight == Weight.OWN), key=_order)
    waited = sorted((failure for failure in failed if failure.weight == Weight.WAITED), key=_order)
    hanging = sorted((failure for failure in failures if failure.weight == Weight.HANG), key=_by_rank)
    if own:
        ambiguous = any(may_precede(_at(each), each.error_ns, _at(own[0])) for each in own[1:])
        if len(failed) == 1:
            evidence = Evidence.ONLY_FAILURE
        else:
            evidence = Evidence.EARLIEST if len(own) > 1 else Evidence.OTHERS_WAITED
        return Decision((own[0],), evidence, ambiguous)
    if hanging:
        return Decision(tuple(hanging), Evidence.STACK_AT_STOP)
    return Decision((waited[0],), Evidence.ALL_WAITED, ambiguous=True)


def may_precede(time_ns: int, error_ns: int | None, other_ns: int) -> bool:
    """Whether what was observed at ``time_ns`` may be earlier than ``other_ns`` by its error bound; nanoseconds."""
    return error_ns is None or time_ns - error_ns <= other_ns


def _at(failure: FailureLike) -> int:
    return _NEVER if failure.at_ns is None else failure.at_ns


def _order(failure: FailureLike) -> tuple[int, int]:
    return _at(failure), _NEVER if failure.rank is None else failure.rank


def _by_rank(failure: FailureLike) -> tuple[int, int]:
    return _NEVER if failure.rank is None else failure.rank, _at(failure)


_WAITED: Final = re.compile(
    "|".join(
        (
            # gloo, in torch 2.2 to 2.15: transport/tcp/unbound_buffer.cc, pair.cc; the Python class is RuntimeError
            # (2.2 to 2.15) or DistNetworkError
            r"Timed out waiting \d+ms for (?:recv|send) operation to complete",
            r"Connection closed by peer \[",
            r"\]:\d+: (?:Connection reset by peer|Broken pipe|Connection timed out)",
            r"Application timeout caused pair closure",
            r"Gloo connectFullMesh failed with",
            # torch's ProcessGroupGloo: monitored_barrier, of the ranks that reached it
            r"Ranks? [\d, ]+ failed to pass monitoredBarrier in \d+ ms",
            r"successfully reached monitoredBarrier, but received errors while waiting",
            # NCCL and torch's ProcessGroupNCCL (strings of libtorch_cuda.so 2.2 and 2.15)
            r"remote process exited or there was a network error",
            r"Watchdog caught collective operation timeout",
            r"Some NCCL operations have failed or timed out",
            r"ProcessGroupNCCL's watchdog got stuck for",
            r"flight recorder dump signal from another rank via TCPStore",
            # the TCPStore (torch/csrc/distributed/c10d, 2.2 to 2.15): another process hosts it, or sets the key
            r"wait timeout after \d+ms, keys:",
            r"\bSocket Timeout\b",
            r"Timed out after \d+ seconds waiting for clients",
            r"Failed to (?:recv, got|send, sent) 0 bytes\. Connection was likely closed",
            # only these words: Python's own OSError begins with its number, and may be that of a file server
            r"\A(?:Connection reset by peer|Broken pipe)\Z",
            r"The connection to the C10d store has failed",
        )
    )
)
"""Texts of failures that are a consequence of another process's: it did not come, or it is gone."""
_WAITING_TYPES: Final = frozenset({"RendezvousConnectionError", "RendezvousTimeoutError"})


def waited_for_another(error_type: str | None, *texts: str | None) -> bool:
    """Whether a failure reports that its process waited for another one.

    Args:
        error_type: The exception's type.
        texts: Its message, or what its process wrote to the standard error.
    """
    if error_type is not None and error_type.rpartition(".")[2] in _WAITING_TYPES:
        return True
    return any(_WAITED.search(text) is not None for text in texts if text)


def weight_of(kind: str, error_type: str | None, *texts: str | None) -> Weight:
    """How a worker's failure of this kind, with these words, weighs."""
    if kind == HANG:
        return Weight.HANG
    return Weight.WAITED if waited_for_another(error_type, *texts) else Weight.OWN
