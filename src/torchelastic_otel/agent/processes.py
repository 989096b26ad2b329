"""Worker processes, how they end, and how the time of that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchelastic_otel import semconv
from torchelastic_otel.model.inferred_event import ClockReading
from torchelastic_otel.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process.

    Attributes:
        local_rank: Its rank on this node.
        rank: Its global rank.
        pid: Its process id.
        error_file: Where torch's ``record`` writes its exception.
        standard_error: Where torchrun keeps its standard error; ``None`` if it does not.
        evidence: Where its processes write evidence, each with its process id behind it; ``None`` if they do not.
    """

    local_rank: int
    rank: int | None
    pid: int
    error_file: str | None = None
    standard_error: str | None = None
    evidence: str | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """When something happened, and how that is known.

    Attributes:
        at: When.
        source: ``pidfd``, ``error_file``, ``evidence``, ``poll`` or ``result``.
        error_ns: By how much it may have been earlier.
    """

    at: ClockReading
    source: str
    error_ns: int = 0

    def attributes(self) -> dict[str, Any]:
        """As attributes of an event."""
        return {semconv.FAILURE_TIME_ERROR: self.error_ns / NS_PER_S, semconv.INFERRED_FROM: self.source}


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """One process that has ended.

    Attributes:
        at: When.
        code: Its exit code, minus the signal's number for a signal; ``None`` if torch reaped it first.
        error_ns: By how much it may have ended earlier.
    """

    at: ClockReading
    code: int | None
    error_ns: int = 0

    def observed(self) -> Observed:
        """When it ended."""
        return Observed(self.at, "pidfd", self.error_ns)
