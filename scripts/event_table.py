"""The rows of the tables of events and metrics in docs/reference, from the code."""

from collections.abc import Iterator

from torchelastic_otel.processing.metrics.catalogue import METRICS
from torchelastic_otel.torch_events.catalogue import EVENTS, INFERRED


def rows() -> Iterator[tuple[str, str, str]]:
    """The events of torch: where torch emits it, the event's name, its severity."""
    seen: set[str] = set()
    for event in EVENTS:
        if event.source and (event.name not in seen or not event.function):
            seen.add(event.name)
            yield event.source, f"`{event.name}`", event.severity.name


def inferred_rows() -> Iterator[tuple[str, str, str]]:
    """The inferred events: the event's name, its severity, its meaning."""
    for event in INFERRED.values():
        yield f"`{event.name}`", event.severity.name, event.meaning


def metric_rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Each metric that is counted from events: name, scope, instrument, unit, attributes with their values."""
    for row in METRICS:
        values = "; ".join(
            f"`{name}`: {', '.join(of) if len(of) <= 8 else 'every event name'}" for name, of in row.dimensions
        )
        yield f"`{row.name}`", row.scope.value, row.kind.value, f"`{row.unit}`", values
