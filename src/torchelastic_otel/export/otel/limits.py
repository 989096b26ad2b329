"""The limits on attributes, read from the environment as a provider of the SDK reads them.

Guarantees: a value that is not a count is a warning, and the default applies (the SDK raises). A variable that is empty
means no limit, as in the SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.sdk._logs import LogRecordLimits
from opentelemetry.sdk.environment_variables import (
    OTEL_ATTRIBUTE_COUNT_LIMIT,
    OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT,
    OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT,
    OTEL_LINK_ATTRIBUTE_COUNT_LIMIT,
    OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT,
    OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT,
    OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT,
    OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT,
    OTEL_SPAN_EVENT_COUNT_LIMIT,
    OTEL_SPAN_LINK_COUNT_LIMIT,
)
from opentelemetry.sdk.trace import SpanLimits

from torchelastic_otel.export.config import Warn

_DEFAULT_COUNT: Final = 128


def _limit(environ: Mapping[str, str], warn: Warn, name: str, default: int | None) -> int | None:
    text = environ.get(name)
    if text is None:
        return default
    if not text.strip():
        return None
    try:
        count = int(text)
    except ValueError:
        count = -1
    if count < 0:
        used = "no limit" if default is None else str(default)
        warn(f"{name}={text!r} is not allowed; allowed: a whole number from 0; using {used}")
        return default
    return count


def _general(environ: Mapping[str, str], warn: Warn) -> tuple[int, int | None]:
    count = _limit(environ, warn, OTEL_ATTRIBUTE_COUNT_LIMIT, _DEFAULT_COUNT)
    return _DEFAULT_COUNT if count is None else count, _limit(environ, warn, OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT, None)


def log_limits(environ: Mapping[str, str], warn: Warn) -> LogRecordLimits:
    """The limits that ``OTEL_LOGRECORD_ATTRIBUTE_*`` and ``OTEL_ATTRIBUTE_*`` set."""
    count, length = _general(environ, warn)
    # None would make LogRecordLimits read os.environ itself.
    return LogRecordLimits(
        *(
            LogRecordLimits.UNSET if value is None else value
            for value in (
                count,
                length,
                _limit(environ, warn, OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT, count),
                _limit(environ, warn, OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT, length),
            )
        )
    )


def span_limits(environ: Mapping[str, str], warn: Warn) -> SpanLimits:
    """The limits that ``OTEL_SPAN_*``, ``OTEL_EVENT_*``, ``OTEL_LINK_*`` and ``OTEL_ATTRIBUTE_*`` set."""
    count, length = _general(environ, warn)
    counts = {
        "max_events": _limit(environ, warn, OTEL_SPAN_EVENT_COUNT_LIMIT, _DEFAULT_COUNT),
        "max_links": _limit(environ, warn, OTEL_SPAN_LINK_COUNT_LIMIT, _DEFAULT_COUNT),
        "max_span_attributes": _limit(environ, warn, OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT, count),
        "max_event_attributes": _limit(environ, warn, OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT, count),
        "max_link_attributes": _limit(environ, warn, OTEL_LINK_ATTRIBUTE_COUNT_LIMIT, count),
        "max_attributes": count,
        "max_attribute_length": length,
        "max_span_attribute_length": _limit(environ, warn, OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT, length),
    }
    # None would make SpanLimits read os.environ itself.
    return SpanLimits(**{name: SpanLimits.UNSET if value is None else value for name, value in counts.items()})
