"""A real torchrun agent whose start is timed on its main thread. Arguments: torchrun's own.

What always holds: the moments are taken by wrappers around torch's own functions, in every variant alike; with
nothing installed, what lies between the first two is a microsecond. ``BENCH_PROFILE`` has what lies there profiled.
"""

from __future__ import annotations

import cProfile
import json
import os
import sys
import time
from typing import Any

import profiles


def now() -> tuple[int, int]:
    """Wall and main-thread CPU nanoseconds."""
    return time.perf_counter_ns(), time.thread_time_ns()


def main() -> None:
    """Run the agent; say the moments once it is about to rendezvous."""
    import torch.distributed.elastic.rendezvous.dynamic_rendezvous as dynamic
    from torch.distributed import run
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry as registry

    moments: dict[str, tuple[int, int]] = {}
    profile = cProfile.Profile() if os.environ.get("BENCH_PROFILE") else None
    # whoever loaded by an entry point has wrapped the class by now: this goes around it, the creator lies inside
    create = type(registry).create_handler
    creator = registry._registry["c10d"]
    join = dynamic.DynamicRendezvousHandler.next_rendezvous

    def create_handler(self: Any, params: Any) -> Any:
        moments["asked for a handler"] = now()
        if profile is not None:
            profile.enable()
        return create(self, params)

    def create_c10d(params: Any) -> Any:
        if profile is not None:
            profile.disable()
        moments["armed"] = now()
        return creator(params)

    def next_rendezvous(self: Any) -> Any:
        moments["rendezvous"] = now()
        text = "arming: " + profiles.text(profile, 1, order="cumtime") if profile is not None else ""
        print(json.dumps({"kind": "moments", "moments": moments, "profile": text}), flush=True)
        return join(self)

    type(registry).create_handler = create_handler
    registry._registry["c10d"] = create_c10d
    dynamic.DynamicRendezvousHandler.next_rendezvous = next_rendezvous
    run.main(sys.argv[1:])


if __name__ == "__main__":
    main()
