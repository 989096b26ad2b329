"""Reading a spool: its rows and cursors; also a read-only view of one that another process may own.

The view is for ``doctor``, ``flush``, ``timeline`` and ``demo``.

Guarantees of the view: nothing is written, locked or created that the owner could notice, also while the owner writes;
the result is one consistent state of the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from torchelastic_otel.errors import SpoolCorruptError, SpoolError
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX
from torchelastic_otel.spool.records import CursorState, Row

ROWS: Final = "SELECT sequence, destination, payload, raw FROM events"
_CURSORS: Final = """SELECT c.name,
    (SELECT GROUP_CONCAT(destination, char(10)) FROM subscriptions WHERE cursor = c.name),
    c.position, (SELECT COUNT(*) FROM events e JOIN subscriptions s ON s.destination = e.destination
    WHERE s.cursor = c.name AND e.sequence > c.position), c.delivered, c.rejected,
    (SELECT COUNT(*) FROM set_aside WHERE cursor = c.name), c.dropped FROM cursors c ORDER BY c.name"""


@dataclass(frozen=True, slots=True)
class SpoolContents:
    """The contents of a spool.

    Attributes:
        meta: The texts under keys.
        cursors: The progress of each exporter, by its name.
        row_count: Rows in the file, delivered or not.
        rows: The rows that were asked for, in order.
    """

    meta: Mapping[str, str] = field(default_factory=dict)
    cursors: Mapping[str, CursorState] = field(default_factory=dict)
    row_count: int = 0
    rows: tuple[Row, ...] = ()


def read_spool(path: Path, *, newest_only: bool = False) -> SpoolContents:
    """Read the spool at ``path``; one that is being created at this moment is empty.

    Args:
        path: Its file.
        newest_only: Read the newest row only.

    Raises:
        SpoolCorruptError: It is not a spool, or a damaged one.
        SpoolError: It cannot be opened: a symbolic link, no permission, gone.
    """
    # opening a file that nobody writes to would create a log beside it, which stays; a writer has one already
    immutable = path.suffix == DELIVERED_SUFFIX or not os.path.exists(f"{path}-wal")
    try:
        with closing(connect(path, "mode=ro&immutable=1" if immutable else "mode=ro")) as connection:
            connection.execute("BEGIN")  # one consistent state
            if connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'set_aside'").fetchone() == (0,):
                return SpoolContents()
            order = "ORDER BY sequence DESC LIMIT 1" if newest_only else "ORDER BY sequence"
            (count,) = connection.execute("SELECT COUNT(*) FROM events").fetchone()
            rows = tuple(Row(*row) for row in connection.execute(f"{ROWS} {order}"))
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
            return SpoolContents(meta, read_cursors(connection), count, rows)
    except sqlite3.OperationalError as error:
        raise SpoolError(f"spool {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise SpoolCorruptError(f"spool {path}: {error}") from error


def read_cursors(connection: sqlite3.Connection) -> dict[str, CursorState]:
    """The progress of each cursor, by name."""
    rows = connection.execute(_CURSORS).fetchall()
    return {row[0]: CursorState(row[0], tuple(row[1].split("\n")) if row[1] else (), *row[2:]) for row in rows}


def connect(path: Path, options: str) -> sqlite3.Connection:
    """A connection to an existing file.

    Raises:
        SpoolError: It is a symbolic link.
        sqlite3.Error: It cannot be opened.
    """
    if path.is_symlink():
        raise SpoolError(f"spool {path} is a symbolic link; those are refused")
    quoted = path.as_posix().replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(
        f"file:{quoted}?{options}", uri=True, check_same_thread=False, isolation_level=None, timeout=5.0
    )
