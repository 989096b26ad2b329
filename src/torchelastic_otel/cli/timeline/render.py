"""A page of plain text: labelled lines, wrapped to a width and coloured on request; times and durations as text.

Guarantees: foreign text (messages, tracebacks, hosts) cannot control the terminal. Without a width no line is wrapped,
without colour no escape sequence is written.
"""

from __future__ import annotations

import enum
import textwrap
import time
from dataclasses import dataclass
from typing import Final

from torchelastic_otel.units import NS_PER_MS, NS_PER_S

_PLAIN: Final = "\x1b[0m"
_LABEL: Final = 11
_NARROWEST: Final = 40


class Style(enum.Enum):
    """How a text is highlighted; the value is its escape sequence."""

    NONE = ""
    HEAD = "\x1b[1m"
    GOOD = "\x1b[32m"
    BAD = "\x1b[31m"
    DOUBT = "\x1b[33m"
    FAINT = "\x1b[2m"


@dataclass(frozen=True, slots=True)
class PageFormat:
    """The format of a page.

    Attributes:
        width: Columns; ``None`` for lines of any length.
        colour: Whether to colour.
        utc: Whether times are in UTC; else local.
    """

    width: int | None = None
    colour: bool = False
    utc: bool = False


class Page:
    """Lines of text, in the order in which they are added."""

    def __init__(self, page_format: PageFormat) -> None:
        self.format = page_format
        self._lines: list[str] = []

    def text(self) -> str:
        """All lines."""
        return "\n".join(self._lines)

    def gap(self) -> None:
        """An empty line, unless the last one is empty."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def line(self, text: str, style: Style = Style.NONE, indent: int = 0) -> None:
        """One line; wrapped with a hanging indent if it is too long."""
        self._add(" " * indent, " " * (indent + 2), clean(text), style)

    def row(self, label: str, text: str, style: Style = Style.NONE) -> None:
        """A labelled line."""
        self._add(f"    {label:<{_LABEL}}", " " * (4 + _LABEL), clean(text), style)

    def quote(self, lines: list[str]) -> None:
        """Foreign lines, cut if they are too long."""
        for line in lines:
            text = " " * (4 + _LABEL) + "| " + clean(line)
            if self.format.width is not None and len(text) > self.format.width:
                text = text[: max(_NARROWEST, self.format.width) - 3] + "..."
            self._lines.append(self._coloured(text, Style.FAINT))

    def _add(self, first: str, following: str, text: str, style: Style) -> None:
        if self.format.width is None:
            lines = [(first + text).rstrip()]
        else:
            lines = textwrap.wrap(
                text,
                max(_NARROWEST, self.format.width),
                initial_indent=first,
                subsequent_indent=following,
                break_on_hyphens=False,
            ) or [first.rstrip()]
        self._lines += [self._coloured(line, style) for line in lines]

    def _coloured(self, line: str, style: Style) -> str:
        return f"{style.value}{line}{_PLAIN}" if self.format.colour and style.value else line


def clean(text: str) -> str:
    """The text without control characters."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text.expandtabs(4))


def day_and_clock(time_ns: int | None, utc: bool) -> str:
    """A time with its date and zone."""
    if time_ns is None:
        return "an unknown time"
    parts = time.gmtime(time_ns // NS_PER_S) if utc else time.localtime(time_ns // NS_PER_S)
    return time.strftime("%Y-%m-%d %H:%M:%S", parts) + (" UTC" if utc else time.strftime(" %z", parts))


def clock(time_ns: int | None, utc: bool) -> str:
    """A time of day, to the millisecond."""
    if time_ns is None:
        return "?"
    seconds, below = divmod(time_ns, NS_PER_S)
    parts = time.gmtime(seconds) if utc else time.localtime(seconds)
    return f"{time.strftime('%H:%M:%S', parts)}.{below // NS_PER_MS:03d}"


def duration(duration_ns: int | None) -> str:
    """A duration with at most four digits."""
    if duration_ns is None:
        return "?"
    seconds = duration_ns / 1e9
    if seconds < 9.9995:
        return f"{seconds:.3f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600:02d} h"
