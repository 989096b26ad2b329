"""Transactions on a spool, and SQLite's errors as the spool's own.

Guarantees: a database error of SQLite leaves a spool as a :class:`~torchelastic_otel.errors.SpoolError`; when one is
raised, nothing of its transaction is done and none is left open.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchelastic_otel.errors import SpoolCorruptError, SpoolError


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
def translate_errors(path: Path | None) -> Iterator[None]:
    """SQLite's errors as the spool's own; ``path`` is ``None`` for one in memory."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # a closed connection is a ProgrammingError, a missing table an OperationalError
        known = isinstance(error, (sqlite3.OperationalError, sqlite3.ProgrammingError))
        kind = SpoolError if known and "no such table" not in str(error) else SpoolCorruptError
        raise kind(f"spool {path or 'in memory'}: {error}") from error
