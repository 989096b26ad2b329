"""What the scenarios share: the theatre in which those that were asked for are played."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.scenarios.runner import Theatre


@pytest.fixture(scope="session")
def theatre(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """Plays what this session asks for."""
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = [(call["scenario"], call["torch"]) for call in calls if "scenario" in call]
    playing = Theatre(tmp_path_factory.mktemp("theatre"), wanted)
    yield playing
    playing.close()
