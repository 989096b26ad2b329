"""Spools to events, also where their owner is writing at this moment; nothing is written, locked for long or adopted.

What always holds: rows that nobody has settled yet are read as their owner would; a process counts as living where it
holds its spool's lock, and as gone only where this node can tell; a spool that is retired in this moment is read as
the history that it became.
"""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torchelastic_otel.errors import OldSpoolError, SpoolError, SpoolGoneError
from torchelastic_otel.history.ranges import named
from torchelastic_otel.history.types import Run
from torchelastic_otel.model.event import Origin, StoredEvent
from torchelastic_otel.processing.stored_events import read_events, read_origin
from torchelastic_otel.spool import adoption, reader
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX, LOCK_SUFFIX, SPOOL_SUFFIX


@dataclass(frozen=True, slots=True)
class MissingData:
    """A spool that lost its oldest events.

    Attributes:
        whose: Its process, for a person.
        events: How many are lost.
        spool: The file's name.
    """

    whose: str
    events: int
    spool: str


@dataclass(frozen=True, slots=True)
class SpoolEvents:
    """What one spool tells.

    Attributes:
        origin_id: Its process.
        deliveries: Its events.
        alive: Whether the process lives; ``None`` where that cannot be told from here.
        short: What it lost; ``None`` where it is whole.
    """

    origin_id: str
    deliveries: tuple[StoredEvent, ...]
    alive: bool | None
    short: MissingData | None


def read_spool(path: Path, ours: bool) -> SpoolEvents | None:
    """One spool; ``None`` where nobody has written to it yet.

    Args:
        path: Its file.
        ours: Whether it is in this node's spool directory, and not brought here from elsewhere.

    Raises:
        OldSpoolError: An older version wrote it.
        SpoolGoneError: It is not there.
        SpoolError: It cannot be read.
    """
    try:
        return _read(path, ours)
    except SpoolError as error:
        if "no such column" in str(error) and isinstance(error.__cause__, sqlite3.OperationalError):
            raise OldSpoolError(f"spool {path} was written by an older version of torchelastic-otel") from error
        if os.path.lexists(path):
            raise
    retired = path.with_suffix(DELIVERED_SUFFIX)
    if path.suffix == SPOOL_SUFFIX and os.path.lexists(retired):
        return read_spool(retired, ours)
    raise SpoolGoneError(f"{path}: {os.strerror(errno.ENOENT)}")


def with_shortfalls(run: Run, short: Mapping[str, MissingData]) -> Run:
    """The run with one more sentence of what is unknown: whose oldest events are gone.

    Args:
        run: The run.
        short: Spools that lost some, by the origin id of their process.
    """
    lost = [short[origin] for origin in dict.fromkeys(agent.origin.id for agent in run.agents) if origin in short]
    if not lost:
        return run
    if len(lost) == 1:
        [one] = lost
        said = f"the first {one.events} events of {one.whose}: they went to make room in {one.spool}"
    else:
        names = named([f"{each.whose} ({each.events})" for each in lost])
        said = f"the first events of {len(lost)} agents: they went to make room in their spools: {names}"
    return replace(run, unknown=(*run.unknown, said))


def _read(path: Path, ours: bool) -> SpoolEvents | None:
    # first the lock: an owner that ends in between leaves a state that is too old, never one that is too good
    owned = os.path.exists(path.with_suffix(LOCK_SUFFIX)) and adoption.is_owned(path)
    contents = reader.read_spool(path)
    if not contents.rows:
        return None
    origin = read_origin(contents) or Origin(path.stem, "unknown", 0, 0)
    first = contents.rows[0].sequence
    short = MissingData(f"{origin.host_name} pid {origin.pid}", first - 1, path.name) if first > 1 else None
    deliveries = tuple(StoredEvent(sequence, event, origin) for sequence, event in read_events(contents, path))
    return SpoolEvents(origin.id, deliveries, _is_alive(path, origin, owned, ours), short)


def _is_alive(path: Path, origin: Origin, owned: bool, ours: bool) -> bool | None:
    here = origin.host_name == socket.gethostname()
    if owned:
        # another process may hold the lock of a dead one's spool, to deliver it
        return not here or not origin.pid or Path(f"/proc/{origin.pid}").exists()
    if path.suffix == DELIVERED_SUFFIX or ours or here:
        return False if path.suffix == DELIVERED_SUFFIX or os.path.exists(path.with_suffix(LOCK_SUFFIX)) else None
    return None
