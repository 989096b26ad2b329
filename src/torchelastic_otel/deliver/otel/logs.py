"""The projection of events into OpenTelemetry log records.

What always holds: it is pure, it takes nothing from the thread it runs on (no ambient span, no clock, no
environment), and whatever it returns can be encoded as OTLP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.environment_variables import (
    OTEL_ATTRIBUTE_COUNT_LIMIT,
    OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT,
    OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT,
    OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from torchelastic_otel import semconv
from torchelastic_otel.deliver.otel.resource import resource_of
from torchelastic_otel.model.event import Delivery
from torchelastic_otel.version import __version__

SCOPE: Final = InstrumentationScope(semconv.SCOPE_NAME, __version__, semconv.SCHEMA_URL)

# LogRecord takes an empty Context for none given (1.45: ``if not context``) and falls back to the ambient span,
# so the context says explicitly that there is no span.
_NO_SPAN: Final = trace.set_span_in_context(trace.INVALID_SPAN, Context())
_DEFAULT_COUNT: Final = 128


def log_record(delivery: Delivery, limits: LogRecordLimits) -> ReadableLogRecord:
    """The log record of one event, as the exporters take it.

    ``limits`` are applied as a logger provider would: values are cut, then the oldest attributes dropped.
    ``log.record.uid`` is never cut: cut, it would be the same for all records of its origin.
    """
    event = delivery.event
    attributes = BoundedAttributes(
        maxlen=limits.max_log_record_attributes,
        attributes={key: _encodable(value) for key, value in event.attributes.items()},
        immutable=False,
        max_value_len=limits.max_log_record_attribute_length,
    )
    attributes.max_value_len = None
    attributes[semconv.LOG_RECORD_UID] = delivery.uid
    record = LogRecord(
        timestamp=_fixed64(event.time_ns),
        observed_timestamp=_fixed64(event.observed_ns) or 0,
        context=_NO_SPAN,
        severity_number=SeverityNumber(int(event.severity)),
        severity_text=event.severity.name,
        body=event.body,
        attributes=attributes,
        event_name=event.name,
    )
    return ReadableLogRecord(record, resource_of(delivery.origin), SCOPE, limits)


def _fixed64(time_ns: int | None) -> int | None:
    """The time as OTLP can say it; a replayed one may be anything."""
    return time_ns if time_ns is not None and 0 < time_ns < 1 << 64 else None


def _encodable(value: Any) -> Any:
    """An integer that does not fit OTLP's 64 bits as text; one such value would refuse its whole batch."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return str(value)
    return value


def limits_of(environ: Mapping[str, str], warn: Callable[[str], None]) -> LogRecordLimits:
    """The attribute limits that ``OTEL_LOGRECORD_ATTRIBUTE_*`` and ``OTEL_ATTRIBUTE_*`` set.

    A value that is no count is named with ``warn``, and the variable is taken for unset (the SDK raises). A
    variable that is set to nothing means no limit, as in the SDK.
    """

    def limit(name: str, default: int | None) -> int | None:
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
            meant = "no limit" if default is None else str(default)
            warn(f"{name}={text!r} is not allowed: give a whole number from 0; {meant} is used")
            return default
        return count

    count = limit(OTEL_ATTRIBUTE_COUNT_LIMIT, _DEFAULT_COUNT)
    count = _DEFAULT_COUNT if count is None else count
    length = limit(OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT, None)
    # None would make LogRecordLimits read os.environ itself.
    return LogRecordLimits(
        *(
            LogRecordLimits.UNSET if value is None else value
            for value in (
                count,
                length,
                limit(OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT, count),
                limit(OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT, length),
            )
        )
    )
