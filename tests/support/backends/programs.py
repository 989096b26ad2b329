"""Where the real programs are: what ``scripts/backends`` says, asked once."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "backends"
NO_GO = 3
"""The script's exit status where they are not there and cannot be built; any other one but 0 is a fault of ours."""


class Missing(Exception):
    """There are none, and none can be built here; the message is one line that says how to get them."""


@dataclass(frozen=True, slots=True)
class Programs:
    """All of them, ready to be run."""

    collector: Path
    loki: Path
    prometheus: Path
    promtool: Path
    jaeger: Path


@functools.cache
def find_programs() -> Programs:
    """The programs. Raises :class:`Missing` without Go, RuntimeError where they are not built yet."""
    asked = subprocess.run([sys.executable, str(SCRIPT), "--paths"], capture_output=True, text=True, check=False)
    if asked.returncode == NO_GO:
        raise Missing(asked.stderr.strip())
    if asked.returncode != 0:
        raise RuntimeError(asked.stderr.strip())
    paths = dict(line.split("=", 1) for line in asked.stdout.splitlines())
    return Programs(**{field.name: Path(paths[field.name]) for field in fields(Programs)})
