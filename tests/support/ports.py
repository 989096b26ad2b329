"""Ports of 127.0.0.1 that are ours until this process ends, also while nothing listens on them.

A program that is killed and started again must find its ports free. They lie below those that the kernel hands out to
connections, and a lock on a file for each keeps tests that run at the same time apart.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

_LOWEST, _HIGHEST = 20_000, 31_999
_TRIES = 1_000
_held: list[int] = []
"""Open files whose locks say that a port is taken."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, and that nobody else who asks here is given."""
    folder = Path(tempfile.gettempdir()) / f"torchelastic-otel-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    chance = random.SystemRandom()
    for _ in range(_TRIES):
        port = chance.randint(_LOWEST, _HIGHEST)
        # not inherited by the programs: it must be free again when this process ends, however it does
        file = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(file)
            continue
        _held.append(file)
        return port
    raise RuntimeError(f"no free port between {_LOWEST} and {_HIGHEST} in {_TRIES} tries")
