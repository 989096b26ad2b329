"""How an exporter's thread goes about it: batches, waiting for company, and patience with a receiver.

What always holds: patience is ours: backoff with jitter from a random source of our own, the receiver's wish
before it, within reason.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torchelastic_otel.export.result import Disposition, ExportResult
from torchelastic_otel.units import NS_PER_S

MIN_BACKOFF_NS: Final = 1 * NS_PER_S
MAX_BACKOFF_NS: Final = 15 * NS_PER_S
"""Short enough that what waited is there soon after a collector is back."""
BLOCKED_DELAY_NS: Final = 60 * NS_PER_S
MAX_RETRY_AFTER_NS: Final = 600 * NS_PER_S
"""A receiver that asks for more is asked again after this."""


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How a route goes about it.

    Attributes:
        max_rows: Rows in a batch (``OTEL_BLRP_MAX_EXPORT_BATCH_SIZE``, ``OTEL_BSP_MAX_EXPORT_BATCH_SIZE``).
        delay_ns: How long new rows wait for company, nanoseconds (``OTEL_BLRP_SCHEDULE_DELAY``,
            ``OTEL_BSP_SCHEDULE_DELAY``).
        first_backoff_ns: The wait after a first failure; it doubles with every further one.
        last_backoff_ns: The longest such wait.
        hold_ns: The wait after a refusal that no data is to blame for.
    """

    max_rows: int = 512
    delay_ns: int = NS_PER_S
    min_backoff_ns: int = MIN_BACKOFF_NS
    max_backoff_ns: int = MAX_BACKOFF_NS
    blocked_delay_ns: int = BLOCKED_DELAY_NS


class Backoff:
    """How long to wait after each failure in a row.

    Args:
        pace: The bounds.
        jitter: From 0 to 1, anew at each call.
    """

    def __init__(self, config: BatchConfig, jitter: Callable[[], float] | None = None) -> None:
        self._config = config
        # of our own: drawing from the global one would change the host program's random numbers
        self._jitter = jitter or random.Random().random
        self._backoff_ns = 0

    def next_delay_ns(self, result: ExportResult) -> int:
        """The wait after this failure, nanoseconds."""
        if result.disposition is Disposition.BLOCKED:
            return self._config.blocked_delay_ns
        if result.retry_after_ns is not None:
            return min(result.retry_after_ns, MAX_RETRY_AFTER_NS)
        self._backoff_ns = min(max(2 * self._backoff_ns, self._config.min_backoff_ns), self._config.max_backoff_ns)
        return int(self._backoff_ns * (0.5 + self._jitter() / 2))

    def reset(self) -> None:
        """Something was delivered: the next failure is a first one."""
        self._backoff_ns = 0
