"""What settings and environment say of delivery."""

from __future__ import annotations

import pytest

from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.export.config import export_config
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.settings import Settings

S, MS = 1_000_000_000, 1_000_000


def test_nothing_set_is_the_defaults() -> None:
    """A batch a second, numbers once a minute, every trace, no heartbeats."""
    terms = export_config({}, Settings(), pytest.fail)
    assert [terms.batch_config(signal) for signal in Signal] == [BatchConfig(512, S)] * 3
    assert (terms.metrics_interval_ns, terms.heartbeats, terms.sampler("0" * 32)) == (60 * S, False, True)


def test_each_signal_has_its_own_variables() -> None:
    """As the specification names them; a batch is never larger than what its bytes are counted for."""
    terms = export_config(
        {
            "OTEL_BLRP_SCHEDULE_DELAY": "20",
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "7",
            "OTEL_BSP_SCHEDULE_DELAY": "30",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "9999",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_TRACES_SAMPLER": "always_off",
        },
        Settings(heartbeats=("metrics", "logs")),
        pytest.fail,
    )
    assert terms.logs == BatchConfig(7, 20 * MS)
    assert terms.traces == BatchConfig(512, 30 * MS)
    assert (terms.metrics_interval_ns, terms.heartbeats, terms.sampler("0" * 32)) == (500 * MS, True, False)


@pytest.mark.parametrize(
    "variable", ["OTEL_BLRP_SCHEDULE_DELAY", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_METRIC_EXPORT_INTERVAL"]
)
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon"])
def test_a_bad_number_is_named_and_the_default_used(variable: str, value: str) -> None:
    """Telemetry settings never stop a job."""
    said: list[str] = []
    assert export_config({variable: value}, Settings(), said.append).metrics_interval_ns == 60 * S
    assert [f"{variable}={value!r} is not allowed" in text for text in said] == [True]
