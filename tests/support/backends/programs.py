"""Where the real programs are: the answer of ``scripts/backends``, looked up once."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "backends"
NO_GO = 3
"""The script's exit status if they are missing and cannot be built; any other status but 0 is an error."""


class Missing(Exception):
    """They are missing and cannot be built here; the message is one line with the remedy."""


@dataclass(frozen=True, slots=True)
class Programs:
    """All of them."""

    collector: Path
    victorialogs: Path
    vmalert: Path
    prometheus: Path
    promtool: Path
    jaeger: Path


@functools.cache
def find_programs() -> Programs:
    """The programs. Raises :class:`Missing` without Go, RuntimeError if they are not built yet."""
    asked = subprocess.run([sys.executable, str(SCRIPT), "--paths"], capture_output=True, text=True, check=False)
    if asked.returncode == NO_GO:
        raise Missing(asked.stderr.strip())
    if asked.returncode != 0:
        raise RuntimeError(asked.stderr.strip())
    paths = dict(line.split("=", 1) for line in asked.stdout.splitlines())
    return Programs(**{field.name: Path(paths[field.name]) for field in fields(Programs)})


def find_loki() -> Path | None:
    """The Loki on PATH, if any: it is under the AGPL, so this project does not build it."""
    found = shutil.which("loki")
    return Path(found) if found else None
