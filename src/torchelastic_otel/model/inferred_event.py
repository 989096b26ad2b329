"""What our own hooks say, on its way through the spool: one text.

What always holds: a fact says when it happened by both clocks where that was not "now". Torch's main thread pays for
the imports of this file, so reading a fact back is :mod:`~torchelastic_otel.torch_events.inferred_events`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MARK: Final = "torchelastic_otel"
"""The key by which a fact is told from what torch or a user records."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """One moment by both clocks.

    Attributes:
        wall_ns: Nanoseconds since the epoch.
        monotonic_ns: ``time.monotonic_ns()`` of the process that says it.
    """

    wall_ns: int
    monotonic_ns: int


@dataclass(frozen=True, slots=True)
class InferredEvent:
    """One thing that we say and torch does not.

    Attributes:
        name: An event name of :mod:`torchelastic_otel.semconv`.
        attributes: By the names of :mod:`torchelastic_otel.semconv`; ``None`` and empty texts are left out.
        at: When it happened; ``None`` for the moment it is handed over.
        error_file: The text of a worker's error file, read where nobody waits; ``None`` where it left none.
    """

    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    at: ClockReading | None = None
    error_file: str | None = None

    def to_text(self) -> str:
        """The fact as the inlet takes it."""
        at = None if self.at is None else [self.at.wall_ns, self.at.monotonic_ns]
        attributes = {key: value for key, value in self.attributes.items() if value not in (None, "", ())}
        told = {MARK: self.name, "at": at, "attributes": attributes, "error_file": self.error_file}
        return json.dumps(told, separators=(",", ":"))
