"""Rings a pipe (a FIFO) and waits: to be stopped, for its agent's end, or for a file.

Arguments: the pipe, and optionally the file. When stopped by SIGTERM it rings again, with the word ``stopped``.
"""

import os
import signal
import sys
import time
from pathlib import Path


def ring(word: str) -> None:
    """Tell the test."""
    with open(sys.argv[1], "w") as pipe:
        pipe.write(f"{word} {os.getpid()}\n")


def stop(number: int, frame: object) -> None:
    """What torch sends first."""
    ring("stopped")
    raise SystemExit(0)


signal.signal(signal.SIGTERM, stop)
agent, end = os.getppid(), time.monotonic() + 600
ring("began")
while time.monotonic() < end and os.getppid() == agent:
    if len(sys.argv) > 2 and Path(sys.argv[2]).exists():
        break
    time.sleep(0.02)
