"""What ``torchelastic-otel doctor`` found, as its JSON has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Diagnosis:
    """Everything that was found; the names are the keys of ``--json``.

    Attributes:
        versions: Package to version, ``None`` where it is not installed.
        activation: Whether agents are watched, and why.
        settings: Our settings in force, by variable.
        environment: The variables of OpenTelemetry and of ours, without secrets.
        ways_in: Entry-point group to whether ours is installed there.
        hooks: Each hook against the torch that is there.
        spool: The directory and what is in it.
        exporters: Each exporter of each signal, and what its endpoint answered.
        unused_signals: Signals that go nowhere, and why.
        problems: What is wrong, in sentences.
        notes: What is worth knowing and is not wrong.
    """

    versions: dict[str, str | None] = field(default_factory=dict)
    activation: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    ways_in: dict[str, bool] = field(default_factory=dict)
    hooks: list[dict[str, str]] = field(default_factory=list)
    spool: dict[str, Any] = field(default_factory=dict)
    exporters: list[dict[str, Any]] = field(default_factory=list)
    unused_signals: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
