"""One spool: a bounded, durable, ordered outbox in one SQLite file.

What always holds:

- A row whose ``append`` returned survives SIGKILL of the process: SQLite in WAL mode, ``synchronous=NORMAL``.
  A power cut may take what was written since the last checkpoint, and never tears the file.
- Sequence numbers start at 1, rise by 1 and are never used twice in one spool.
- A cursor reads its own destinations only, in order, and never what it has acknowledged.
- The file and its log stay below ``max_bytes``. To make room, what every cursor has got goes first, oldest
  first; then the oldest. Every row that goes before a cursor got it is counted for that cursor.
- Payloads are opaque here: text in, the same text out. A row may be received raw first and settled later, with
  another payload; no cursor reads past a row that is not settled.

- Every statement and the closing hold the spool's lock: SQLite ends the process (SIGSEGV) where a connection is
  closed while another thread is in it. A fork waits for that lock (:mod:`~torchelastic_otel.spool.fork_safety`).

What is not promised: order between spools. A spool is used by threads of ours only, one at a time.

Layout: ``meta(key, value)``; ``events(sequence, destination, payload, raw)``; ``cursors(name, position, and its
counts)``; ``subscriptions(cursor, destination)``; ``set_aside(cursor, sequence, reason)`` for single rows
that a receiver refuses.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from torchelastic_otel.errors import SpoolCorruptError, SpoolError, SpoolTooSmallError
from torchelastic_otel.spool.fork_safety import ForkLock
from torchelastic_otel.spool.records import PAGE, ROW_BYTES, CursorState, Row, row_bytes
from torchelastic_otel.spool.retention import UNDELIVERED, RetentionLimits, make_room
from torchelastic_otel.spool.transaction import faults, transaction

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events(sequence INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, payload TEXT NOT NULL,
                    raw INTEGER NOT NULL DEFAULT 0);
CREATE INDEX raw_events ON events(sequence) WHERE raw;
CREATE TABLE cursors(name TEXT PRIMARY KEY, position INTEGER NOT NULL DEFAULT 0, delivered INTEGER NOT NULL DEFAULT 0,
                     rejected INTEGER NOT NULL DEFAULT 0, dropped INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE subscriptions(cursor TEXT NOT NULL, destination TEXT NOT NULL, PRIMARY KEY(cursor, destination))
    WITHOUT ROWID;
CREATE TABLE set_aside(cursor TEXT NOT NULL, sequence INTEGER NOT NULL, reason TEXT NOT NULL,
                       PRIMARY KEY(cursor, sequence)) WITHOUT ROWID;
"""
_TIDY_AFTER: Final = 60
"""Changed rows after which the log is written back; well before SQLite would do it in the middle of a commit."""
_INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?)"
_SETTLE: Final = "UPDATE events SET payload = ?, raw = 0 WHERE sequence = ? AND raw"
_PUT_META: Final = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_NO_META: Final[Mapping[str, str]] = {}


