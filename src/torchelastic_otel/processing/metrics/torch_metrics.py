"""What torch measures of its own agent, by names and instruments of OpenTelemetry.

Guarantees: a name is interpreted only if torch's agent is known to put it (torch 2.2 to 2.15); any other, put by a
program, is a histogram without bounds: count, sum and largest. A role is an attribute
and no part of a name. Names are bounded by who collects them.

Facts: ``prof`` puts ``<qualified name>.success``, ``.failure`` (1 each time) and ``.duration.ms``; the agent puts
``workers.<role>.remaining_restarts`` and ``workers.<role>.<state>`` (1) at each poll, and ``run_*`` (0 or 1) and
``flakiness`` (percent) once at its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.metric import Distribution, Kind
from torchelastic_otel.processing.metrics.catalogue import METRICS, MetricDefinition, Scope
from torchelastic_otel.processing.metrics.self_metrics import TorchMetric

_TORCH_GROUP: Final = "torchelastic"
_GAUGES: Final = {"remaining_restarts": "{restart}", "flakiness": "%"}
_RUN_OUTCOMES: Final = frozenset(
    {
        "run_total",
        "run_success_with_retries",
        "run_success_no_retries",
        "run_failed_with_retries",
        "run_failed_no_retries",
    }
)
_STATES: Final = frozenset({"unknown", "init", "healthy", "unhealthy", "stopped", "succeeded", "failed"})
_RESERVED: Final = frozenset(row.name for row in METRICS)
_MAX_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class TorchSeries:
    """One series that torch measured.

    Attributes:
        definition: The metric.
        attributes: The role, if the name has one.
        value: The number, or the distribution.
    """

    definition: MetricDefinition
    attributes: Mapping[str, str]
    value: float | Distribution


def torch_series(metrics: Mapping[str, TorchMetric]) -> Iterator[TorchSeries]:
    """The series of what torch was given; where two names come out as one metric of two kinds, the first one holds."""
    kinds: dict[str, Kind] = {}
    seen: set[tuple[str, str]] = set()
    for metric in metrics.values():
        series = _series(metric)
        place = series.definition.name, "".join(series.attributes.values())
        if (
            kinds.setdefault(series.definition.name, series.definition.kind) is series.definition.kind
            and place not in seen
        ):
            seen.add(place)
            yield series


def _series(metric: TorchMetric) -> TorchSeries:
    description = f"torch.distributed.elastic.metrics: {metric.name}"
    if metric.group == _TORCH_GROUP:
        if metric.name.endswith((".success", ".failure")):
            return TorchSeries(
                MetricDefinition(_name(metric.name), "{call}", description, Kind.COUNTER, Scope.AGENT), {}, metric.sum
            )
        if metric.name.endswith(".duration.ms"):
            name = _name(metric.name.removesuffix(".ms"))
            return TorchSeries(
                MetricDefinition(name, "s", description, Kind.HISTOGRAM, Scope.AGENT), {}, _distribution(metric, 1_000)
            )
        of_workers = re.fullmatch(r"workers\.(.*)\.([a-z_]+)", metric.name, re.DOTALL)
        if of_workers is not None:
            role, what = of_workers.groups()
            attributes, name = {semconv.ROLE_NAME: role}, _name(f"workers.{what}")
            description = f"torch.distributed.elastic.metrics: workers.<role>.{what}"
            if what in _GAUGES:
                return TorchSeries(
                    MetricDefinition(name, _GAUGES[what], description, Kind.GAUGE, Scope.AGENT), attributes, metric.last
                )
            if what in _RUN_OUTCOMES or what in _STATES:
                unit = "{run}" if what in _RUN_OUTCOMES else "{poll}"
                return TorchSeries(
                    MetricDefinition(name, unit, description, Kind.COUNTER, Scope.AGENT), attributes, metric.sum
                )
    words = metric.name if metric.group == _TORCH_GROUP else f"{metric.group}.{metric.name}"
    return TorchSeries(
        MetricDefinition(_name(words), "1", description, Kind.HISTOGRAM, Scope.AGENT), {}, _distribution(metric, 1)
    )


def _distribution(metric: TorchMetric, divisor: int) -> Distribution:
    most = metric.max / divisor if metric.count else None
    return Distribution((), (metric.count,), metric.sum / divisor, None, most)


def _name(words: str) -> str:
    """``SimpleElasticAgent._rendezvous.success`` as ``torchelastic.agent.simple_elastic_agent.rendezvous.success``."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", words).lower()
    parts = (re.sub(r"[^a-z0-9_]+", "_", part).strip("_") for part in snake.split("."))
    name = semconv.METRIC_BRIDGED + (".".join(part for part in parts if part) or "unnamed")
    return (name + "_" if name in _RESERVED else name)[:_MAX_NAME]
