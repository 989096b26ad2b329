"""The limits of a bounded spool, and the eviction of rows.

Guarantees: rows that every cursor has read are evicted first, oldest first; then the oldest. Each row that is evicted
before a cursor read it is counted for that cursor, in the same transaction.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from torchelastic_otel.spool.records import PAGE, ROW_BYTES

UNDELIVERED: Final = """EXISTS (SELECT 1 FROM subscriptions s JOIN cursors c ON c.name = s.cursor
    WHERE s.destination = events.destination AND c.position < events.sequence)"""
"""Whether a row is one that at least one cursor has not got, as SQL over ``events``."""


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """What a spool's bound leaves for each part of it.

    Attributes:
        log_pages: Pages of the log after which it is written back.
        pages: Pages of the file.
        append_bytes: What one ``append`` may take, by :func:`~torchelastic_otel.spool.records.row_bytes`.
        row_bytes: What all rows may take, by the same.
    """

    log_pages: int
    pages: int
    append_bytes: int
    row_bytes: int

    @staticmethod
    def for_size(max_bytes: int) -> RetentionLimits:
        """The shares of a bound, bytes."""
        log_pages = max(16, min(256, max_bytes // PAGE // 16))
        # the log is what was not yet checkpointed and one transaction, with a share for what lies around its rows
        pages = max(32, max_bytes // PAGE - 5 * log_pages)
        return RetentionLimits(log_pages, pages, 2 * log_pages * PAGE, (pages - 12) * PAGE * 15 // 16)


def evict(connection: sqlite3.Connection, size: int, excess: int, size_limit: int) -> tuple[int, int]:
    """Free at least ``excess`` bytes, and a bit more so that it is rarely needed.

    Args:
        connection: The spool's file, in a transaction.
        size: What its rows count, bytes.
        excess: How much of it must go, bytes.
        size_limit: What its rows may count, bytes.

    Returns:
        Bytes freed, and undelivered rows lost.
    """
    if excess <= 0 or not size:
        return 0, 0
    wanted = excess + size_limit // 16
    freed, _ = _delete_oldest(connection, f"NOT {UNDELIVERED}", wanted)
    if freed >= excess:
        return freed, 0
    more, dropped = _delete_oldest(connection, "1", wanted - freed)
    return freed + more, dropped


def _delete_oldest(connection: sqlite3.Connection, condition: str, wanted: int) -> tuple[int, int]:
    freed, last = 0, 0
    for sequence, length in connection.execute(
        f"SELECT sequence, {ROW_BYTES} FROM events WHERE {condition} ORDER BY sequence"
    ):
        freed, last = freed + length, sequence
        if freed >= wanted:
            break
    connection.execute(
        "UPDATE cursors SET dropped = dropped + (SELECT COUNT(*) FROM events JOIN subscriptions s"
        " ON s.destination = events.destination WHERE s.cursor = cursors.name"
        f" AND events.sequence > cursors.position AND events.sequence <= ? AND {condition})",
        (last,),
    )
    deleted = connection.execute(f"DELETE FROM events WHERE sequence <= ? AND {condition}", (last,))
    return freed, deleted.rowcount
