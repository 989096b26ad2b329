"""Drivers: small agents in real processes, see ``tests/crash/driver.py``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torchelastic_otel

DRIVER = Path(__file__).parents[1] / "crash" / "driver.py"
SOURCE = str(Path(torchelastic_otel.__file__).parents[1])


class Driver:
    """One running driver."""

    def __init__(self, plan: str, count: int, environ: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(DRIVER), plan, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": SOURCE, **environ},
        )
        # SIGABRT has faulthandler say where it hung; not a timer of faulthandler's own, which hangs forked children
        self._limit = threading.Timer(600, self.process.send_signal, (signal.SIGABRT,))
        self._limit.daemon = True
        self._limit.start()

    def heard(self) -> dict[str, Any]:
        """The next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the driver ended: {self.process.communicate(timeout=30)[1]}")
        return dict(json.loads(line))

    def go_on(self) -> None:
        """Say a word to it."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def ended(self, timeout: float = 60) -> tuple[int, list[dict[str, Any]], str]:
        """Its exit status, what else it said, and its standard error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        # not communicate(): it does not know of lines that readline() has read ahead (CPython 3.11)
        said: list[str] = []
        errors = threading.Thread(target=lambda stream=self.process.stderr: said.append(stream.read()))
        errors.start()
        out = self.process.stdout.read()
        errors.join(timeout)
        status = self.process.wait(timeout)
        self._limit.cancel()
        return status, [json.loads(line) for line in out.splitlines()], said[0]


Drive = Callable[..., Driver]
