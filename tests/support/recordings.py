"""Real streams of torch's, recorded on torch 1.13 and 2.13, as deliveries."""

from __future__ import annotations

import time
from pathlib import Path

from torchelastic_otel.cli import log_captures
from torchelastic_otel.model.event import Origin, StoredEvent

DIRECTORY = Path(__file__).parents[1] / "captures"
SCENARIOS = sorted({path.stem.rpartition("-")[0] for path in DIRECTORY.glob("*.jsonl")})


def recorded(path: Path) -> list[StoredEvent]:
    """One recording's events, each with its own times."""
    capture = log_captures.read(path.read_bytes())
    origin = Origin(capture.digest, capture.host_name, capture.pid, 0)
    return [StoredEvent(number, event, origin) for number, event in enumerate(capture.events(time.time_ns())[0], 1)]


def scenario(name: str) -> list[StoredEvent]:
    """All recordings of one scenario."""
    return [delivery for path in DIRECTORY.glob(f"{name}-?.jsonl") for delivery in recorded(path)]
