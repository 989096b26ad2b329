"""A worker says that it trains, so that the time before its first step is known for what it is.

What always holds: the first call of a process makes one small file beside the agent's and no more, every later one
an attribute look-up; without an agent of ours it does nothing; it never raises, and imports nothing that the process
has not.
"""

from __future__ import annotations

import os
import time

from torchelastic_otel.environment_variables import TRAINING_FILE

_called = False


def training_started() -> None:
    """Say that this worker has begun to train: call it at the first step.

    What torchrun calls running begins with the worker's process; loading libraries, data and a checkpoint comes first.
    With this call that time is told apart, for this start and after each restart. Call it in every worker, or in one.
    """
    global _called
    if _called:
        return
    _called = True  # before anything else: what failed once is not tried at every step
    path = os.environ.get(TRAINING_FILE)
    if path:
        _write(path)


def _write(path: str) -> None:
    try:
        # what is there is left alone: a child of the worker calls later, and a link is a stranger's
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"%d %d" % (time.time_ns(), time.monotonic_ns()))
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        pass  # no agent, no directory, no disk: none of it is the training's affair
