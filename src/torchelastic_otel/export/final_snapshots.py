"""The last numbers of a process that is gone, from the tally that its spool keeps.

What always holds: no series begins with anything but 0: what was never told is told as 0 first, and then as what it
came to. The time is that of the telling: backends refuse what is older than what they have.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from torchelastic_otel.model.metric import Snapshot
from torchelastic_otel.processing.metrics import MetricState
from torchelastic_otel.processing.metrics.snapshot import acknowledge, snapshot


def last_snapshots(tally_json: str, clock_ns: Callable[[], int] = time.time_ns) -> list[Snapshot]:
    """The snapshots to tell, in order.

    Args:
        tally_json: The tally as the spool keeps it.
        clock_ns: Wall clock, nanoseconds since the epoch.

    Raises:
        ValueError: It is no tally.
    """
    tally = MetricState.from_json(tally_json)
    taken: list[Snapshot] = []
    for _ in range(2):
        last, tally = snapshot(tally, now_wall_ns=clock_ns(), now_monotonic_ns=tally.last_ns, final=True)
        if last.metrics:
            taken.append(last)
        if not tally.held_back:
            break
        tally = acknowledge(tally, last)
    return taken
