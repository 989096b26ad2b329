"""What can go wrong with a spool, and how much of a call was done then.

What always holds: a database error of SQLite's leaves a spool as a :class:`SpoolError`; where one was raised,
nothing of its transaction was done, and none is left open.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SpoolError(Exception):
    """The spool could not do what was asked; ``str`` says why. Nothing of the call was done."""


class SpoolCorruptError(SpoolError):
    """The file is not a spool, or no longer one."""


class SpoolTooSmallError(SpoolError):
    """The rows are larger than what one ``append`` to this spool may take; the spool is as good as before."""


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of what is done in it, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled back already (disk full); an open transaction must never be left behind
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def faults(path: Path | None) -> Iterator[None]:
    """SQLite's errors as the spool's own; ``path`` is ``None`` for one in memory."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # a closed connection is a ProgrammingError, a missing table an OperationalError
        known = isinstance(error, (sqlite3.OperationalError, sqlite3.ProgrammingError))
        kind = SpoolError if known and "no such table" not in str(error) else SpoolCorruptError
        raise kind(f"spool {path or 'in memory'}: {error}") from error
