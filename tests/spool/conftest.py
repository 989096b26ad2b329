"""Fixtures of the tests of spools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.spools import BOUND
from torchelastic_otel.spool import store


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[store.Spool]:
    """An empty spool on disk with one cursor for destination ``d``."""
    made = store.create(tmp_path / "a.spool", BOUND)
    made.subscribe({"x": ["d"]})
    yield made
    made.close()
