"""What live tests share: a receiver, agents that are gone afterwards, and the torches to try."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.environments import ENVIRONMENTS, Environment
from tests.live.harness import Agents
from tests.support.received import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An OTLP receiver on loopback."""
    with Receiver() as running:
        yield running


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    """Starts agents; all are gone when the test ends, and what they said is shown where it fails."""
    with Agents(tmp_path) as started:
        yield started


@pytest.fixture(params=ENVIRONMENTS, ids=lambda environment: f"torch-{environment.torch}")
def torch(request: pytest.FixtureRequest) -> Environment:
    """Each torch that is promised; a missing one fails, since a skip would hide it."""
    environment: Environment = request.param
    if not environment.complete:
        pytest.fail(f"no torch {environment.torch} in {environment.folder}: run `make environments` (some GB, once)")
    return environment
