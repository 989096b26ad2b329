"""What is read out of a spool, and what a row takes of its file.

What always holds: a row counts as its share of the pages that it needs, not as its bytes; :func:`row_bytes` and
:data:`ROW_BYTES`, the same in SQL, count alike.

What is not promised: that rows share pages as well as they could; a file may be full before its rows say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PAGE: Final = 4_096
"""Bytes of one page of the file."""
_ROW_OVERHEAD: Final = 16
"""Bytes that SQLite spends on a row beside its texts."""
_LEAF: Final = 4_000
"""Bytes of rows in one page of the file; a row that is longer has pages of its own."""
_TEXT_BYTES: Final = f"(LENGTH(CAST(payload AS BLOB)) + LENGTH(CAST(destination AS BLOB)) + {_ROW_OVERHEAD})"
ROW_BYTES: Final = f"""CASE WHEN {_TEXT_BYTES} > {_LEAF} THEN ({_TEXT_BYTES} / {_LEAF} + 1) * {PAGE}
    ELSE {PAGE} / ({_LEAF} / {_TEXT_BYTES}) END"""
"""What a row counts, as SQL over ``events``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One event as the spool keeps it.

    Attributes:
        sequence: Its number, from 1.
        payload: What ``append`` was given.
    """

    sequence: int
    payload: str


@dataclass(frozen=True, slots=True)
class CursorState:
    """How far one exporter got in one spool.

    Attributes:
        name: The exporter's name.
        destinations: The destinations it serves.
        position: The last sequence it is done with.
        pending: Rows that it has not got.
        delivered: Rows that were accepted.
        rejected: Rows that a receiver said it did not take (OTLP partial success).
        set_aside: Rows that a receiver refused, one by one.
        dropped: Rows that went to make room before it got them.
    """

    name: str
    destinations: tuple[str, ...]
    position: int
    pending: int
    delivered: int
    rejected: int
    set_aside: int
    dropped: int


def row_bytes(destination: str, payload: str) -> int:
    """What a row counts towards the bounds of a spool, bytes: its share of the pages it needs."""
    texts = destination + payload
    length = len(texts if texts.isascii() else texts.encode()) + _ROW_OVERHEAD
    return (length // _LEAF + 1) * PAGE if length > _LEAF else PAGE // (_LEAF // length)
