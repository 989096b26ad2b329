"""The state of metric export in a spool: what each exporter has received, and so what an adopter must still send.

Guarantees: a snapshot is stored before it is sent, so that an adopter sends the same one again and then what came after
it; metrics that were exported by other exporters are not sent; no counter ever falls; every series begins with 0, and
the last snapshots of an orphaned spool have the time at which they are sent: backends reject older samples than they
have.

Layout, in the spool's meta: ``tally`` (the counts, by :mod:`torchelastic_otel.processing`), ``tally_exporters`` (the
names of the metric exporters of its process, JSON), and for each of them ``tally_sent <name>``: two snapshots, the one
that was sent for certain and the one that may have been (JSON).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export import metric_delta
from torchelastic_otel.export.metric_delta import Checkpoint, MetricBatch
from torchelastic_otel.export.sources import SpoolSource
from torchelastic_otel.model.metric import Snapshot
from torchelastic_otel.processing.metrics import MetricState
from torchelastic_otel.processing.metrics.snapshot import acknowledge, snapshot
from torchelastic_otel.processing.processor import METRICS_KEY
from torchelastic_otel.spool.store import Spool

logger = logging.getLogger("torchelastic_otel")

SENT_KEY: Final = "tally_sent"
EXPORTERS_KEY: Final = "tally_exporters"

FinalSnapshots: TypeAlias = Callable[[str], Sequence[Snapshot]]
"""Makes the last snapshots of an orphaned spool, in order, from its ``tally``."""


def final_snapshots(tally_json: str, clock_ns: Callable[[], int] = time.time_ns) -> list[Snapshot]:
    """The snapshots to send for an orphaned spool, in order: a series that was never sent as 0 first.

    Args:
        tally_json: The metric state that the spool stores.
        clock_ns: Wall clock, nanoseconds since the epoch.

    Raises:
        ValueError: It is not a metric state.
    """
    state = MetricState.from_json(tally_json)
    snapshots: list[Snapshot] = []
    for _ in range(2):
        last, state = snapshot(state, now_wall_ns=clock_ns(), now_monotonic_ns=state.last_ns, final=True)
        if last.metrics:
            snapshots.append(last)
        if not state.withheld:
            break
        state = acknowledge(state, last)
    return snapshots


def save_metric_exporters(spool: Spool, names: Iterable[str]) -> None:
    """Store the names of the metric exporters of the spool's process.

    Raises:
        SpoolError: They cannot be stored.
    """
    spool.put_meta(EXPORTERS_KEY, json.dumps(sorted(names)))


class MetricCheckpoints:
    """The checkpoints of one metric exporter.

    Args:
        name: The name of its cursor.
        final_snapshots: Makes the last snapshots of an orphaned spool.
    """

    def __init__(self, name: str, final_snapshots: FinalSnapshots = final_snapshots) -> None:
        self._name = name
        self._final_snapshots = final_snapshots

    def save(self, spool: Spool, batch: MetricBatch) -> None:
        """Store the snapshot that is being sent, and the one before it."""
        try:
            spool.put_meta(f"{SENT_KEY} {self._name}", Checkpoint.of(batch).to_json())
        except SpoolError as error:
            logger.debug("%s", error)

    def unsent(self, source: SpoolSource) -> list[MetricBatch]:
        """What an orphaned spool has not sent: the difference that was being sent, and what came after it.

        Raises:
            SpoolError: The spool cannot be read.
            ValueError: The stored data is of another version, or damaged.
        """
        written = source.spool.meta(METRICS_KEY)
        exporters = source.spool.meta(EXPORTERS_KEY)
        if written is None or (exporters is not None and self._name not in json.loads(exporters)):
            return []  # there are no metrics, or other exporters received them
        stored = source.spool.meta(f"{SENT_KEY} {self._name}")
        checkpoint = Checkpoint(None, None) if stored is None else Checkpoint.from_json(stored)
        base, sent = checkpoint.base, checkpoint.sent
        batches = []
        if sent is not None and base != sent:
            # it may have arrived: the same again, which a receiver can recognise
            batches.append(MetricBatch(source.origin, sent, base))
        for final in self._final_snapshots(written):
            while (rest := metric_delta.remaining(final, sent)) is not None:
                # a series that this exporter never sent begins with 0, whatever others sent
                started = metric_delta.cumulative_values(sent) if sent is not None else ()
                rest = metric_delta.with_zero_starts(rest, started)
                batches.append(MetricBatch(source.origin, rest, sent))
                sent = rest
        return batches
