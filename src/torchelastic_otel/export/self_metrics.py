"""The export pipeline's own metrics.

Guarantees: counters start with the process and never fall; every exporter has its series from the start; a spool that
cannot be read is left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export.destinations import Exporter
from torchelastic_otel.export.sources import ExporterState, SpoolSource
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.processing.metrics.self_metrics import ExportCounters, SelfMetrics
from torchelastic_otel.spool.records import CursorState

logger = logging.getLogger("torchelastic_otel")


def collect_self_metrics(
    exporters: Mapping[str, Exporter], states: Iterable[ExporterState], sources: Iterable[SpoolSource], now_ns: int
) -> SelfMetrics:
    """The metrics of these exporters, by cursor, of the workers' states and the process's spools.

    ``now_ns`` is the wall clock, nanoseconds since the epoch.
    """
    size = dropped = 0
    oldest_ns: list[int] = []
    for source in sources:
        try:
            cursors = [cursor for cursor in source.spool.cursors().values() if cursor.name in exporters]
            size += source.spool.size
        except SpoolError as error:
            logger.debug("%s", error)
            continue
        dropped += max((cursor.dropped for cursor in cursors), default=0)
        oldest = (_oldest_ns(source, cursor) for cursor in cursors if cursor.pending)
        oldest_ns += [since for since in oldest if since is not None]
    return SelfMetrics(
        spool_bytes=size,
        spool_age_ns=max(0, now_ns - min(oldest_ns, default=now_ns)),
        spool_dropped=dropped,
        exports={
            (exporters[state.name].name, exporters[state.name].signal): ExportCounters(
                state.delivered, state.quarantined, state.rejected
            )
            for state in states
        },
    )


def _oldest_ns(source: SpoolSource, cursor: CursorState) -> int | None:
    """The time of the oldest pending row of a cursor, nanoseconds since the epoch."""
    try:
        rows = source.spool.read(cursor.name, cursor.position, 1, 1)
        if not rows:
            return None  # the pending rows are not processed yet
        if isinstance(json.loads(rows[0].payload), dict):
            return ElasticSpan.from_json(rows[0].payload).end_ns
        return ElasticEvent.from_json(rows[0].payload).observed_ns
    except (SpoolError, ValueError) as error:
        logger.debug("%s", error)
        return None
