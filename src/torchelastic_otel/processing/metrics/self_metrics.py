"""Metrics of an agent that do not come from its events: of its spool, its exporters, and torch's own metrics.

Guarantees: frozen and cumulative since the process began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchelastic_otel.model.signals import Signal


@dataclass(frozen=True, slots=True)
class ExportCounters:
    """The outcome of one destination's records of one signal.

    Attributes:
        delivered: Records that were accepted.
        failed: Records that no attempt could deliver; they are quarantined.
        rejected: Records that a receiver rejected (partial success).
    """

    delivered: int = 0
    failed: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class TorchMetric:
    """One name of ``torch.distributed.elastic.metrics`` (torch 2.2 to 2.15).

    Attributes:
        group: Its metric group; torch's own is ``torchelastic``.
        name: As torch was given it, such as ``SimpleElasticAgent.run.duration.ms`` or ``workers.default.run_total``.
        count: How many values that are not negative were put.
        sum: Their sum.
        last: The value that was put last.
        max: The largest.
    """

    group: str
    name: str
    count: int = 0
    sum: float = 0
    last: float = 0
    max: float = 0


@dataclass(frozen=True, slots=True)
class SelfMetrics:
    """See the header of this file.

    Attributes:
        spool_bytes: What the spool takes on disk; ``None`` where it is not known.
        spool_age_ns: How long the oldest event has been waiting for delivery, nanoseconds; 0 where none waits;
            ``None`` where it is not known.
        spool_dropped: Events that were lost because the spool was full or hung.
        exports: By destination and signal; all that are configured, from the start.
        torch_metrics: What torch measured of its own agent.
    """

    spool_bytes: int | None = None
    spool_age_ns: int | None = None
    spool_dropped: int = 0
    exports: Mapping[tuple[str, Signal], ExportCounters] = field(default_factory=dict)
    torch_metrics: Mapping[str, TorchMetric] = field(default_factory=dict)