class Spool:
    """See the header of this file. Made by :func:`create`, :func:`create_in_memory` and :func:`open_file`."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None, max_bytes: int) -> None:
        self.path = path
        self._connection = connection
        self._lock = ForkLock()
        self._pid = os.getpid()
        self._max_bytes = max_bytes
        bounds = RetentionLimits.of(max_bytes)
        self.append_limit = bounds.append_bytes
        self._size_limit = bounds.row_bytes
        with faults(self.path):
            if path is not None:
                connection.execute("PRAGMA journal_mode=WAL").fetchone()
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(f"PRAGMA wal_autocheckpoint={bounds.log_pages}").fetchone()
                connection.execute(f"PRAGMA journal_size_limit={bounds.log_pages * PAGE}").fetchone()
            connection.execute(f"PRAGMA max_page_count={bounds.pages}").fetchone()
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
                with transaction(self._connection):
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
                    connection.execute("INSERT INTO meta VALUES ('schema', ?)", (str(_SCHEMA_VERSION),))
            (schema,) = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() or (None,)
            if schema != str(_SCHEMA_VERSION):
                raise SpoolCorruptError(f"spool {path} has schema {schema}, this version reads {_SCHEMA_VERSION}")
            used = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
            (size,) = connection.execute(f"SELECT SUM({ROW_BYTES}) FROM events").fetchone()
        self._last: int = used[0] if used else 0
        self._size: int = size or 0
        self._tidied_at = 0

    # --- writing

    def append(
        self, rows: Sequence[tuple[str, str]], *, raw: bool = False, meta: Mapping[str, str] = _NO_META
    ) -> tuple[int, int]:
        """Keep rows, all of them or none.

        Args:
            rows: Destination and payload of each.
            raw: Whether they are still to be settled.
            meta: Texts by their keys, kept with them.

        Returns:
            The sequence of the first row, and how many older rows went undelivered to make room.

        Raises:
            SpoolTooSmallError: Nothing was kept: together they take more than ``append_limit`` bytes.
            SpoolError: Nothing was kept: the disk is full, read-only or gone.
        """
        new = sum(row_bytes(destination, payload) for destination, payload in rows)
        if new > self.append_limit:
            raise SpoolTooSmallError(
                f"spool {self.path or 'in memory'}: {new} bytes at once, {self.append_limit} are allowed where it"
                f" may take {self._max_bytes} bytes; raise its bound"
            )
        with self._lock, faults(self.path):
            first = self._last + 1
            for share in (0, 16, 4, 1):
                excess = self._size // share + new if share else self._size + new - self._size_limit
                try:
                    if len(rows) == 1 and excess <= 0 and not meta:
                        # by far the most frequent case, and somebody waits for it: one statement in place of three
                        self._connection.execute(_INSERT, (first, *rows[0], raw))
                        freed = dropped = 0
                        break
                    with transaction(self._connection):
                        freed, dropped = make_room(self._connection, self._size, excess, self._size_limit)
                        self._connection.executemany(_INSERT, [(first + i, *row, raw) for i, row in enumerate(rows)])
                        self._connection.executemany(_PUT_META, list(meta.items()))
                except sqlite3.OperationalError as error:
                    # rows that share pages badly leave the file full below its limit: again, with more room
                    if share == 1 or "full" not in str(error) or not self._size:
                        raise
                else:
                    break
            self._last += len(rows)
            self._size += new - freed
            return first, dropped

    def settle(
        self,
        payloads: Sequence[tuple[int, str]],
        meta: Mapping[str, str],
        more: Sequence[tuple[str, str]] = (),
    ) -> tuple[int, int]:
        """Give raw rows the payloads that they are read by, keep texts, and append what follows; all of it or nothing.

        Args:
            payloads: Sequence and payload of each; a row that has gone to make room stays gone.
            meta: Texts by their keys.
            more: Destination and payload of rows that follow from them.

        Returns:
            The sequence of the first row that follows, and how many older rows went undelivered to make room.
        """
        new = sum(row_bytes(destination, payload) for destination, payload in more)
        with self._lock, faults(self.path):
            first = self._last + 1
            growth = self._growth(payloads)
            for share in (0, 16, 4, 1):
                try:
                    with transaction(self._connection):
                        will = new + sum(growth.values())
                        excess = self._size // share + will if share else self._size + will - self._size_limit
                        freed, dropped = make_room(self._connection, self._size, excess, self._size_limit)
                        grown = 0
                        for sequence, payload in payloads:
                            if self._connection.execute(_SETTLE, (payload, sequence)).rowcount:
                                grown += growth[sequence]
                        self._connection.executemany(_INSERT, [(first + i, *row, False) for i, row in enumerate(more)])
                        self._connection.executemany(_PUT_META, list(meta.items()))
                except sqlite3.OperationalError as error:
                    # as in append
                    if share == 1 or "full" not in str(error) or not self._size:
                        raise
                else:
                    break
            self._last += len(more)
            self._size += grown + new - freed
            return first, dropped

    def _growth(self, payloads: Sequence[tuple[int, str]]) -> dict[int, int]:
        """By how much each raw row grows, bytes, by its sequence."""
        growth = {}
        for sequence, payload in payloads:
            row = self._connection.execute(
                "SELECT destination, payload FROM events WHERE sequence = ? AND raw", (sequence,)
            ).fetchone()
            if row is not None:
                growth[sequence] = row_bytes(row[0], payload) - row_bytes(*row)
        return growth

    def raw(self) -> list[tuple[str, Row]]:
        """Rows that are still to be settled, with their destinations, in order."""
        with self._lock, faults(self.path):
            rows = self._connection.execute(
                "SELECT destination, sequence, payload FROM events WHERE raw ORDER BY sequence"
            ).fetchall()
        return [(destination, Row(sequence, payload)) for destination, sequence, payload in rows]

    def tidy(self) -> None:
        """Write the log back into the file where it has grown; for when nobody waits."""
        with self._lock, faults(self.path):
            if self._connection.total_changes - self._tidied_at >= _TIDY_AFTER:
                self._tidied_at = self._connection.total_changes
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def acknowledge(self, cursor: str, position: int, *, delivered: int = 0, rejected: int = 0) -> None:
        """Note that a cursor is done with everything up to ``position``."""
        with self._lock, faults(self.path):
            self._connection.execute(
                "UPDATE cursors SET position = MAX(position, ?), delivered = delivered + ?, rejected = rejected + ?"
                " WHERE name = ?",
                (position, delivered, rejected, cursor),
            )

    def set_aside(self, cursor: str, sequence: int, reason: str) -> None:
        """Note that a receiver refuses this one row. The row stays as history does; the cursor is not moved."""
        with self._lock, faults(self.path):
            self._connection.execute("INSERT OR REPLACE INTO set_aside VALUES (?, ?, ?)", (cursor, sequence, reason))

    def subscribe(self, subscriptions: Mapping[str, Sequence[str]]) -> None:
        """Name the cursors and their destinations; what a cursor has got stays got."""
        with self._lock, faults(self.path), transaction(self._connection):
            for cursor, destinations in subscriptions.items():
                self._connection.execute("INSERT OR IGNORE INTO cursors(name) VALUES (?)", (cursor,))
                self._connection.executemany(
                    "INSERT OR IGNORE INTO subscriptions VALUES (?, ?)", [(cursor, d) for d in destinations]
                )

    def put_meta(self, key: str, value: str) -> None:
        """Keep a text under a key."""
        with self._lock, faults(self.path):
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # --- reading

    def meta(self, key: str) -> str | None:
        """The text kept under a key."""
        with self._lock, faults(self.path):
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def read(self, cursor: str, after: int, max_rows: int, max_bytes: int) -> list[Row]:
        """The next rows of a cursor's destinations behind ``after``, oldest first.

        At most ``max_rows`` rows and ``max_bytes`` bytes of payload, but one row at least where there is one.
        """
        rows: list[Row] = []
        size = 0
        with self._lock, faults(self.path):
            for sequence, payload in self._connection.execute(
                "SELECT sequence, payload FROM events WHERE sequence > ? AND destination IN"
                " (SELECT destination FROM subscriptions WHERE cursor = ?)"
                " AND sequence < IFNULL((SELECT MIN(sequence) FROM events WHERE raw), 1 << 62)"
                " ORDER BY sequence LIMIT ?",
                (after, cursor, max_rows),
            ):
                size += len(payload)
                if rows and size > max_bytes:
                    break
                rows.append(Row(sequence, payload))
        return rows

    def history(self) -> Iterator[tuple[str, Row]]:
        """Everything that is still here, delivered or not, with its destination, in order."""
        with self._lock, faults(self.path):
            everything = self._connection.execute(
                "SELECT destination, sequence, payload FROM events ORDER BY sequence"
            ).fetchall()
        return ((destination, Row(sequence, payload)) for destination, sequence, payload in everything)

    def cursors(self) -> dict[str, CursorState]:
        """How far each cursor got."""
        with self._lock, faults(self.path):
            rows = self._connection.execute(
                "SELECT c.name, (SELECT GROUP_CONCAT(destination, char(10)) FROM subscriptions WHERE cursor = c.name),"
                " c.position, (SELECT COUNT(*) FROM events e JOIN subscriptions s ON s.destination = e.destination"
                " WHERE s.cursor = c.name AND e.sequence > c.position), c.delivered, c.rejected,"
                " (SELECT COUNT(*) FROM set_aside WHERE cursor = c.name), c.dropped FROM cursors c"
            ).fetchall()
        return {row[0]: CursorState(row[0], tuple((row[1] or "").split("\n")), *row[2:]) for row in rows}

    def pending(self) -> int:
        """Rows that at least one cursor has not got."""
        with self._lock, faults(self.path):
            row = self._connection.execute(f"SELECT COUNT(*) FROM events WHERE {UNDELIVERED}").fetchone()
        return int(row[0])

    @property
    def size(self) -> int:
        """Bytes that the rows take in the file."""
        return self._size

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest row; 0 where there never was one."""
        return self._last

    def close(self) -> None:
        """Write the log back into the file and close it. In a forked child: nothing."""
        if self._pid == os.getpid():
            with self._lock, faults(self.path):
                self._connection.close()


