"""A profile as text that fits under a table."""

from __future__ import annotations

import cProfile
import io
import pstats
import re


def text(profile: cProfile.Profile, times: int, *, order: str = "tottime", lines: int = 14) -> str:
    """The dearest functions, by their last two path names; without the directories of this machine.

    Args:
        profile: A profile that has been disabled.
        times: How often what was profiled was done.
        order: What is dearest, as ``pstats`` names it.
        lines: How many functions.
    """
    out = io.StringIO()
    stats = pstats.Stats(profile, stream=out)
    stats.sort_stats(order).print_stats(lines)
    rows = out.getvalue().splitlines()
    first = next(number for number, row in enumerate(rows) if row.lstrip().startswith("ncalls"))
    kept = [re.sub(r"\S*/(?=[^/]+/[^/]+:\d+)", "", row.rstrip()) for row in rows[first:] if row.strip()]
    each = stats.total_tt / times  # type: ignore[attr-defined]
    return "\n".join([f"{times} times, {each * 1e6:.0f} us each", *kept])
