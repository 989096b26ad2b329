"""Batch size and delay of an exporter, and the backoff after failed attempts.

Guarantees: a receiver's requested delay has precedence, up to a limit; the jitter does not draw from the global random
source, which would change the host program's random numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torchelastic_otel.export.result import Disposition, ExportResult
from torchelastic_otel.units import NS_PER_S

MAX_BACKOFF_NS: Final = 15 * NS_PER_S
"""Short, so that pending data arrives soon after the end of an outage."""
MAX_RETRY_AFTER_NS: Final = 600 * NS_PER_S


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """Batch size, delay and backoff of an exporter.

    Attributes:
        max_rows: Rows in a batch (``OTEL_BLRP_MAX_EXPORT_BATCH_SIZE``, ``OTEL_BSP_MAX_EXPORT_BATCH_SIZE``).
        delay_ns: How long new rows wait for the batch to fill, nanoseconds (``OTEL_BLRP_SCHEDULE_DELAY``,
            ``OTEL_BSP_SCHEDULE_DELAY``).
        min_backoff_ns: The delay after the first failure; it doubles with each further one.
        max_backoff_ns: The longest such delay.
        blocked_delay_ns: The delay after a failure that no data causes.
    """

    max_rows: int = 512
    delay_ns: int = NS_PER_S
    min_backoff_ns: int = NS_PER_S
    max_backoff_ns: int = MAX_BACKOFF_NS
    blocked_delay_ns: int = 60 * NS_PER_S


class Backoff:
    """The delay after each of several consecutive failures.

    Args:
        config: The limits.
        jitter: A random number from 0 to 1.
    """

    def __init__(self, config: BatchConfig, jitter: Callable[[], float] | None = None) -> None:
        self._config = config
        self._jitter = jitter or random.Random().random
        self._backoff_ns = 0

    def next_delay_ns(self, result: ExportResult) -> int:
        """The delay after this failure, nanoseconds."""
        if result.disposition is Disposition.BLOCKED:
            return self._config.blocked_delay_ns
        if result.retry_after_ns is not None:
            return min(result.retry_after_ns, MAX_RETRY_AFTER_NS)
        self._backoff_ns = min(max(2 * self._backoff_ns, self._config.min_backoff_ns), self._config.max_backoff_ns)
        return int(self._backoff_ns * (0.5 + self._jitter() / 2))

    def reset(self) -> None:
        """An attempt succeeded: the next failure is a first one."""
        self._backoff_ns = 0
