"""What the options of ``timeline`` may say; this much is needed before anything else is imported."""

from __future__ import annotations

import argparse
import re
import time
from datetime import datetime, timezone
from typing import Final

from torchelastic_otel.units import NS_PER_S

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGO: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])")


def since(text: str) -> int:
    """A moment, nanoseconds since the epoch: so long ago (``90m``, ``2h``, ``7d``), or a date, or a date and a time.

    Without a zone it is local time.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return time.time_ns() - int(float(ago[1]) * _UNITS[ago[2]] * 1e9)
    try:
        # Python 3.10 knows no Z
        moment = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip()))
        return int(moment.astimezone(timezone.utc).timestamp()) * NS_PER_S
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; give how long ago (90m, 2h, 7d) or a time (2026-01-31, 2026-01-31T12:00:00Z)"
        ) from None


def round_number(text: str) -> int:
    """A round's number."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a round's number, from 0")
    return int(text)
