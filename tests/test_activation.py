"""When the bridge is active, and where torch's events go."""

from __future__ import annotations

import pytest

from torchelastic_otel.activation import decide
from torchelastic_otel.settings import from_environment

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "exporters", "destinations"),
    [
        ({ENDPOINT: "http://c:4317"}, ("otlp",), ()),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c:4317"}, ("otlp",), ()),
        ({"OTEL_LOGS_EXPORTER": "otlp_proto_http, console"}, ("otlp_proto_http", "console"), ()),
        ({"TORCHELASTIC_OTEL": "on"}, ("otlp",), ()),
        ({"TORCHELASTIC_OTEL_SPOOL_DIR": "/x"}, ("otlp",), ()),
        ({"TORCHELASTIC_OTEL_DESTINATIONS": "file"}, (), ("file",)),
        ({"TORCHELASTIC_OTEL_DESTINATIONS": "file", "OTEL_CONFIG_FILE": "/c.yaml"}, (), ("file",)),
        ({"TORCHELASTIC_OTEL": "on", "OTEL_CONFIG_FILE": "/c.yaml"}, ("otlp",), ()),
        ({"OTEL_LOGS_EXPORTER": "console", ENDPOINT: "http://c:4317"}, ("console",), ()),
    ],
)
def test_active_where_a_destination_for_logs_is_configured(
    environ: dict[str, str], exporters: tuple[str, ...], destinations: tuple[str, ...]
) -> None:
    """They add one package and one environment variable."""
    decision = decide(environ, from_environment(environ)[0])
    assert decision.active
    assert (decision.exporters, decision.destinations) == (exporters, destinations)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {ENDPOINT: ""},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"},
        {ENDPOINT: "http://c:4317", "OTEL_LOGS_EXPORTER": "none"},
        {ENDPOINT: "http://c:4317", "OTEL_SDK_DISABLED": "True"},
        {ENDPOINT: "http://c:4317", "TORCHELASTIC_OTEL": "off"},
        {ENDPOINT: "http://c:4317", "OTEL_CONFIG_FILE": "/c.yaml"},
        {"TORCHELASTIC_OTEL": "auto"},
        {"TORCHELASTIC_OTEL": "on", "OTEL_SDK_DISABLED": "true"},
        {"TORCHELASTIC_OTEL_DESTINATIONS": "file", "TORCHELASTIC_OTEL": "off"},
    ],
)
def test_not_active_otherwise_and_it_says_why(environ: dict[str, str]) -> None:
    """An endpoint for traces alone sends no logs to localhost; ``none`` and ``off`` mean no."""
    decision = decide(environ, from_environment(environ)[0])
    assert not decision.active
    assert decision.why
