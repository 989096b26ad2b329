"""A read-only view of a spool that another process may own, for ``doctor``, ``flush``, ``timeline`` and ``demo``.

Guarantees: nothing is written, locked or created that the owner could notice, also while the owner writes; the result
is one consistent state of the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from torchelastic_otel.errors import SpoolCorruptError, SpoolError
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX
from torchelastic_otel.spool.records import CursorState, Row, read_cursors
from torchelastic_otel.spool.store import ROWS, connect


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
