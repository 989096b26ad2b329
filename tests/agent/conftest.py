"""Fixtures of the tests of what an agent does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.observed_agent import ObservedAgent


@pytest.fixture
def observed() -> Iterator[ObservedAgent]:
    """A new agent; its processes are gone at the end."""
    made = ObservedAgent()
    yield made
    for process in made.processes:
        if process.stdin is not None:
            process.stdin.close()
        process.kill()
        process.wait()
