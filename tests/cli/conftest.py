"""What the commands' tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.orphaned_spools import Spools
from torchelastic_otel.spool.directory import user_directory


@pytest.fixture
def spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spools:
    """A spool directory of the test's own, named by the environment."""
    base = tmp_path / "spools"
    monkeypatch.setenv("TORCHELASTIC_OTEL_SPOOL_DIR", str(base))
    made = Spools(base)
    assert made.directory == user_directory(base, os.geteuid())
    return made


@pytest.fixture
def setenv(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Sets several variables."""

    def set_all(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all
