"""The metrics of one process: ``update`` reduces its events, ``snapshot`` gives the metrics of one moment."""

from torchelastic_otel.processing.metrics.state import MetricState, update

__all__ = ["MetricState", "update"]
