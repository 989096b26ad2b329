"""On which terms a process delivers: everything that settings and environment say of it, read once.

What always holds: a bad value is named, with what is allowed, and the default is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.export.sampling import Sampler, make_sampler, sample_all
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.settings import Settings
from torchelastic_otel.units import NS_PER_MS, NS_PER_S

_MOST_ROWS: Final = 512
_METRICS_INTERVAL_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """The terms of one process.

    Attributes:
        logs: How routes of logs go about it.
        traces: How routes of spans go about it.
        metrics: How routes of metrics go about it: their patience.
        metrics_interval_ns: Time from one snapshot to the next, nanoseconds.
        heartbeats: Whether heartbeats are told as logs, too.
        keeps: Whether a trace is kept, by its id.
    """

    logs: BatchConfig = field(default_factory=BatchConfig)
    traces: BatchConfig = field(default_factory=BatchConfig)
    metrics: BatchConfig = field(default_factory=BatchConfig)
    metrics_interval_ns: int = _METRICS_INTERVAL_MS * NS_PER_MS
    heartbeats: bool = False
    sampler: Sampler = sample_all

    def batch_config(self, signal: Signal) -> BatchConfig:
        """The pace of a signal."""
        return {Signal.LOGS: self.logs, Signal.TRACES: self.traces, Signal.METRICS: self.metrics}[signal]


def export_config(environ: Mapping[str, str], settings: Settings, warn: Callable[[str], object]) -> ExportConfig:
    """The terms of an environment: ``OTEL_BLRP_*``, ``OTEL_BSP_*``, ``OTEL_METRIC_EXPORT_INTERVAL``, the sampler.

    Args:
        environ: The environment.
        settings: Our settings in it.
        warn: Takes one line for each setting that is not allowed and was replaced.
    """

    def number(name: str, default: int) -> int:
        text = environ.get(name, "").strip()
        if not text:
            return default
        if text.isascii() and text.isdigit() and int(text) > 0:
            return int(text)
        warn(f"{name}={text!r} is not allowed; allowed: a whole number above 0; using {default}")
        return default

    def pace(processor: str) -> BatchConfig:
        return BatchConfig(
            max_rows=min(number(f"OTEL_{processor}_MAX_EXPORT_BATCH_SIZE", _MOST_ROWS), _MOST_ROWS),
            delay_ns=number(f"OTEL_{processor}_SCHEDULE_DELAY", NS_PER_S // NS_PER_MS) * NS_PER_MS,
        )

    return ExportConfig(
        logs=pace("BLRP"),
        traces=pace("BSP"),
        metrics_interval_ns=number("OTEL_METRIC_EXPORT_INTERVAL", _METRICS_INTERVAL_MS) * NS_PER_MS,
        heartbeats="logs" in settings.heartbeats,
        sampler=make_sampler(environ, warn),
    )
