"""Packages of npm that tests need, at exact versions, installed once per user.

An installation is complete or absent, also if several tests install at once. No lock file is written: it would name the
registry of one machine. Exact versions of all packages, also of those that others depend on, take its place.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchelastic-otel" / "npm"
OPTIONS = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]


class NoNpm(Exception):
    """There is no npm on PATH; the message has the remedy."""


def install(packages: Mapping[str, str]) -> Path:
    """The directory whose ``node_modules`` has these packages, name to version. Raises :class:`NoNpm`."""
    if shutil.which("npm") is None:
        raise NoNpm("there is no npm here; install Node.js")
    text = json.dumps({"private": True, "dependencies": dict(packages)}, sort_keys=True)
    directory = CACHE / hashlib.sha256(text.encode()).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            part = directory.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            (part / "package.json").write_text(text)
            command = ["npm", "install", *OPTIONS]
            if subprocess.run(command, cwd=part, check=False, timeout=300).returncode != 0:
                subprocess.run(command, cwd=part, check=True, timeout=300)  # a registry may fail once
            part.rename(directory)
    return directory
