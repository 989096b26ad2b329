"""Senders for tests, made the way the runtime makes them: by name and environment."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from tests.support.collector import Collector
from torchelastic_otel.export.destinations import Exporter
from torchelastic_otel.export.otel.environment import with_attempt_timeout
from torchelastic_otel.export.otel.factory import make_sender
from torchelastic_otel.model.signals import Signal

SECOND_NS = 1_000_000_000


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The process environment without any ``OTEL_*`` but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with mock.patch.dict(os.environ, {**kept, **variables}, clear=True):
        yield


@contextlib.contextmanager
def user_draws() -> Iterator[None]:
    """For what a test does in the user's name with OpenTelemetry, which draws from ``random`` and is not ours."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def sender_by(
    variables: Mapping[str, str],
    *,
    name: str = "otlp",
    timeout_s: float = 5.0,
    warnings: list[str] | None = None,
    signal: Signal = Signal.LOGS,
) -> Iterator[Any]:
    """The sender of that name under these variables; warnings are collected, or not allowed."""

    def warn(text: str) -> None:
        assert warnings is not None, text
        warnings.append(text)

    with environment(variables):
        environ = with_attempt_timeout(os.environ, timeout_s)
        sender = make_sender(Exporter(name, signal=signal), environ, warn)
        try:
            yield sender
        finally:
            sender.close()


def sender_to(collector: Collector, *, timeout_s: float = 5.0, **more: str) -> contextlib.AbstractContextManager[Any]:
    """The sender that ``otlp`` means for this collector, with more variables if need be."""
    return sender_by({**collector.env(), **more}, timeout_s=timeout_s)
