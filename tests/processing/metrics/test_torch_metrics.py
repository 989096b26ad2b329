"""What torch measures of its own agent, by names and instruments of OpenTelemetry."""

from __future__ import annotations

import pytest

from torchelastic_otel import semconv
from torchelastic_otel.model.metric import Distribution, Kind
from torchelastic_otel.processing.metrics.self_metrics import TorchMetric
from torchelastic_otel.processing.metrics.torch_metrics import torch_series


@pytest.mark.parametrize(
    ("name", "metric", "unit", "kind", "value"),
    [
        ("SimpleElasticAgent._rendezvous.success", "simple_elastic_agent.rendezvous.success", "{call}", "counter", 6),
        (
            "LocalElasticAgent._monitor_workers.duration.ms",
            "local_elastic_agent.monitor_workers.duration",
            "s",
            "histogram",
            Distribution((), (3,), 0.006, None, 0.004),
        ),
        ("workers.trainer.v2.healthy", "workers.healthy", "{poll}", "counter", 6),
        ("workers.trainer.v2.run_total", "workers.run_total", "{run}", "counter", 6),
        ("workers.trainer.v2.remaining_restarts", "workers.remaining_restarts", "{restart}", "gauge", 1),
        ("workers.trainer.v2.flakiness", "workers.flakiness", "%", "gauge", 1),
        ("Loss per GPU [x]", "loss_per_gpu_x", "1", "histogram", Distribution((), (3,), 6, None, 4)),
        ("time", "time_", "1", "histogram", Distribution((), (3,), 6, None, 4)),
        ("!!!", "unnamed", "1", "histogram", Distribution((), (3,), 6, None, 4)),
    ],
)
def test_torchs_names_become_metrics(name: str, metric: str, unit: str, kind: str, value: object) -> None:
    """Who knows torch's metrics finds them; seconds are seconds, and a name that is taken is not taken twice."""
    (series,) = torch_series({name: TorchMetric("torchelastic", name, 3, 6, 1, 4)})
    assert series.definition.name == "torchelastic.agent." + metric
    assert (series.definition.unit, series.definition.kind, series.value) == (unit, Kind(kind), value)
    assert series.attributes == ({semconv.ROLE_NAME: "trainer.v2"} if name.startswith("workers.") else {})


def test_a_programs_own_group_is_part_of_the_name_and_nothing_is_read_into_it() -> None:
    """What a program puts under a name that looks like torch's may mean anything."""
    (series,) = torch_series({"": TorchMetric("my_module", "calls.success", 2, 3, 1, 2)})
    assert (series.definition.name, series.definition.kind) == (
        "torchelastic.agent.my_module.calls.success",
        Kind.HISTOGRAM,
    )


def test_two_names_that_come_out_as_one_are_told_once() -> None:
    """One metric of two instruments, or two points of one series, would be refused with all others."""
    names = ["a b", "a_b", "SimpleElasticAgent.run.success", "SimpleElasticAgent._run.success"]
    told = list(torch_series({name: TorchMetric("torchelastic", name, 1, 1, 1, 1) for name in names}))
    assert len(told) == len({series.definition.name for series in told}) == 2


def test_a_name_that_was_never_put_is_there_at_nothing() -> None:
    """Its first value is seen as one only if it was 0 before."""
    (series,) = torch_series({"": TorchMetric("torchelastic", "SimpleElasticAgent.run.duration.ms")})
    assert series.value == Distribution((), (0,), 0, None, None)
