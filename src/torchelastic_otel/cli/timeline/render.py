"""A page of plain text: labelled lines, fitted to a width and coloured where that was asked for; times and durations
as words.

What always holds: what others wrote (messages, tracebacks, hosts) cannot steer the terminal; without a width no line
is broken, without colour no escape is written.
"""

from __future__ import annotations

import enum
import textwrap
import time
from dataclasses import dataclass
from typing import Final

from torchelastic_otel.units import NS_PER_S

_PLAIN: Final = "\x1b[0m"
_LABEL: Final = 11
_NARROWEST: Final = 40


class Style(enum.Enum):
    """How a text is set off; the value is its escape."""

    NONE = ""
    HEAD = "\x1b[1m"
    GOOD = "\x1b[32m"
    BAD = "\x1b[31m"
    DOUBT = "\x1b[33m"
    FAINT = "\x1b[2m"


@dataclass(frozen=True, slots=True)
class Look:
    """How a page looks.

    Attributes:
        width: Columns to fit; ``None`` for lines of any length.
        colour: Whether to colour.
        utc: Whether times are UTC; else local.
    """

    width: int | None = None
    colour: bool = False
    utc: bool = False


class Page:
    """Lines, in the order in which they are added."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self._lines: list[str] = []

    def text(self) -> str:
        """All lines."""
        return "\n".join(self._lines)

    def gap(self) -> None:
        """An empty line, but no two of them."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def line(self, text: str, style: Style = Style.NONE, indent: int = 0) -> None:
        """One line; broken with a hanging indent where it is too long."""
        self._put(" " * indent, " " * (indent + 2), clean(text), style)

    def row(self, label: str, text: str, style: Style = Style.NONE) -> None:
        """A labelled line."""
        self._put(f"    {label:<{_LABEL}}", " " * (4 + _LABEL), clean(text), style)

    def quote(self, lines: list[str]) -> None:
        """Lines of another's, cut where they are too long."""
        for line in lines:
            text = " " * (4 + _LABEL) + "| " + clean(line)
            if self.look.width is not None and len(text) > self.look.width:
                text = text[: max(_NARROWEST, self.look.width) - 3] + "..."
            self._lines.append(self._coloured(text, Style.FAINT))

    def _put(self, first: str, following: str, text: str, style: Style) -> None:
        if self.look.width is None:
            lines = [(first + text).rstrip()]
        else:
            lines = textwrap.wrap(
                text,
                max(_NARROWEST, self.look.width),
                initial_indent=first,
                subsequent_indent=following,
                break_on_hyphens=False,
            ) or [first.rstrip()]
        self._lines += [self._coloured(line, style) for line in lines]

    def _coloured(self, line: str, style: Style) -> str:
        return f"{style.value}{line}{_PLAIN}" if self.look.colour and style.value else line


def clean(text: str) -> str:
    """A text that cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text.expandtabs(4))


def day_and_clock(time_ns: int | None, utc: bool) -> str:
    """A moment with its date and zone."""
    if time_ns is None:
        return "an unknown time"
    told = time.gmtime(time_ns // NS_PER_S) if utc else time.localtime(time_ns // NS_PER_S)
    return time.strftime("%Y-%m-%d %H:%M:%S", told) + (" UTC" if utc else time.strftime(" %z", told))


def clock(time_ns: int | None, utc: bool) -> str:
    """A moment of the day, to the millisecond."""
    if time_ns is None:
        return "?"
    seconds, below = divmod(time_ns, NS_PER_S)
    told = time.gmtime(seconds) if utc else time.localtime(seconds)
    return f"{time.strftime('%H:%M:%S', told)}.{below // 1_000_000:03d}"


def duration(duration_ns: int | None) -> str:
    """A duration, no finer than one cares for."""
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
