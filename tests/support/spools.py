"""What tests of spools share."""

from __future__ import annotations

from pathlib import Path

BOUND = 1 << 20
"""Bytes of a test's spool."""


def size_on_disk(path: Path) -> int:
    """Bytes of the file and its write-ahead log."""
    return sum(p.stat().st_size for p in path.parent.glob(path.name + "*") if not p.name.endswith("-shm"))
