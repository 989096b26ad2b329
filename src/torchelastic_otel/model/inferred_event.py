"""What the bridge's own hooks observed, on its way through the spool: one text.

Guarantees: an event that did not happen just now has its time by both clocks. Torch's main thread pays for the imports
of this file, so parsing is in :mod:`~torchelastic_otel.torch_events.inferred_events`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MARK: Final = "torchelastic_otel"
"""The key that distinguishes an inferred event from what torch or a user records."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """One time by both clocks.

    Attributes:
        wall_ns: Nanoseconds since the epoch.
        monotonic_ns: ``time.monotonic_ns()`` of the process that read it.
    """

    wall_ns: int
    monotonic_ns: int


@dataclass(frozen=True, slots=True)
class InferredEvent:
    """One event that torch does not record.

    Attributes:
        name: An event name of :mod:`torchelastic_otel.semconv`.
        attributes: By the names of :mod:`torchelastic_otel.semconv`; ``None`` and empty values are left out.
        at: When it happened; ``None`` for the time at which it is submitted.
        error_file: The text of a worker's error file, parsed where no thread of torch waits; ``None`` if there is none.
    """

    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    at: ClockReading | None = None
    error_file: str | None = None

    def to_text(self) -> str:
        """The event as the ingest queue takes it."""
        at = None if self.at is None else [self.at.wall_ns, self.at.monotonic_ns]
        attributes = {key: value for key, value in self.attributes.items() if value not in (None, "", ())}
        text = {MARK: self.name, "at": at, "attributes": attributes, "error_file": self.error_file}
        return json.dumps(text, separators=(",", ":"))
