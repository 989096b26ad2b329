"""One spool: a bounded, durable, ordered outbox in one SQLite file.

Guarantees:

- A row whose ``append`` returned survives SIGKILL of the process: SQLite in WAL mode, ``synchronous=NORMAL``. A power
  cut may lose what was written since the last checkpoint, and never corrupts the file.
- Sequence numbers start at 1, rise by 1 and are never reused in a spool.
- A cursor reads the rows of its own destinations only, in order, and none that it has acknowledged.
- The file and its log stay below ``max_bytes``. Eviction deletes first what every cursor has read, oldest first; then
  the oldest. Each row that is evicted before a cursor read it is counted for that cursor.
- Payloads are opaque: text in, the same text out. A row may be appended unprocessed, and its payload replaced once;
  no cursor reads past an unprocessed row.
- Every statement and ``close`` run under the spool's lock: SQLite crashes the process (SIGSEGV) if a connection is
  closed while another thread uses it. A fork waits for that lock (:mod:`~torchelastic_otel.spool.fork_safety`).

Not guaranteed: order between spools. Only threads of this package use a spool, one at a time.

Layout: ``meta(key, value)``; ``events(sequence, destination, payload, raw)``, where ``raw`` marks unprocessed rows;
``cursors(name, position, and its counts)``; ``subscriptions(cursor, destination)``; ``set_aside(cursor, sequence,
reason)`` for single rows that a receiver refused.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torchelastic_otel.errors import SpoolCorruptError, SpoolError, SpoolTooSmallError
from torchelastic_otel.spool.fork_safety import ForkLock
from torchelastic_otel.spool.reader import ROWS, connect, read_cursors
from torchelastic_otel.spool.records import PAGE, ROW_BYTES, CursorState, Row, row_bytes
from torchelastic_otel.spool.retention import UNDELIVERED, RetentionLimits, evict
from torchelastic_otel.spool.transaction import transaction, translate_errors

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
_CHECKPOINT_AFTER: Final = 60
"""Changed rows after which ``checkpoint`` runs one; well before SQLite would run one during a commit."""
_INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?)"
_COMMIT_PROCESSED: Final = "UPDATE events SET payload = ?, raw = 0 WHERE sequence = ? AND raw"
_PUT_META: Final = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_NO_META: Final[Mapping[str, str]] = {}


class Spool:
    """See the header of this file. Made by :func:`create`, :func:`create_in_memory` and :func:`open_file`."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None, max_bytes: int, lock: ForkLock) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._pid = os.getpid()
        self._max_bytes = max_bytes
        limits = RetentionLimits.for_size(max_bytes)
        self.append_limit = limits.append_bytes
        self._size_limit = limits.row_bytes
        with translate_errors(self.path):
            if path is not None:
                connection.execute("PRAGMA journal_mode=WAL").fetchone()
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(f"PRAGMA wal_autocheckpoint={limits.log_pages}").fetchone()
                connection.execute(f"PRAGMA journal_size_limit={limits.log_pages * PAGE}").fetchone()
            connection.execute(f"PRAGMA max_page_count={limits.pages}").fetchone()
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
        self._checkpointed_at = 0

    # --- writing

    def append(
        self, rows: Sequence[tuple[str, str]], *, unprocessed: bool = False, meta: Mapping[str, str] = _NO_META
    ) -> tuple[int, int]:
        """Append rows in one transaction.

        Args:
            rows: Destination and payload of each.
            unprocessed: Whether their payloads are still to be processed.
            meta: Texts by key, written in the same transaction.

        Returns:
            The sequence of the first row, and how many undelivered rows were evicted.

        Raises:
            SpoolTooSmallError: Nothing is written: the rows take more than ``append_limit`` bytes.
            SpoolError: Nothing is written: the disk is full, read-only or gone.
        """
        size = sum(row_bytes(destination, payload) for destination, payload in rows)
        if size > self.append_limit:
            raise SpoolTooSmallError(
                f"spool {self.path or 'in memory'}: {size} bytes at once; at most {self.append_limit} are allowed with"
                f" a limit of {self._max_bytes} bytes; raise TORCHELASTIC_OTEL_SPOOL_MAX_BYTES"
            )
        with self._lock, translate_errors(self.path):
            first = self._last + 1
            if len(rows) == 1 and self._size + size <= self._size_limit and not meta:
                # by far the most frequent case, and a thread of torch waits for it: one statement instead of three
                try:
                    self._connection.execute(_INSERT, (first, *rows[0], unprocessed))
                except sqlite3.OperationalError as error:
                    if not self._may_evict(error):
                        raise
                else:
                    self._last, self._size = first, self._size + size
                    return first, 0
            return self._commit(size, rows, meta, lambda: 0, unprocessed=unprocessed)

    def commit_processed(
        self,
        payloads: Sequence[tuple[int, str]],
        meta: Mapping[str, str],
        derived: Sequence[tuple[str, str]] = (),
    ) -> tuple[int, int]:
        """Replace the payloads of unprocessed rows, write meta and append derived rows, in one transaction.

        Args:
            payloads: Sequence and new payload of each; a row that was evicted stays deleted.
            meta: Texts by key.
            derived: Destination and payload of rows to append.

        Returns:
            The sequence of the first derived row, and how many undelivered rows were evicted.
        """
        size = sum(row_bytes(destination, payload) for destination, payload in derived)
        with self._lock, translate_errors(self.path):
            growth = {}
            for sequence, payload in payloads:
                row = self._connection.execute(
                    "SELECT destination, payload FROM events WHERE sequence = ? AND raw", (sequence,)
                ).fetchone()
                if row is not None:
                    growth[sequence] = row_bytes(row[0], payload) - row_bytes(*row)

            def replace() -> int:
                """Bytes that the replaced rows did not grow by, since they were evicted."""
                evicted = 0
                for sequence, payload in payloads:
                    if not self._connection.execute(_COMMIT_PROCESSED, (payload, sequence)).rowcount:
                        evicted += growth.get(sequence, 0)
                return evicted

            return self._commit(size + sum(growth.values()), derived, meta, replace)

    def _commit(
        self,
        size: int,
        rows: Sequence[tuple[str, str]],
        meta: Mapping[str, str],
        first_step: Callable[[], int],
        *,
        unprocessed: bool = False,
    ) -> tuple[int, int]:
        """Evict, run the first step, append rows and write meta, in one transaction.

        Args:
            size: By how many bytes the rows of the spool grow.
            rows: Destination and payload of each.
            meta: Texts by key.
            first_step: Writes in the same transaction; returns how many bytes of ``size`` it did not need.
            unprocessed: Whether the appended rows are unprocessed.
        """
        first = self._last + 1
        for share in (0, 16, 4, 1):
            excess = self._size // share + size if share else self._size + size - self._size_limit
            try:
                with transaction(self._connection):
                    freed, dropped = evict(self._connection, self._size, excess, self._size_limit)
                    freed += first_step()
                    self._connection.executemany(
                        _INSERT, [(first + i, *row, unprocessed) for i, row in enumerate(rows)]
                    )
                    self._connection.executemany(_PUT_META, list(meta.items()))
            except sqlite3.OperationalError as error:
                # rows that fill pages badly leave the file full below its limit: evict more, and try again
                if share == 1 or not self._may_evict(error):
                    raise
            else:
                break
        self._last += len(rows)
        self._size += size - freed
        return first, dropped

    def _may_evict(self, error: sqlite3.OperationalError) -> bool:
        return "full" in str(error) and self._size > 0

    def checkpoint(self) -> None:
        """Checkpoint the log if it has grown; called when no caller waits."""
        with self._lock, translate_errors(self.path):
            if self._connection.total_changes - self._checkpointed_at >= _CHECKPOINT_AFTER:
                self._checkpointed_at = self._connection.total_changes
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def acknowledge(self, cursor: str, position: int, *, delivered: int = 0, rejected: int = 0) -> None:
        """Move a cursor forward to ``position`` and add to its counts."""
        self._execute(
            "UPDATE cursors SET position = MAX(position, ?), delivered = delivered + ?, rejected = rejected + ?"
            " WHERE name = ?",
            (position, delivered, rejected, cursor),
        )

    def quarantine(self, cursor: str, sequence: int, reason: str) -> None:
        """Record that a receiver refused this one row. The row stays; the cursor does not move."""
        self._execute("INSERT OR REPLACE INTO set_aside VALUES (?, ?, ?)", (cursor, sequence, reason))

    def subscribe(self, subscriptions: Mapping[str, Sequence[str]]) -> None:
        """Add cursors and their destinations; existing ones keep their positions."""
        with self._lock, translate_errors(self.path), transaction(self._connection):
            for cursor, destinations in subscriptions.items():
                self._connection.execute("INSERT OR IGNORE INTO cursors(name) VALUES (?)", (cursor,))
                self._connection.executemany(
                    "INSERT OR IGNORE INTO subscriptions VALUES (?, ?)", [(cursor, d) for d in destinations]
                )

    def put_meta(self, key: str, value: str) -> None:
        """Write a text under a key."""
        self._execute(_PUT_META, (key, value))

    # --- reading

    def meta(self, key: str) -> str | None:
        """The text under a key."""
        found = self._execute("SELECT value FROM meta WHERE key = ?", (key,))
        return str(found[0][0]) if found else None

    def read(self, cursor: str, after: int, max_rows: int, max_bytes: int) -> list[Row]:
        """The next rows of a cursor's destinations behind ``after``, oldest first.

        At most ``max_rows`` rows and ``max_bytes`` bytes of payload, but at least one row if there is one.
        """
        rows: list[Row] = []
        size = 0
        with self._lock, translate_errors(self.path):
            for row in self._connection.execute(
                f"{ROWS} WHERE sequence > ? AND destination IN"
                " (SELECT destination FROM subscriptions WHERE cursor = ?)"
                " AND sequence < IFNULL((SELECT MIN(sequence) FROM events WHERE raw), 1 << 62)"
                " ORDER BY sequence LIMIT ?",
                (after, cursor, max_rows),
            ):
                size += len(row[2])
                if rows and size > max_bytes:
                    break
                rows.append(Row(*row))
        return rows

    def unprocessed(self) -> list[Row]:
        """The unprocessed rows, in order."""
        return [Row(*row) for row in self._execute(f"{ROWS} WHERE raw ORDER BY sequence")]

    def rows(self) -> list[Row]:
        """All rows, delivered or not, in order."""
        return [Row(*row) for row in self._execute(f"{ROWS} ORDER BY sequence")]

    def cursors(self) -> dict[str, CursorState]:
        """The progress of each cursor, by name."""
        with self._lock, translate_errors(self.path):
            return read_cursors(self._connection)

    def pending(self) -> int:
        """How many rows at least one cursor has not read."""
        return int(self._execute(f"SELECT COUNT(*) FROM events WHERE {UNDELIVERED}")[0][0])

    def _execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock, translate_errors(self.path):
            return self._connection.execute(statement, parameters).fetchall()

    @property
    def size(self) -> int:
        """The size of all rows, bytes."""
        return self._size

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest row; 0 if there never was one."""
        return self._last

    def close(self) -> None:
        """Checkpoint the log and close the file. In a forked child: nothing."""
        if self._pid == os.getpid():
            with self._lock, translate_errors(self.path):
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
    return open_file(path, max_bytes)


def open_file(path: Path, max_bytes: int) -> Spool:
    """The spool at ``path``, for reading and writing.

    Raises:
        SpoolCorruptError: It is not a spool, or a damaged one.
        SpoolError: It cannot be opened.
    """
    connection: sqlite3.Connection | None = None
    lock = ForkLock()  # not made inside: a thread that creates a lock waits for the fork that waits for this one
    with lock:
        try:
            connection = connect(path, "mode=rw")
            return Spool(connection, path, max_bytes, lock)
        except sqlite3.Error as error:
            raise SpoolError(f"spool {path}: {error}") from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise


def create_in_memory(max_bytes: int, first_sequence: int = 1) -> Spool:
    """A spool in memory, lost when this process ends; its sequences start at ``first_sequence``."""
    lock = ForkLock()
    with lock:
        spool = Spool(sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None), None, max_bytes, lock)
    spool._last = first_sequence - 1
    return spool
