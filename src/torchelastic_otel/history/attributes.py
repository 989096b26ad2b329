"""What an event's attributes say, by their types; ``None`` where they do not say it."""

from __future__ import annotations

from torchelastic_otel.model.event import ElasticEvent


def text_of(event: ElasticEvent, name: str) -> str | None:
    """A text among an event's attributes."""
    value = event.attributes.get(name)
    return value if isinstance(value, str) else None


def number_of(event: ElasticEvent, name: str) -> int | None:
    """A whole number among an event's attributes."""
    value = event.attributes.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def seconds_of(event: ElasticEvent, name: str) -> int | None:
    """A number of seconds among an event's attributes, as nanoseconds."""
    value = event.attributes.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e10:
        return round(value * 1e9)
    return None


def texts_of(event: ElasticEvent, name: str) -> tuple[str, ...]:
    """A list of texts among an event's attributes."""
    value = event.attributes.get(name)
    return value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()
