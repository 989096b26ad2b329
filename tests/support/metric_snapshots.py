"""Snapshots for tests, of literal numbers."""

from __future__ import annotations

from torchelastic_otel.model.metric import Distribution, Exemplar, Kind, Metric, Point, Snapshot

START = 1_700_000_000_000_000_000
S = 1_000_000_000
TRACE, SPAN = "ab" * 16, "cd" * 8
EXEMPLAR = Exemplar(1, START + 1, TRACE, SPAN)


def snapshot(
    at_s: int, *, failures: int = 0, restarts: tuple[float, ...] = (), size: int | None = 7, start_ns: int = START
) -> Snapshot:
    """The numbers ``at_s`` seconds after the start: a counter, a histogram of these durations, a gauge."""
    buckets = (sum(value <= 1 for value in restarts), sum(value > 1 for value in restarts))
    distribution = Distribution(
        (1.0,), buckets, float(sum(restarts)), min(restarts, default=None), max(restarts, default=None)
    )
    metrics = [
        Metric(
            "torchelastic.worker.failures",
            "{failure}",
            "Failures.",
            Kind.COUNTER,
            (Point({"torchelastic.failure.kind": "exit"}, failures, (EXEMPLAR,) if failures else ()),),
        ),
        Metric("torchelastic.restart.duration", "s", "Restarts.", Kind.HISTOGRAM, (Point({}, distribution),)),
    ]
    if size is not None:
        metrics.append(Metric("torchelastic.spool.size", "By", "Size.", Kind.GAUGE, (Point({}, size),)))
    return Snapshot(start_ns, START + at_s * S, tuple(metrics))
