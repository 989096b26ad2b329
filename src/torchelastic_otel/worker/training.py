"""``training_started()``: a worker reports its first step, so that the time before it is not counted as training.

Guarantees: the first call in a process writes one small file, every later one is an attribute look-up; without an
observed agent it does nothing; it never raises, and imports nothing but this package's own constants.
"""

from __future__ import annotations

import os
import time

from torchelastic_otel.environment_variables import TRAINING_FILE

_called = False


def training_started() -> None:
    """Report that this worker has begun to train: call it at the first step.

    For torchrun a worker is running from the start of its process, which first loads libraries, data and a checkpoint.
    With this call that time is separated from training, for this start and after each restart. Call it in every worker,
    or in one.
    """
    global _called
    if _called:
        return
    _called = True  # first: a failure is not repeated at every step
    path = os.environ.get(TRAINING_FILE)
    if path:
        _write(path)


def _write(path: str) -> None:
    try:
        # an existing file is not changed: a child of the worker calls later, and a link may be another user's
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"%d %d" % (time.time_ns(), time.monotonic_ns()))
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        pass  # no agent, no directory, no disk: never an error of the training
