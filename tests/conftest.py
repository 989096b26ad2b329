"""What every test lives under: faults are not hidden, and the host program is left as it was found."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

from torchelastic_otel.guard import Guard

PURE: Final = tuple(
    Path(__file__).parent / name
    for name in ("history", "model", "processing/metrics", "processing/tracing", "torch_events")
)
"""Tests of functions of data: no threads, processes, sockets, files or interpreter shutdown. What they use of the
standard library (json, re, dataclasses, enum) is tested on the oldest and the newest Python."""

# new examples are for those who can look at them; a submission is judged by the same ones each time
settings.register_profile("ci", derandomize=True, deadline=None)
# a slow machine is no fault: how long an example takes is a benchmark's matter
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of the directories in ``PURE``."""
    for item in items:
        if any(directory in item.path.parents for directory in PURE):
            item.add_marker(pytest.mark.pure)


@pytest.fixture(autouse=True)
def faults(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """What the guard kept in; raised at the end, but for tests that provoke faults (``tests_own_faults``)."""
    kept: list[BaseException] = []
    original = Guard.suppress

    def keep(self: Guard, error: BaseException) -> bool:
        kept.append(error)
        return original(self, error)

    monkeypatch.setattr(Guard, "suppress", keep)
    yield kept
    if kept and request.node.get_closest_marker("tests_own_faults") is None:
        raise kept[0]


@pytest.fixture(autouse=True)
def host_is_left_alone() -> Iterator[None]:
    """Root handlers, signal handlers and working directory are what they were (promise 7)."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    installed = {number: signal.getsignal(number) for number in signals}
    directory = os.getcwd()
    yield
    assert [h for h in logging.getLogger().handlers if h not in handlers and "pytest" not in type(h).__module__] == []
    assert logging.getLogger().level == level
    assert {number: signal.getsignal(number) for number in signals} == installed
    assert os.getcwd() == directory


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the machine's environment says of OpenTelemetry or of us."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "TORCHELASTIC_OTEL", "PET_", "LOGLEVEL")):
            monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")  # where receivers listen, whatever proxy the machine has
