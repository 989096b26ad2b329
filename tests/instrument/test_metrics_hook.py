"""What torch measures of its own agent is seen, and the user's own handler sees what it always saw."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from torchelastic_otel.instrument.arming import Patches
from torchelastic_otel.instrument.metrics_hook import MAX_NAMES, TorchMetrics
from torchelastic_otel.processing.metrics.self_metrics import TorchMetric

pytestmark = pytest.mark.torch
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hooked() -> Any:
    """The hook on the torch that is there, taken off again at the end."""
    patches, metrics = Patches(), TorchMetrics()
    metrics.install(patches)
    yield metrics
    patches.undo()


@pytest.fixture
def handler() -> Any:
    """A handler of the user's for a group of its own."""
    from torch.distributed.elastic import metrics

    class Collecting(metrics.MetricHandler):
        def __init__(self) -> None:
            self.seen: list[tuple[str, str, float]] = []

        def emit(self, metric_data: Any) -> None:
            self.seen.append((metric_data.group_name, metric_data.name, metric_data.value))
            if metric_data.name == "broken":
                raise RuntimeError("the user's own")

    collecting = Collecting()
    metrics.configure(collecting, "mine")
    yield collecting
    metrics.api._metrics_map.pop("mine")


def test_every_way_to_put_a_metric_is_seen_by_us_and_by_the_users_handler(hooked: TorchMetrics, handler: Any) -> None:
    """Torch's callers bind put_metric and prof by name: all of them end in the stream."""
    from torch.distributed.elastic.agent.server import api as agent
    from torch.distributed.elastic.metrics import getStream, prof, put_metric

    put_metric("a", 2, "mine")
    agent.put_metric("a", 5, "mine")
    getStream("mine").add_value("b", 1.5)
    prof(lambda: None, group="mine")()
    known = hooked.read()
    assert known["mine/a"] == TorchMetric("mine", "a", 2, 7, 5, 5)
    assert known["mine/b"] == TorchMetric("mine", "b", 1, 1.5, 1.5, 1.5)
    assert {"a", "b"} < {name for _, name, _ in handler.seen}
    assert len([name for name in known if name.startswith("mine/") and name.endswith(".success")]) == 1
    assert len(handler.seen) == 5


def test_what_the_users_handler_raises_is_raised_and_nothing_of_ours(hooked: TorchMetrics, handler: Any) -> None:
    """The guard is around our own work alone."""
    from torch.distributed.elastic.metrics import put_metric

    with pytest.raises(RuntimeError, match="the user's own"):
        put_metric("broken", 1, "mine")
    for odd in ("text", None, float("nan"), float("inf")):
        put_metric("odd", odd, "mine")  # type: ignore[arg-type]
    assert "mine/odd" not in hooked.read()


def test_what_torch_is_known_to_measure_is_there_at_nothing_from_the_beginning(hooked: TorchMetrics) -> None:
    """A counter that appears with its first 1 has never risen, to a backend."""
    known = hooked.read()
    for method in ("SimpleElasticAgent.run", "SimpleElasticAgent._rendezvous", "LocalElasticAgent._monitor_workers"):
        for what in ("success", "failure", "duration.ms"):
            assert known[f"torchelastic/{method}.{what}"].count == 0
    assert len(known) <= 32


def test_a_negative_value_is_the_last_one_and_lowers_no_sum(hooked: TorchMetrics) -> None:
    """Torch takes durations from the wall clock, which may step back."""
    from torch.distributed.elastic.metrics import put_metric

    for value in (10, -4):
        put_metric("x", value, "mine")
    assert hooked.read()["mine/x"] == TorchMetric("mine", "x", 1, 10, -4, 10)


def test_names_are_bounded_and_the_known_ones_go_on(hooked: TorchMetrics) -> None:
    """A program that puts the step into the name must not fill the agent's memory, nor the backend."""
    from torch.distributed.elastic.metrics import put_metric

    for step in range(1_000):
        put_metric(f"step {step}", 1, "mine")
    put_metric("step 0", 1, "mine")
    known = hooked.read()
    assert len(known) == MAX_NAMES
    assert known["mine/step 0"].count == 2


def test_uninstall_leaves_torch_as_found() -> None:
    """A guest leaves the house as it was."""
    from torch.distributed.elastic.metrics import api

    before = dict(vars(api.MetricStream))
    patches, metrics = Patches(), TorchMetrics()
    metrics.install(patches)
    assert vars(api.MetricStream)["add_value"] is not before["add_value"]
    patches.undo()
    assert dict(vars(api.MetricStream)) == before


@pytest.mark.live
@pytest.mark.parametrize("environment", [".venv-torch2.2", ".venv-torch2.8"])
def test_it_fits_the_older_torches(environment: str) -> None:
    """The oldest torch that is supported, and one in between."""
    program = """
import json
from torchelastic_otel.instrument.arming import Patches
from torchelastic_otel.instrument.metrics_hook import TorchMetrics
metrics = TorchMetrics()
metrics.install(Patches())
from torch.distributed.elastic.agent.server import api
api.put_metric("workers.default.run_total", 1)
print(json.dumps({name: known.sum for name, known in metrics.read().items()}))
"""
    python = ROOT / environment / "bin" / "python"
    done = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    known = json.loads(done.stdout.splitlines()[-1])
    assert known["torchelastic/workers.default.run_total"] == 1
    assert known["torchelastic/SimpleElasticAgent._rendezvous.duration.ms"] == 0
