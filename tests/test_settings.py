"""Settings never stop a job: a bad value is named, with what is allowed, and the default is used."""

from __future__ import annotations

import pytest

from torchelastic_otel.settings import SETTINGS, Mode, Settings, from_environment


def test_nothing_set_is_the_defaults_without_a_word() -> None:
    """All of them are optional."""
    assert from_environment({"PATH": "/bin"}) == (Settings(), [])


def test_every_setting_is_read_from_its_variable() -> None:
    """The table is the truth: what it declares takes effect."""
    settings, complaints = from_environment(
        {
            "TORCHELASTIC_OTEL": "ON",
            "TORCHELASTIC_OTEL_DESTINATIONS": "otlp, file,otlp",
            "TORCHELASTIC_OTEL_SPOOL_DIR": "/var/spool",
            "TORCHELASTIC_OTEL_SPOOL_MAX_BYTES": "1048576",
            "TORCHELASTIC_OTEL_FLUSH_TIMEOUT": "0.25",
            "TORCHELASTIC_OTEL_FILE_DIR": "/out",
        }
    )
    assert complaints == []
    assert settings == Settings(Mode.ON, ("otlp", "file"), "/var/spool", 1 << 20, 250_000_000, "/out")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TORCHELASTIC_OTEL", "yes"),
        ("TORCHELASTIC_OTEL_DESTINATIONS", ","),
        ("TORCHELASTIC_OTEL_SPOOL_MAX_BYTES", "64MiB"),
        ("TORCHELASTIC_OTEL_SPOOL_MAX_BYTES", "1000"),
        ("TORCHELASTIC_OTEL_FLUSH_TIMEOUT", "-1"),
        ("TORCHELASTIC_OTEL_FLUSH_TIMEOUT", "nan"),
        ("TORCHELASTIC_OTEL_FLUSH_TIMEOUT", "2s"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed_and_the_default_is_used(variable: str, value: str) -> None:
    """Telemetry settings never stop a job."""
    settings, (complaint,) = from_environment({variable: value})
    assert settings == Settings()
    setting = next(each for each in SETTINGS if each.variable == variable)
    for part in (variable, value, setting.allowed, setting.default):
        assert part in complaint


def test_a_misspelt_variable_is_pointed_out() -> None:
    """A setting that silently does nothing costs an hour at night."""
    _, (complaint,) = from_environment({"TORCHELASTIC_OTEL_SPOOLDIR": "/x"})
    assert "TORCHELASTIC_OTEL_SPOOLDIR" in complaint
    assert "did you mean TORCHELASTIC_OTEL_SPOOL_DIR" in complaint
