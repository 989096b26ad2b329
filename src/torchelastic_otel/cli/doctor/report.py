"""The report of ``torchelastic-otel doctor``, in the form of its JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Diagnosis:
    """The findings; the names are the keys of ``--json``.

    Attributes:
        versions: Package to version, ``None`` if it is not installed.
        activation: Whether agents are instrumented, and why.
        settings: The settings of this package, by variable.
        environment: The variables of OpenTelemetry and of this package, without secrets.
        ways_in: Entry-point group to whether this package is installed there.
        hooks: Whether each hook fits the installed torch.
        spool: The spool directory and its files.
        exporters: Each exporter of each signal, and the response of its endpoint.
        unused_signals: Signals that are not exported, and why.
        problems: The problems, in sentences.
        notes: Other information.
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