def create(path: Path, max_bytes: int) -> Spool:
    """A new spool at ``path``, 0600.

    Raises:
        SpoolError: There is something at ``path`` already, or it cannot be written.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise SpoolError(f"spool {path}: {error.strerror or error}") from error
    return _connect(path, max_bytes)


def open_file(path: Path, max_bytes: int) -> Spool:
    """A spool that a process left at ``path``.

    Raises:
        SpoolCorruptError: It is not a spool, or a damaged one.
        SpoolError: It cannot be opened.
    """
    if path.is_symlink():
        raise SpoolError(f"spool {path} is a symbolic link; those are refused")
    return _connect(path, max_bytes)


def create_in_memory(max_bytes: int, first_sequence: int = 1) -> Spool:
    """A spool that nobody finds again when this process ends; its sequences start at ``first_sequence``."""
    with ForkLock():
        spool = Spool(sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None), None, max_bytes)
    spool._last = first_sequence - 1
    return spool


def _connect(path: Path, max_bytes: int) -> Spool:
    connection: sqlite3.Connection | None = None
    with ForkLock():
        try:
            connection = sqlite3.connect(
                f"file:{_quoted(path)}?mode=rw", uri=True, check_same_thread=False, isolation_level=None, timeout=5.0
            )
            return Spool(connection, path, max_bytes)
        except sqlite3.Error as error:
            raise SpoolError(f"spool {path}: {error}") from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise


def _quoted(path: Path) -> str:
    return path.as_posix().replace("%", "%25").replace("?", "%3f").replace("#", "%23")
