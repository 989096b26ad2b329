"""Numbers and names in groups, for a person: ``0-37,39``; ``a, b and 6 more``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_MOST: Final = 8


def ranges(numbers: Iterable[int], most: int = _MOST) -> str:
    """The numbers as ranges, each once, rising; of more than ``most`` ranges the first ones, and how many numbers."""
    groups: list[list[int]] = []
    for number in sorted(set(numbers)):
        if groups and number == groups[-1][1] + 1:
            groups[-1][1] = number
        else:
            groups.append([number, number])
    shown = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in groups[:most])
    if len(groups) <= most:
        return shown
    return f"{shown},... ({sum(last - first + 1 for first, last in groups)} of them)"


def named(names: Sequence[str], most: int = _MOST) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
