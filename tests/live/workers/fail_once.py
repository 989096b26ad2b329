"""Rank 1 fails in the first attempt, after all have begun; all are done at once in the second.

Arguments: a directory that the workers of all nodes share.
"""

import os
import sys
import time
from pathlib import Path

directory, rank, world = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
failed = directory / "failed"
if not failed.exists():
    (directory / f"began-{rank}").touch()
    agent, end = os.getppid(), time.monotonic() + 600
    while time.monotonic() < end and os.getppid() == agent:
        if rank == 1 and len(list(directory.glob("began-*"))) == world:
            failed.touch()
            raise SystemExit(7)
        time.sleep(0.02)
    raise SystemExit("nobody stopped this worker")
