"""A worker that loads torch's elastic rendezvous as workers do, by ``torch.distributed.checkpoint``.

Argument: ``ours``, or ``without``, which passes over our entry point. It says how long loading the entry point took,
and what the process has afterwards; with ``BENCH_PROFILE``, the profile of it.
"""

from __future__ import annotations

import cProfile
import importlib.metadata
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import profiles

_SDK = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "grpc", "sqlite3")


def main() -> None:
    """See the header of this file."""
    import torch.distributed

    with_ours = sys.argv[1] == "ours"
    took: dict[str, int] = {}
    profile = cProfile.Profile() if os.environ.get("BENCH_PROFILE") else None
    load = importlib.metadata.EntryPoint.load

    def timed_load(entry: importlib.metadata.EntryPoint) -> Any:
        if entry.group != "torchrun.handlers" or not entry.value.startswith("torchelastic_otel."):
            return load(entry)
        if not with_ours:
            return lambda: None
        if profile is not None:
            profile.enable()
        began = time.perf_counter_ns()
        handler = load(entry)
        took["load"] = time.perf_counter_ns() - began

        def timed_handler() -> Any:
            began = time.perf_counter_ns()
            backend = handler()
            took["call"] = time.perf_counter_ns() - began
            if profile is not None:
                profile.disable()
            return backend

        return timed_handler

    importlib.metadata.EntryPoint.load = timed_load  # type: ignore[method-assign]
    before = set(sys.modules)
    import torch.distributed.checkpoint
    import torch.distributed.elastic.multiprocessing.errors  # noqa: F401 - workers do

    said = {
        "kind": "worker",
        "took": took,
        "profile": profiles.text(profile, 1, order="cumtime") if profile is not None and took else "",
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "python_threads": [thread.name for thread in threading.enumerate()],
        "sdk": sorted(name for name in set(sys.modules) - before if name.startswith(_SDK)),
        "ours": sorted(name for name in sys.modules if name.startswith("torchelastic_otel")),
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
