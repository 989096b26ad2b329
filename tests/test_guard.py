"""The one guard: our faults stay in, signals go out."""

from __future__ import annotations

import logging

import pytest

from torchelastic_otel.guard import Guard


class SignalException(Exception):
    """As torch raises in the main thread; vendored copies have the same name only."""


class OwnSignal(SignalException):
    """A subclass of it."""


@pytest.mark.parametrize("signal", [SignalException, OwnSignal, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_signal_goes_through(signal: type[BaseException]) -> None:
    """Promise 1: a job that ignores SIGTERM because of its telemetry is killed 30 seconds later."""
    guard = Guard()
    with pytest.raises(signal), guard:
        raise signal
    assert guard.faults == 0


@pytest.mark.tests_own_faults
def test_a_fault_stays_in_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Promise 1: never raises into torch."""
    guard = Guard()
    with caplog.at_level(logging.WARNING, "torchelastic_otel"):
        for _ in range(3):
            with guard:
                raise ValueError("ours")
    assert guard.faults == 3
    assert [record.getMessage() for record in caplog.records] == [
        "torchelastic-otel: internal error suppressed (the job is unaffected): ValueError: ours"
    ]
