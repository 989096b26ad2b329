"""Rows and cursors of a spool, and the size of a row.

Guarantees: the size of a row is its share of the pages that it needs, not its length; :func:`row_bytes` and
:data:`ROW_BYTES`, the same in SQL, agree.

Not guaranteed: that rows fill pages as well as possible; a file may be full before the sum of its rows is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PAGE: Final = 4_096
"""Bytes of one page of the file."""
_ROW_OVERHEAD: Final = 16
"""Bytes of a row besides its texts."""
_LEAF: Final = 4_000
"""Bytes of rows in one page; a longer row has overflow pages of its own."""
_TEXT_BYTES: Final = f"(LENGTH(CAST(payload AS BLOB)) + LENGTH(CAST(destination AS BLOB)) + {_ROW_OVERHEAD})"
ROW_BYTES: Final = f"""CASE WHEN {_TEXT_BYTES} > {_LEAF} THEN ({_TEXT_BYTES} / {_LEAF} + 1) * {PAGE}
    ELSE {PAGE} / ({_LEAF} / {_TEXT_BYTES}) END"""
"""The size of a row, as SQL over ``events``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stored row.

    Attributes:
        sequence: Its number, from 1.
        destination: The destination it was recorded to.
        payload: Its text, as ``append`` or ``commit_processed`` was given it.
        unprocessed: Whether it is an unprocessed record.
    """

    sequence: int
    destination: str
    payload: str
    unprocessed: bool = False


@dataclass(frozen=True, slots=True)
class CursorState:
    """The progress of one exporter in one spool.

    Attributes:
        name: The exporter's name.
        destinations: The destinations it reads.
        position: The last sequence it has finished.
        pending: Rows behind the position.
        delivered: Rows that were accepted.
        rejected: Rows that the receiver reported as rejected (OTLP partial success).
        quarantined: Single rows that the receiver refused.
        dropped: Rows that were evicted before it read them.
    """

    name: str
    destinations: tuple[str, ...]
    position: int
    pending: int
    delivered: int
    rejected: int
    quarantined: int
    dropped: int


def row_bytes(destination: str, payload: str) -> int:
    """The size of a row, bytes: its share of the pages it needs."""
    texts = destination + payload
    length = len(texts if texts.isascii() else texts.encode()) + _ROW_OVERHEAD
    return (length // _LEAF + 1) * PAGE if length > _LEAF else PAGE // (_LEAF // length)
