"""Strings fit for export: valid UTF-8 and bounded. A cut is marked where it was made.

One lone surrogate in one attribute raises out of the gRPC exporter and fails a whole HTTP batch; one endless traceback
fills a spool. Both are excluded here, when an event is recorded, for everything that comes after.
"""

from __future__ import annotations

from typing import Final

MAX_VALUE: Final = 4_096
"""Characters of an attribute value."""
MAX_BODY: Final = 8_192
"""Characters of a body."""
MAX_STACKTRACE: Final = 16_384
"""Characters of ``exception.stacktrace``; the middle is cut: both ends of a traceback matter most."""

_CUT = "... [{} characters cut] ..."


def bounded(text: str, limit: int = MAX_VALUE) -> str:
    """The text as valid UTF-8 of at most ``limit`` characters, its middle cut out where it is longer."""
    if len(text) > limit:
        room = limit - len(_CUT) - 10
        tail = room // 2
        head = room - tail
        text = text[:head] + _CUT.format(len(text) - head - tail) + text[-tail:]
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:limit]
