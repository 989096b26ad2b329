"""The export configuration of a process: what settings and environment determine, read once.

Guarantees: a value that is not allowed is a warning with what is allowed, and the default applies. A variable that is
empty is not set (specification, "Environment Variable Specification").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.settings import Settings
from torchelastic_otel.units import NS_PER_MS

_MAX_ROWS: Final = 512
_METRICS_INTERVAL_MS: Final = 60_000
SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_LOW_64: Final = (1 << 64) - 1

Warn = Callable[[str], object]
"""Receives one line for each value that is not allowed and was replaced."""
Sampler = Callable[[str], bool]
"""Whether a trace is sampled, by its id in hex."""
_Value = TypeVar("_Value")


def read_variable(
    environ: Mapping[str, str],
    names: Iterable[str],
    parse: Callable[[str], _Value],
    allowed: str,
    default: _Value,
    warn: Warn,
) -> _Value:
    """The value of the first variable that is set; ``parse`` raises ``ValueError`` for what is not allowed."""
    for name in names:
        if text := environ.get(name, "").strip():
            try:
                return parse(text)
            except ValueError:
                warn(f"{name}={text!r} is not allowed; allowed: {allowed}; using {default}")
                return default
    return default


def positive(text: str) -> int:
    """A whole number above 0."""
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise ValueError(text)


def one_of(*names: str) -> Callable[[str], str]:
    """A parser of these names, in any case."""

    def parse(text: str) -> str:
        if text.lower() in names:
            return text.lower()
        raise ValueError(text)

    return parse


def sample_all(trace_id: str) -> bool:
    """``always_on``."""
    return True


def sample_none(trace_id: str) -> bool:
    """``always_off``."""
    return False


def make_sampler(environ: Mapping[str, str], warn: Warn) -> Sampler:
    """The sampler of ``OTEL_TRACES_SAMPLER``, by the trace's id alone.

    So all processes with the same setting decide alike about a trace. The traces have no parent: a ``parentbased_*``
    sampler is its root.
    """
    variables = ("OTEL_TRACES_SAMPLER",)
    name = read_variable(environ, variables, one_of(*SAMPLERS), ", ".join(SAMPLERS), "always_on", warn)
    if name.endswith("always_off"):
        return sample_none
    if not name.endswith("traceidratio"):
        return sample_all
    ratio = read_variable(environ, ("OTEL_TRACES_SAMPLER_ARG",), _ratio, "a ratio from 0 to 1", 1.0, warn)
    # as in OpenTelemetry Python: the lower 64 bits of an id against a bound
    bound = round(ratio * (_LOW_64 + 1))
    return lambda trace_id: int(trace_id, 16) & _LOW_64 < bound


def _ratio(text: str) -> float:
    if not 0.0 <= float(text) <= 1.0:
        raise ValueError(text)
    return float(text)


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """The export configuration of a process.

    Attributes:
        logs: Batches of logs.
        traces: Batches of spans.
        metrics: The backoff of metric exporters.
        metrics_interval_ns: Time from one snapshot to the next, nanoseconds.
        heartbeats: Whether heartbeats are exported as logs, too.
        sampler: Whether a trace is sampled, by its id.
    """

    logs: BatchConfig = field(default_factory=BatchConfig)
    traces: BatchConfig = field(default_factory=BatchConfig)
    metrics: BatchConfig = field(default_factory=BatchConfig)
    metrics_interval_ns: int = _METRICS_INTERVAL_MS * NS_PER_MS
    heartbeats: bool = False
    sampler: Sampler = sample_all

    def batch_config(self, signal: Signal) -> BatchConfig:
        """The configuration of a signal."""
        return {Signal.LOGS: self.logs, Signal.TRACES: self.traces, Signal.METRICS: self.metrics}[signal]


def export_config(environ: Mapping[str, str], settings: Settings, warn: Warn) -> ExportConfig:
    """The configuration of ``OTEL_BLRP_*``, ``OTEL_BSP_*``, ``OTEL_METRIC_EXPORT_INTERVAL`` and the sampler.

    Args:
        environ: The environment.
        settings: This package's settings in it.
        warn: Receives one line for each value that is not allowed and was replaced.
    """

    def number(name: str, default: int) -> int:
        return read_variable(environ, (name,), positive, "a whole number above 0", default, warn)

    def batches(processor: str) -> BatchConfig:
        return BatchConfig(
            max_rows=min(number(f"OTEL_{processor}_MAX_EXPORT_BATCH_SIZE", _MAX_ROWS), _MAX_ROWS),
            delay_ns=number(f"OTEL_{processor}_SCHEDULE_DELAY", 1_000) * NS_PER_MS,
        )

    return ExportConfig(
        logs=batches("BLRP"),
        traces=batches("BSP"),
        metrics_interval_ns=number("OTEL_METRIC_EXPORT_INTERVAL", _METRICS_INTERVAL_MS) * NS_PER_MS,
        heartbeats="logs" in settings.heartbeats,
        sampler=make_sampler(environ, warn),
    )
