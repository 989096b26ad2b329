"""The worker of the demonstration's job: one of them fails in the first attempt, all succeed in the second.

Guarantees: rank 1 fails once, and only after every worker of the first attempt has begun, so all workers agree on
which attempt it is (``TORCHELASTIC_RESTART_COUNT`` differs: the peer of the failed agent restarts without counting).
A worker does not outlive its agent, nor wait longer than a minute.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

DIRECTORY = "TORCHELASTIC_DEMO_DIRECTORY"
"""Environment variable: the directory by which the workers of all nodes coordinate."""

FAILING_RANK = 1
FAILED = "failed"
TRAINING_S = 1.5
PATIENCE_S = 60.0


def work() -> None:
    """Train for a moment; in the first attempt fail, or wait to be stopped.

    Raises:
        RuntimeError: This worker is the one that fails, in the first attempt.
        TimeoutError: The first attempt lasted longer than a minute.
    """
    directory = Path(os.environ[DIRECTORY])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    failed = directory / FAILED
    if failed.exists():
        print(f"rank {rank} of {world}: trains and is done", flush=True)
        time.sleep(TRAINING_S)
        return
    (directory / f"began-{rank}").touch()
    print(f"rank {rank} of {world}: first attempt", flush=True)
    if rank == FAILING_RANK:
        _wait_until_all_began(directory, world)
        time.sleep(TRAINING_S)
        failed.touch()
        raise RuntimeError(f"the demonstration's failure: rank {rank} fails once")
    _wait_to_be_stopped()


def _wait_until_all_began(directory: Path, world: int) -> None:
    for _ in _ticks():
        if len(list(directory.glob("began-*"))) == world:
            return


def _wait_to_be_stopped() -> None:
    for _ in _ticks():
        pass


def _ticks() -> Iterator[None]:
    agent = os.getppid()
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if os.getppid() != agent:
            raise SystemExit("the agent is gone")
        yield
        time.sleep(0.05)
    raise TimeoutError(f"nothing happened within {PATIENCE_S:g} s")


if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.errors import record

    # Writes the exception to the error file that the agent reads.
    record(work)()
