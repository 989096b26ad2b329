"""When the bridge is active, and where each signal goes."""

from __future__ import annotations

import pytest

from torchelastic_otel.model.signals import Signal
from torchelastic_otel.runtime.activation import Activation, decide
from torchelastic_otel.settings import from_environment

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
LOGS, TRACES, METRICS = (f"OTEL_EXPORTER_OTLP_{signal.name}_ENDPOINT" for signal in Signal)
HERE = {ENDPOINT: "http://c:4317"}
EVERYTHING = {"logs": ("otlp",), "traces": ("otlp",), "metrics": ("otlp",)}


def decided(environ: dict[str, str]) -> Activation:
    """The decision of this environment."""
    return decide(environ, from_environment(environ)[0])


@pytest.mark.parametrize(
    ("environ", "exporters"),
    [
        (HERE, EVERYTHING),
        ({LOGS: "http://c:4317"}, {"logs": ("otlp",)}),
        ({TRACES: "http://c:4317"}, {"traces": ("otlp",)}),
        ({METRICS: "http://c:4317"}, {"metrics": ("otlp",)}),
        ({TRACES: "http://c:4317", "TORCHELASTIC_OTEL": "on"}, {"traces": ("otlp",)}),
        ({"OTEL_LOGS_EXPORTER": "otlp_proto_http, console"}, {"logs": ("otlp_proto_http", "console")}),
        ({"OTEL_TRACES_EXPORTER": "console"}, {"traces": ("console",)}),
        ({"OTEL_METRICS_EXPORTER": "otlp", TRACES: "http://c:4317"}, {"traces": ("otlp",), "metrics": ("otlp",)}),
        ({**HERE, "OTEL_LOGS_EXPORTER": "console"}, {**EVERYTHING, "logs": ("console",)}),
        ({**HERE, "OTEL_LOGS_EXPORTER": "none"}, {"traces": ("otlp",), "metrics": ("otlp",)}),
        ({**HERE, "OTEL_METRICS_EXPORTER": "none"}, {"logs": ("otlp",), "traces": ("otlp",)}),
        ({"TORCHELASTIC_OTEL": "on"}, EVERYTHING),
        ({"TORCHELASTIC_OTEL": "on", "OTEL_TRACES_EXPORTER": "none"}, {"logs": ("otlp",), "metrics": ("otlp",)}),
        ({"TORCHELASTIC_OTEL_SPOOL_DIR": "/x"}, EVERYTHING),
        ({"TORCHELASTIC_OTEL": "on", "OTEL_CONFIG_FILE": "/c.yaml"}, EVERYTHING),
    ],
)
def test_each_signal_goes_where_the_environment_sends_it(
    environ: dict[str, str], exporters: dict[str, tuple[str, ...]]
) -> None:
    """They add one package and one variable; an endpoint for one signal sends no other to localhost."""
    decision = decided(environ)
    assert decision.active
    assert decision.why
    assert {signal.value: names for signal, names in decision.exporters.items()} == exporters
    assert not decision.destinations


@pytest.mark.parametrize(
    ("environ", "otlp", "file"),
    [
        ({}, "logs traces metrics", "logs traces metrics"),
        ({"OTEL_METRICS_EXPORTER": "none"}, "logs traces", "logs traces"),
        ({LOGS: "http://c:4317"}, "logs", "logs traces metrics"),
        ({LOGS: "http://c:4317", METRICS: "http://c:4317", "OTEL_LOGS_EXPORTER": "none"}, "metrics", "traces metrics"),
        ({"OTEL_CONFIG_FILE": "/c.yaml", **HERE}, "logs traces metrics", "logs traces metrics"),
    ],
)
def test_a_destination_gets_every_signal_that_nobody_said_no_to(environ: dict[str, str], otlp: str, file: str) -> None:
    """`none` is a no wherever a signal goes, and OTLP has to have been told an endpoint where it was told any."""
    decision = decided({**environ, "TORCHELASTIC_OTEL_DESTINATIONS": "otlp,file"})
    assert decision.active
    assert (decision.destinations, decision.exporters) == (("otlp", "file"), {})
    assert " ".join(signal.value for signal in Signal if decision.accepts("otlp_proto_http", signal)) == otlp
    assert " ".join(signal.value for signal in Signal if decision.accepts("file", signal)) == file


NO_TO_ALL = {f"OTEL_{signal.name}_EXPORTER": "none" for signal in Signal}


@pytest.mark.parametrize(
    ("environ", "refused"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({"TORCHELASTIC_OTEL_TRACEPARENT": "00-1-1-01"}, False),
        ({"OTEL_LOGS_EXPORTER": "none"}, True),
        ({**HERE, **NO_TO_ALL}, True),
        ({"TORCHELASTIC_OTEL_DESTINATIONS": "file", **NO_TO_ALL}, True),
        ({"TORCHELASTIC_OTEL": "on", **NO_TO_ALL}, True),
        ({**HERE, "OTEL_SDK_DISABLED": "True"}, True),
        ({**HERE, "TORCHELASTIC_OTEL": "off"}, True),
        ({**HERE, "OTEL_CONFIG_FILE": "/c.yaml"}, False),
        ({"TORCHELASTIC_OTEL": "auto"}, False),
        ({"TORCHELASTIC_OTEL": "on", "OTEL_SDK_DISABLED": "true"}, True),
        ({"TORCHELASTIC_OTEL_DESTINATIONS": "file", "TORCHELASTIC_OTEL": "off"}, True),
    ],
)
def test_not_active_otherwise_and_it_says_why(environ: dict[str, str], refused: bool) -> None:
    """``none`` for every signal, and ``off``, mean no; a program's own wish is weighed against a no."""
    decision = decided(environ)
    assert not decision.active
    assert decision.why
    assert decision.refused is refused


def test_heartbeats_are_metrics_unless_logs_are_asked_for() -> None:
    """Every node beats every few seconds: as logs they bury what a person looks for."""
    for text, expected in (("", ("metrics",)), ("logs", ("logs",)), ("Metrics, logs", ("metrics", "logs"))):
        assert from_environment({"TORCHELASTIC_OTEL_HEARTBEATS": text})[0].heartbeats == expected
    settings, complaints = from_environment({"TORCHELASTIC_OTEL_HEARTBEATS": "spans"})
    assert settings.heartbeats == ("metrics",)
    assert "allowed: metrics, logs, or both" in complaints[0]
