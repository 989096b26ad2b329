"""A worker that does nothing, for as long as ``BENCH_REST_S`` says, and no longer than its agent lives."""

from __future__ import annotations

import os
import time

agent, end = os.getppid(), time.monotonic() + float(os.environ.get("BENCH_REST_S", "0"))
while time.monotonic() < end and os.getppid() == agent:
    time.sleep(0.05)
