"""What the spools of the demonstration's agents say, after the agents have ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.processing.processor import ORIGIN_KEY, SPANS
from torchelastic_otel.spool import store
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX, SPOOL_SUFFIX

_MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class SpoolReport:
    """How far the events of one agent got.

    Attributes:
        origin_id: The agent, as in ``log.record.uid``.
        node: The node it ran on.
        sequences: The numbers of the events that are told as log records, rising: all that it wrote but heartbeats,
            which are metrics. Spans stand among them and have numbers, too.
        pending: Events and spans that an exporter has not got.
        lost: Events and spans that were refused, rejected or dropped, over all exporters.
    """

    origin_id: str
    node: str
    sequences: tuple[int, ...]
    pending: int
    lost: int

    @property
    def written(self) -> int:
        """How many events it wrote that are told as log records."""
        return len(self.sequences)


def read_spools(directories: Mapping[str, Path]) -> list[SpoolReport]:
    """The spools of agents that have ended.

    Args:
        directories: ``TORCHELASTIC_OTEL_SPOOL_DIR`` of each node, by the node's name.

    Raises:
        SpoolError: One cannot be read.
        ValueError: One does not say whose it is.
    """
    return [
        _report(node, path)
        for node, directory in directories.items()
        for path in sorted(directory.rglob("*"))
        if path.suffix in (SPOOL_SUFFIX, DELIVERED_SUFFIX)
    ]


def _report(node: str, path: Path) -> SpoolReport:
    spool = store.open_file(path, _MAX_BYTES)
    try:
        origin = Origin.from_json(spool.meta(ORIGIN_KEY) or "null")
        cursors = spool.cursors().values()
        sequences = tuple(row.sequence for destination, row in spool.history() if _is_told(destination, row.payload))
        return SpoolReport(
            origin_id=origin.id,
            node=node,
            sequences=sequences,
            pending=spool.pending() if cursors else len(sequences),
            lost=sum(cursor.rejected + cursor.set_aside + cursor.dropped for cursor in cursors),
        )
    finally:
        spool.close()


def _is_told(destination: str, payload: str) -> bool:
    if destination == SPANS:
        return False
    try:
        return ElasticEvent.from_json(payload).name not in semconv.HEARTBEATS
    except ValueError:
        return True  # what nobody has read yet is told, once that is done
