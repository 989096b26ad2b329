"""What a worker pays for our names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "call",
    ["training_started()", "attach_context()"],
)
def test_a_call_that_has_nothing_to_do_imports_nothing_of_weight(call: str) -> None:
    """A training script keeps the call also where there is no agent of ours."""
    program = f"import torchelastic_otel as t, sys, json; t.{call}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout))
    assert not {"torch", "opentelemetry", "logging", "sqlite3", "dataclasses"} & loaded
    assert not {name for name in loaded if name.startswith("torchelastic_otel.capture")}


@pytest.mark.parametrize("room", ["training", "context"])
def test_importing_it_costs_far_below_a_millisecond(room: str, tmp_path: Path) -> None:
    """As installed, from bytecode; the best of five after the first, since a busy machine is slow."""
    program = (
        "import time, typing, torchelastic_otel; began = time.perf_counter_ns(); "
        f"import torchelastic_otel.worker.{room}; print(time.perf_counter_ns() - began)"
    )
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def once() -> int:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        )
        return int(done.stdout)

    once()  # writes the bytecode
    assert min(once() for _ in range(5)) < 500_000
