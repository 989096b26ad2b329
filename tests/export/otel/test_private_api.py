"""What is not public in OpenTelemetry Python and its libraries, and ours rests on: another version must show here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import urllib3.connection
from opentelemetry import context
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.instrumentation.utils import suppress_instrumentation
from requests.adapters import HTTPAdapter

from tests.support.senders import environment
from torchelastic_otel.export.otel.cancellation import without_instrumentation
from torchelastic_otel.export.otel.otlp import _with_environ


def test_our_quiet_context_has_the_keys_of_suppress_instrumentation() -> None:
    """We set the keys ourselves, so that opentelemetry-instrumentation need not be installed."""
    token = context.attach(context.Context())
    try:
        with suppress_instrumentation():
            theirs = dict(context.get_current())
        with without_instrumentation():
            assert dict(context.get_current()) == theirs
    finally:
        context.detach(token)


@pytest.mark.parametrize("kind", [HttpLogExporter, HttpSpanExporter, HttpMetricExporter])
def test_the_http_exporter_takes_a_session_and_draws_backoffs_where_we_look(kind: Any) -> None:
    """`session=` is public; `_client._compute_backoff` and `_client._transport._session` are not."""
    assert "session" in inspect.signature(kind).parameters
    with environment({}):
        exporter = kind()
    assert callable(exporter._client._compute_backoff)
    assert callable(exporter._client._transport._session.request)


GRPC = {"LOGS": GrpcLogExporter, "TRACES": GrpcSpanExporter, "METRICS": GrpcMetricExporter}


@pytest.mark.parametrize("kind", GRPC.values())
def test_the_grpc_exporter_calls_the_stub_we_replace(kind: Any) -> None:
    """`_client` is private, and looked up at each export."""
    with environment({}):
        exporter = kind()
    assert callable(exporter._client.Export.future)
    assert "self._client.Export(" in inspect.getsource(kind._export)
    exporter.shutdown()


@pytest.mark.parametrize("signal", GRPC)
def test_the_grpc_exporter_still_raises_on_a_timeout_that_ours_survives(signal: str) -> None:
    """When this fails, upstream has repaired it, and `_reading` can go."""
    kind: Any = GRPC[signal]
    with environment({f"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT": "10s"}):
        with pytest.raises(ValueError, match="10s"):
            kind(timeout=1)
        exporter = _with_environ(kind, {})(timeout=1)
    assert isinstance(exporter, kind)
    exporter.shutdown()


def test_urllib3_makes_its_sockets_where_ours_takes_hold_of_them() -> None:
    """`_new_conn` is private; pools and adapters are given to be derived from."""
    for kind in (urllib3.connection.HTTPConnection, urllib3.connection.HTTPSConnection):
        assert "self._new_conn()" in inspect.getsource(kind.connect)
    assert isinstance(HTTPAdapter().poolmanager.pool_classes_by_scheme, dict)


def test_an_exporter_of_metrics_says_what_it_prefers_where_we_look() -> None:
    """`_preferred_temporality` is private, and the only place."""
    with environment({}):
        for kind in (HttpMetricExporter, GrpcMetricExporter):
            assert isinstance(kind()._preferred_temporality, dict)
