"""What a worker pays for our names."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.torch_unloaded
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
    ours = ("instrument", "agent", "ingest", "runtime", "export", "spool", "processing", "torch_events", "model")
    assert not {name for name in loaded if name.startswith(tuple(f"torchelastic_otel.{package}" for package in ours))}


@pytest.mark.torch_unloaded
@pytest.mark.parametrize("room", ["training", "context"])
def test_importing_it_imports_nothing_but_itself(room: str) -> None:
    """What a worker has not imported already it does not pay for."""
    program = (
        "import json, os, sys, time, types, typing, collections.abc, torchelastic_otel; before = set(sys.modules); "
        f"import torchelastic_otel.worker.{room}; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    ours = {"torchelastic_otel.worker", f"torchelastic_otel.worker.{room}", "torchelastic_otel.environment_variables"}
    assert set(json.loads(done.stdout)) <= ours
