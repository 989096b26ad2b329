"""A small process that records events: nothing of torch, one way of telemetry or none.

Arguments: the way (``none``, ``ours``, ``sdk``), and a JSON object: how many events at first (``burst``), how long to
live then (``settle_s``), whether to die by SIGKILL right after the burst (``die``), and whether to go on by lines of
standard input (``obey``): a number records that many more events, 0.2 s apart; the end of the input ends the process.

It says ``recorded`` after the burst and after each number, and ``end`` with the monotonic clock as the last thing.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

SPACING_S = 0.2


def recorder(way: str) -> Callable[[int], None]:
    """Something that records one event of this number, through the way's own start."""
    from torchelastic_otel import events

    def made(number: int) -> events.RdzvEvent:
        message = f"event {number} of the benchmark"
        return events.RdzvEvent("small.py:main", "bench", message, "localhost", os.getpid(), events.NodeState.RUNNING)

    if way == "sdk":
        import afternoon

        logger = logging.Logger("torchelastic-events-dynamic_rendezvous", logging.INFO)
        logger.addHandler(afternoon.handler())
        return lambda number: logger.info(made(number).serialize())
    if way == "ours":
        import torchelastic_otel

        torchelastic_otel.install(watch_torch=False)
    return lambda number: events.record_rdzv_event(made(number))


def say(kind: str, **what: int) -> None:
    """One line of JSON for who started this."""
    print(json.dumps({"kind": kind, **what}), flush=True)


def main() -> None:
    """See the header of this file."""
    plan = json.loads(sys.argv[2])
    record = recorder(sys.argv[1])
    number = 0
    for number in range(1, plan["burst"] + 1):
        record(number)
    if plan.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    say("recorded", last=number)
    time.sleep(plan.get("settle_s", 0))
    for line in sys.stdin if plan.get("obey") else ():
        for _ in range(int(line)):
            number += 1
            record(number)
            time.sleep(SPACING_S)
        say("recorded", last=number)
    say("end", monotonic_ns=time.monotonic_ns())


if __name__ == "__main__":
    main()
