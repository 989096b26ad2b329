"""A look into a spool that may belong to somebody else, for ``doctor``, ``flush`` and ``timeline``.

What always holds: nothing is written, locked or created that its owner could notice, also where the owner is
writing at this moment; what is told is one consistent state of the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torchelastic_otel.errors import SpoolCorruptError, SpoolError
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX
from torchelastic_otel.spool.records import CursorState

_Seen = TypeVar("_Seen")


@dataclass(frozen=True, slots=True)
class SpoolSummary:
    """What a spool holds.

    Attributes:
        meta: The texts kept under keys.
        cursors: How far each exporter got, by its name.
        events: Rows that are in the file, delivered or not.
        newest: The payload of the newest row; ``None`` where there is none.
    """

    meta: Mapping[str, str] = field(default_factory=dict)
    cursors: Mapping[str, CursorState] = field(default_factory=dict)
    events: int = 0
    newest: str | None = None


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row of a spool, delivered or not.

    Attributes:
        sequence: Its number.
        destination: The destination it was recorded to.
        payload: What is kept of it.
        raw: Whether it is still to be settled.
    """

    sequence: int
    destination: str
    payload: str
    raw: bool


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a spool holds.

    Attributes:
        meta: The texts kept under keys.
        rows: The rows, in order.
    """

    meta: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[StoredRow, ...] = ()


def read_summary(path: Path) -> SpoolSummary:
    """Look into the spool at ``path``; one that is being made at this moment is empty.

    Raises:
        SpoolCorruptError: It is not a spool, or a damaged one.
        SpoolError: It cannot be opened: a symbolic link, no permission, gone.
    """
    return _look(path, _read, SpoolSummary())


def read_contents(path: Path) -> Contents:
    """Everything in the spool at ``path``; one that is being made at this moment is empty.

    Raises:
        SpoolCorruptError: It is not a spool, or a damaged one.
        SpoolError: It cannot be opened: a symbolic link, no permission, gone.
    """
    return _look(path, _read_all, Contents())


def _look(path: Path, read: Callable[[sqlite3.Connection], _Seen], nothing: _Seen) -> _Seen:
    if path.is_symlink():
        raise SpoolError(f"spool {path} is a symbolic link; those are refused")
    quoted = path.as_posix().replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    # a log beside a file that nobody writes to any more would be made by looking at it, and stay; who writes has one
    settled = path.suffix == DELIVERED_SUFFIX or not os.path.exists(f"{path}-wal")
    nobody_writes = "&immutable=1" if settled else ""
    try:
        with closing(
            sqlite3.connect(f"file:{quoted}?mode=ro{nobody_writes}", uri=True, isolation_level=None, timeout=5.0)
        ) as look:
            look.execute("BEGIN")  # all of it is one state
            if look.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'set_aside'").fetchone() == (0,):
                return nothing
            return read(look)
    except sqlite3.OperationalError as error:
        raise SpoolError(f"spool {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise SpoolCorruptError(f"spool {path}: {error}") from error


def _read_all(look: sqlite3.Connection) -> Contents:
    rows = look.execute("SELECT sequence, destination, payload, raw FROM events ORDER BY sequence").fetchall()
    meta = dict(look.execute("SELECT key, value FROM meta").fetchall())
    return Contents(
        meta,
        tuple(StoredRow(sequence, destination, payload, bool(raw)) for sequence, destination, payload, raw in rows),
    )


def _read(look: sqlite3.Connection) -> SpoolSummary:
    subscriptions: dict[str, list[str]] = {}
    for cursor, destination in look.execute("SELECT cursor, destination FROM subscriptions ORDER BY destination"):
        subscriptions.setdefault(cursor, []).append(destination)
    cursors = {}
    for name, position, delivered, rejected, dropped in look.execute(
        "SELECT name, position, delivered, rejected, dropped FROM cursors ORDER BY name"
    ).fetchall():
        (pending,) = look.execute(
            "SELECT COUNT(*) FROM events WHERE sequence > ? AND destination IN"
            " (SELECT destination FROM subscriptions WHERE cursor = ?)",
            (position, name),
        ).fetchone()
        (aside,) = look.execute("SELECT COUNT(*) FROM set_aside WHERE cursor = ?", (name,)).fetchone()
        destinations = tuple(subscriptions.get(name, ()))
        cursors[name] = CursorState(name, destinations, position, pending, delivered, rejected, aside, dropped)
    (events,) = look.execute("SELECT COUNT(*) FROM events").fetchone()
    newest = look.execute("SELECT payload FROM events ORDER BY sequence DESC LIMIT 1").fetchone()
    meta = dict(look.execute("SELECT key, value FROM meta").fetchall())
    return SpoolSummary(meta, cursors, events, newest[0] if newest else None)
