"""Spools to events, also where their owner is writing at this moment; nothing is written, locked for long or adopted.

What always holds: rows that nobody has settled yet are read as their owner would; a process counts as living where it
holds its spool's lock, and as gone only where this node can tell.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchelastic_otel import settling
from torchelastic_otel.model.event import Delivery, ElasticEvent, Origin
from torchelastic_otel.model.narrative import Narrative
from torchelastic_otel.model.standing import Standing
from torchelastic_otel.spool import adoption
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX, LOCK_SUFFIX, SPOOL_SUFFIX
from torchelastic_otel.spool.glance import KeptRow, contents


@dataclass(frozen=True, slots=True)
class SpoolEvents:
    """What one spool tells.

    Attributes:
        origin_id: Its process.
        deliveries: Its events.
        alive: Whether the process lives; ``None`` where that cannot be told from here.
        notes: What is known to be missing.
    """

    origin_id: str
    deliveries: tuple[Delivery, ...]
    alive: bool | None
    notes: tuple[str, ...]


def spools_in(directory: Path) -> list[Path]:
    """The spools of a folder, delivered ones too: they stay as history."""
    return sorted(path for suffix in (SPOOL_SUFFIX, DELIVERED_SUFFIX) for path in directory.glob("*" + suffix))


def read_spool(path: Path, ours: bool) -> SpoolEvents | None:
    """One spool; ``None`` where nobody has written to it yet.

    Args:
        path: Its file.
        ours: Whether it is in this node's spool directory, and not brought here from elsewhere.

    Raises:
        SpoolError: It cannot be read.
    """
    # first the lock: an owner that ends in between leaves a state that is too old, never one that is too good
    owned = path.with_suffix(LOCK_SUFFIX).exists() and adoption.is_owned(path)
    inside = contents(path)
    try:
        origin = Origin.from_json(inside.meta[settling.ORIGIN_KEY])
    except (KeyError, ValueError):
        if not inside.rows:
            return None
        origin = Origin(path.stem, "unknown", 0, 0)
    events = _events(inside.rows, inside.meta, origin.started_ns)
    notes = []
    if inside.rows and inside.rows[0].sequence > 1:
        notes.append(
            f"the first {inside.rows[0].sequence - 1} events of {origin.host_name} pid {origin.pid}: they went to make"
            f" room in {path.name}"
        )
    deliveries = tuple(Delivery(sequence, event, origin) for sequence, event in events)
    return SpoolEvents(origin.id, deliveries, _is_alive(path, origin, owned, ours), tuple(notes))


def _events(rows: Sequence[KeptRow], meta: Mapping[str, str], started_ns: int) -> list[tuple[int, ElasticEvent]]:
    events = []
    for row in rows:
        if not row.raw and row.destination != settling.SPANS:
            try:
                events.append((row.sequence, ElasticEvent.from_json(row.payload)))
            except ValueError:
                continue
    raw = [row for row in rows if row.raw]
    if raw:
        _, read = settling.read(_known(meta, started_ns), [(row.destination, row.payload) for row in raw])
        events += zip((row.sequence for row in raw), read.events, strict=False)
        # what follows from them would be appended by their owner
        events += enumerate(read.more, rows[-1].sequence + 1)
    return sorted(events, key=lambda event: event[0])


def _known(meta: Mapping[str, str], started_ns: int) -> settling.Known:
    """What was known when rows were last settled; what a newer version wrote is begun anew."""
    known = settling.Known.at_start(started_ns)
    try:
        return settling.Known(
            Standing.from_json(meta[settling.STANDING_KEY]),
            Narrative.from_json(meta[settling.NARRATIVE_KEY]),
            known.tally,
        )
    except (KeyError, ValueError):
        return known


def _is_alive(path: Path, origin: Origin, owned: bool, ours: bool) -> bool | None:
    here = origin.host_name == socket.gethostname()
    if owned:
        # another process may hold the lock of a dead one's spool, to deliver it
        return not here or not origin.pid or Path(f"/proc/{origin.pid}").exists()
    if path.suffix == DELIVERED_SUFFIX or ours or here:
        return False if path.suffix == DELIVERED_SUFFIX or path.with_suffix(LOCK_SUFFIX).exists() else None
    return None
