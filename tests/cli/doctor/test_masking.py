"""A report is pasted into a ticket: nothing secret may be in it."""

from __future__ import annotations

import pytest

from torchelastic_otel.cli.doctor.masking import Masks


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cr3t,x-tenant=a", "authorization=***,x-tenant=***"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "api-key=s3cr3t", "api-key=***"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "s3cr3t", "***"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:s3cr3t@host:4317/p", "https://***@host:4317/p"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "https://host/v1/logs?api_key=s3cr3t&b=c",
            "https://host/v1/logs?api_key=***&b=***",
        ),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/run/s3cr3t.pem", "***"),
        ("OTEL_VENDOR_ACCESS_TOKEN", "s3cr3t", "***"),
        ("OTEL_X_PASSWORD", "s3cr3t", "***"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=vision,vendor.api_token=s3cr3t", "team=vision,vendor.api_token=***"),
        ("TORCHELASTIC_OTEL_SECRET", "s3cr3t", "***"),
        ("OTEL_SERVICE_NAME", "trainer", "trainer"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317", "http://collector:4317"),
        ("TORCHELASTIC_OTEL_DESTINATIONS", "otlp,console", "otlp,console"),
    ],
)
def test_secrets_are_hidden_and_the_rest_is_shown(name: str, value: str, shown: str) -> None:
    """Each place where OpenTelemetry lets people put a secret."""
    masks = Masks({name: value, "HOME": "/root"})
    assert masks.variables == {name: shown}
    if "s3cr3t" in value:
        assert "s3cr3t" not in masks.text(f"could not reach {value}: no")


def test_a_secret_is_hidden_wherever_it_stands() -> None:
    """Servers and exporters echo what they were sent."""
    masks = Masks({"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cr3t"})
    report = {"exporters": [{"answer": "401: bad token s3cr3t"}, "Bearer s3cr3t"], "count": 3}
    assert masks.everywhere(report) == {"exporters": [{"answer": "401: bad token ***"}, "***"], "count": 3}


def test_a_short_value_does_not_blank_the_report() -> None:
    """``x=1`` as a header must not hide every 1."""
    masks = Masks({"OTEL_EXPORTER_OTLP_HEADERS": "x=1"})
    assert masks.variables == {"OTEL_EXPORTER_OTLP_HEADERS": "x=***"}
    assert masks.text("HTTP 401") == "HTTP 401"
