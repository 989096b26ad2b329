"""A look into a spool that may belong to somebody else, for ``doctor`` and ``flush``.

What always holds: nothing is written, locked or created that its owner could notice, also where the owner is
writing at this moment; what is told is one consistent state of the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from torchelastic_otel.spool.directory import DELIVERED_SUFFIX
from torchelastic_otel.spool.store import CursorState, SpoolCorruptError, SpoolError


@dataclass(frozen=True, slots=True)
class Glance:
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


def glance(path: Path) -> Glance:
    """Look into the spool at ``path``; one that is being made at this moment is empty.

    Raises:
        SpoolCorruptError: It is not a spool, or a damaged one.
        SpoolError: It cannot be opened: a symbolic link, no permission, gone.
    """
    if path.is_symlink():
        raise SpoolError(f"spool {path} is a symbolic link; those are refused")
    quoted = path.as_posix().replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    # a log beside a file that nobody writes to any more would be made by looking at it, and stay
    nobody_writes = "&immutable=1" if path.suffix == DELIVERED_SUFFIX else ""
    try:
        with closing(
            sqlite3.connect(f"file:{quoted}?mode=ro{nobody_writes}", uri=True, isolation_level=None, timeout=5.0)
        ) as look:
            look.execute("BEGIN")  # all of it is one state
            if look.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'set_aside'").fetchone() == (0,):
                return Glance()
            return _read(look)
    except sqlite3.OperationalError as error:
        raise SpoolError(f"spool {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise SpoolCorruptError(f"spool {path}: {error}") from error


def _read(look: sqlite3.Connection) -> Glance:
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
    return Glance(meta, cursors, events, newest[0] if newest else None)
