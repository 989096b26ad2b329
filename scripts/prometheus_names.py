"""What Prometheus calls each of our metrics, by its rule for OTLP (``UnderscoreEscapingWithSuffixes``).

Dots become underscores; a unit is spelled out at the end, one in braces left out; a counter ends in ``_total``; a
histogram is three: ``_bucket``, ``_sum``, ``_count``. A test holds this against the real Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterator

from torchelastic_otel import semconv
from torchelastic_otel.model.metric import Kind
from torchelastic_otel.processing.metrics.catalogue import METRICS

UNITS = {"s": "seconds", "By": "bytes", "ms": "milliseconds"}
OF_DELIVERY = (
    (semconv.METRIC_SPOOL_SIZE, "By", Kind.GAUGE),
    (semconv.METRIC_SPOOL_AGE, "s", Kind.GAUGE),
    (semconv.METRIC_SPOOL_DROPPED, "{event}", Kind.COUNTER),
    (semconv.METRIC_EXPORT_DELIVERED, "{event}", Kind.COUNTER),
    (semconv.METRIC_EXPORT_FAILED, "{event}", Kind.COUNTER),
    (semconv.METRIC_EXPORT_REJECTED, "{event}", Kind.COUNTER),
)
"""Metrics of delivery, which no event updates."""


def prometheus_name(name: str, unit: str, kind: Kind) -> str:
    """The name; of a histogram without the endings of its three parts."""
    words = name.replace(".", "_")
    if spelled := UNITS.get(unit):
        words = words if words.endswith(f"_{spelled}") else f"{words}_{spelled}"
    return f"{words}_total" if kind is Kind.COUNTER else words


def metrics() -> Iterator[tuple[str, str, str]]:
    """Each metric, its kind, and its name in Prometheus."""
    rows = [(row.name, row.unit, row.kind) for row in METRICS] + list(OF_DELIVERY)
    for name, unit, kind in rows:
        yield name, kind.value, prometheus_name(name, unit, kind)


def series_names() -> dict[str, set[str]]:
    """By metric, the names of its series in Prometheus."""
    return {
        name: {f"{called}_{part}" for part in ("bucket", "sum", "count")} if kind == Kind.HISTOGRAM.value else {called}
        for name, kind, called in metrics()
    }


def table() -> Iterator[str]:
    """The rows of the table in docs/reference/metrics.md."""
    yield "| metric | kind | in Prometheus |"
    yield "|---|---|---|"
    for name, kind, called in metrics():
        shown = f"{called}_bucket`, `_sum`, `_count" if kind == Kind.HISTOGRAM.value else called
        yield f"| `{name}` | {kind} | `{shown}` |"
