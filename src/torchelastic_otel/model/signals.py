"""The kinds of telemetry, as everything that has to do with delivery names them."""

from __future__ import annotations

import enum


class Signal(str, enum.Enum):
    """OpenTelemetry's signals; the value is how its variables, paths and entry points spell them, in lower case."""

    LOGS = "logs"
    TRACES = "traces"
    METRICS = "metrics"
