"""One agent's own numbers, and the metrics of one moment (``snapshot``); ``fold`` is the way in."""

from torchelastic_otel.processing.metrics.state import MetricState, update

__all__ = ["MetricState", "update"]
