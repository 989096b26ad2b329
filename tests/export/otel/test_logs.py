"""The projection of an event into a log record, and the limits on its attributes."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import LogRecordLimits, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from tests.support.senders import user_draws
from tests.support.stored_events import ORIGIN, delivery
from torchelastic_otel.export.otel.limits import log_limits
from torchelastic_otel.export.otel.logs import log_record
from torchelastic_otel.model.event import ElasticEvent, Severity, StoredEvent

NAMES = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
)


def limits(**variables: str) -> LogRecordLimits:
    """Limits of such an environment, whose values are all allowed."""
    return log_limits(variables, lambda text: pytest.fail(text))


def test_an_ambient_span_does_not_get_into_a_record() -> None:
    """LogRecord takes an empty context for none and falls back to the ambient one."""
    with user_draws(), TracerProvider().get_tracer("test").start_as_current_span("ambient"):
        record = log_record(delivery(), limits()).log_record
    assert (record.trace_id, record.span_id, int(record.trace_flags or 0)) == (0, 0, 0)
    assert not trace.get_current_span(record.context).is_recording()


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def in_trace(trace_id: str | None = TRACE, span_id: str | None = SPAN) -> StoredEvent:
    """A delivery whose event is of a trace."""
    event = replace(delivery().event, trace_id=trace_id, span_id=span_id)
    return StoredEvent(1, event, ORIGIN)


@pytest.mark.parametrize("sampled", [True, False])
def test_a_record_of_a_trace_carries_its_ids(sampled: bool) -> None:
    """Backends join logs to traces; the flag says whether the trace is to be found there."""
    record = log_record(in_trace(), limits(), lambda trace_id: sampled)
    wire = encode_logs([record]).resource_logs[0].scope_logs[0].log_records[0]
    assert (wire.trace_id.hex(), wire.span_id.hex(), wire.flags) == (TRACE, SPAN, int(sampled))


@pytest.mark.parametrize("ids", [(None, None), (TRACE, None), (None, SPAN), ("x", SPAN), (TRACE, "")])
def test_what_is_no_span_joins_nothing_and_loses_no_record(ids: tuple[str | None, str | None]) -> None:
    """An event may be older than its trace; a damaged id is no reason to drop a failure."""
    record = log_record(in_trace(*ids), limits()).log_record
    assert (record.trace_id, record.span_id) == (0, 0)


def test_a_time_that_nobody_knows_is_none_and_not_now() -> None:
    """A record without a time is honest; one with the time of delivery is days off after an adoption."""
    record = log_record(delivery(time_ns=None), limits())
    assert record.log_record.timestamp is None
    assert record.log_record.observed_timestamp == 1_700_000_000_000_000_002
    assert encode_logs([record]).resource_logs[0].scope_logs[0].log_records[0].time_unix_nano == 0


def test_the_same_delivery_gives_the_same_bytes_twice() -> None:
    """Promise 4: a repeated send must be the same record, for a backend to drop it."""
    first, second = (encode_logs([log_record(delivery(), limits())]) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


@given(
    time_ns=st.one_of(st.none(), st.integers(-(2**70), 2**70)),
    observed_ns=st.integers(-(2**70), 2**70),
    attributes=st.dictionaries(
        st.text(st.characters(codec="utf-8")),
        st.one_of(
            st.integers(-(2**80), 2**80),
            st.floats(),
            st.booleans(),
            st.text(st.characters(codec="utf-8")),
            st.lists(st.text(st.characters(codec="utf-8"))).map(tuple),
        ),
    ),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_a_valid_event_can_be_encoded(
    time_ns: int | None, observed_ns: int, attributes: dict[str, Any]
) -> None:
    """One record that cannot be encoded fails its whole batch; a replayed file may hold any number."""
    event = ElasticEvent("torchelastic.event", "null", "", time_ns, observed_ns, attributes=attributes)
    request = encode_logs([log_record(StoredEvent(1, event, ORIGIN), limits())])
    assert len(request.resource_logs[0].scope_logs[0].log_records) == 1


def test_severities_keep_number_and_name() -> None:
    """Backends filter by number, people by name."""
    for severity in Severity:
        event = ElasticEvent("torchelastic.event", "null", "", None, 1, severity=severity)
        record = log_record(StoredEvent(1, event, ORIGIN), limits()).log_record
        assert record.severity_number is not None
        assert (record.severity_number.value, record.severity_text) == (severity.value, severity.name)


def test_limits_count_and_cut_as_a_logger_provider_does() -> None:
    """The provider's own class is the oracle: same attributes left, same number dropped."""
    variables = {"OTEL_ATTRIBUTE_COUNT_LIMIT": "3", "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "50"}
    attributes = {f"key{number}": "v" * 60 for number in range(5)}
    ours = log_record(delivery(attributes=attributes), limits(**variables))
    theirs = log_record(delivery(attributes=attributes), limits())
    theirs.log_record.attributes = {**attributes, "log.record.uid": f"{ORIGIN.id}-1"}
    with mock.patch.dict(os.environ, variables), pytest.warns(UserWarning, match="dropped"):
        oracle = ReadWriteLogRecord(theirs.log_record, Resource({}), limits=LogRecordLimits())
    assert ours.dropped_attributes == oracle.dropped_attributes == 3
    assert dict(ours.log_record.attributes or {}) == dict(oracle.log_record.attributes or {})


def test_the_uid_is_never_cut() -> None:
    """Cut to 8, all records of an agent would have one uid, and a backend would keep one of them."""
    record = log_record(delivery(7), limits(OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="8"))
    assert (record.log_record.attributes or {})["log.record.uid"] == f"{ORIGIN.id}-7"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_ATTRIBUTE_COUNT_LIMIT": "5"},
        {"OTEL_ATTRIBUTE_COUNT_LIMIT": "5", "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "0"},
        {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "9"},
        {"OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": " 7 "},
        {"OTEL_ATTRIBUTE_COUNT_LIMIT": ""},
        {"OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": ""},
    ],
    ids=str,
)
def test_limits_read_as_the_sdk_reads_them(variables: dict[str, str]) -> None:
    """The SDK's own reading of the same variables is the oracle."""
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    with mock.patch.dict(os.environ, {**kept, **variables}, clear=True):
        oracle = LogRecordLimits()
    assert repr(limits(**variables)) == repr(oracle)


@pytest.mark.parametrize("value", ["many", "-1", "1.5"])
@pytest.mark.parametrize("name", NAMES)
def test_a_limit_that_is_none_is_named_once_and_replaced(name: str, value: str) -> None:
    """The SDK raises on it; telemetry settings never stop a job."""
    said: list[str] = []
    found = log_limits({name: value}, said.append)
    assert repr(found) == repr(limits())
    [warning] = said
    assert name in warning
    assert value in warning
