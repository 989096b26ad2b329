"""Fixtures of the tests of hooks on torch."""

from __future__ import annotations

import gc
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.torch_agents import HookedTorch


@pytest.fixture
def hooked(tmp_path: Path) -> Iterator[HookedTorch]:
    """Hooks on the installed torch; removed at the end, with torch's signal handlers."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    made = HookedTorch(Path(tempfile.mkdtemp(dir=tmp_path)))
    yield made
    made.patches.undo()
    for number, handler in before.items():
        signal.signal(number, handler)
    gc.collect()  # a store in a cycle that is collected while the next test connects may take torch's whole timeout
