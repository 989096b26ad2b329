"""Numbers in groups, for a person: ``0-37,39``."""

from __future__ import annotations

from collections.abc import Iterable
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
