"""What is not public in OpenTelemetry Python and its libraries, and ours rests on: another version must show here."""

from __future__ import annotations

import inspect

import pytest
import urllib3.connection
from opentelemetry import context
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter
from opentelemetry.instrumentation.utils import suppress_instrumentation
from requests.adapters import HTTPAdapter
from support.senders import environment

from torchelastic_otel.deliver.otel.attempt import quietly
from torchelastic_otel.deliver.otel.exporters import _reading


def test_our_quiet_context_has_the_keys_of_suppress_instrumentation() -> None:
    """We set the keys ourselves, so that opentelemetry-instrumentation need not be installed."""
    token = context.attach(context.Context())
    try:
        with suppress_instrumentation():
            theirs = dict(context.get_current())
        with quietly():
            assert dict(context.get_current()) == theirs
    finally:
        context.detach(token)


def test_the_http_exporter_takes_a_session_and_draws_backoffs_where_we_look() -> None:
    """`session=` is public; `_client._compute_backoff` and `_client._transport._session` are not."""
    assert "session" in inspect.signature(HttpExporter).parameters
    with environment({}):
        exporter = HttpExporter()
    assert callable(exporter._client._compute_backoff)
    assert callable(exporter._client._transport._session.request)  # type: ignore[attr-defined]


def test_the_grpc_exporter_calls_the_stub_we_replace() -> None:
    """`_client` is private, and looked up at each export."""
    with environment({}):
        exporter = GrpcExporter()
    assert callable(exporter._client.Export.future)  # type: ignore[union-attr]
    assert "self._client.Export(" in inspect.getsource(GrpcExporter._export)
    exporter.shutdown()


def test_the_grpc_exporter_still_raises_on_a_timeout_that_ours_survives() -> None:
    """When this fails, upstream has repaired it, and `_reading` can go."""
    bad = {"OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "10s"}
    with environment(bad):
        with pytest.raises(ValueError, match="10s"):
            GrpcExporter(timeout=1)
        exporter = _reading(GrpcExporter, {})(timeout=1)
    assert isinstance(exporter, GrpcExporter)
    exporter.shutdown()


def test_urllib3_makes_its_sockets_where_ours_takes_hold_of_them() -> None:
    """`_new_conn` is private; pools and adapters are given to be derived from."""
    for kind in (urllib3.connection.HTTPConnection, urllib3.connection.HTTPSConnection):
        assert "self._new_conn()" in inspect.getsource(kind.connect)
    assert isinstance(HTTPAdapter().poolmanager.pool_classes_by_scheme, dict)
