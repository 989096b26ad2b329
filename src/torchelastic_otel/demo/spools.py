"""What the spools of the demonstration's agents say, after the agents have ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchelastic_otel import semconv
from torchelastic_otel.processing.stored_events import read_events, read_origin
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX, SPOOL_SUFFIX
from torchelastic_otel.spool.reader import read_spool


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
    contents = read_spool(path)
    origin = read_origin(contents)
    if origin is None:
        raise ValueError(f"{path} does not name its process")
    cursors = contents.cursors.values()
    events = read_events(contents, path)
    sequences = tuple(sequence for sequence, event in events if event.name not in semconv.HEARTBEATS)
    return SpoolReport(
        origin_id=origin.id,
        node=node,
        sequences=sequences,
        pending=sum(cursor.pending for cursor in cursors) if cursors else len(sequences),
        lost=sum(cursor.rejected + cursor.quarantined + cursor.dropped for cursor in cursors),
    )
