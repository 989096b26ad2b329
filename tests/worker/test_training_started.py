"""A worker says that it trains: once, and whatever happens without raising."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import torchelastic_otel
from torchelastic_otel.environment_variables import TRAINING_FILE
from torchelastic_otel.worker import training


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """As if this process had not said anything yet."""
    training._called = False
    yield
    training._called = False


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the worker leaves its word."""
    monkeypatch.setenv(TRAINING_FILE, str(tmp_path / "training"))
    return tmp_path / "training"


def test_the_first_call_leaves_the_moment_and_later_ones_nothing(file: Path) -> None:
    """The agent reads when training began, by both clocks; a call at every step must not move it."""
    before = time.time_ns(), time.monotonic_ns()
    torchelastic_otel.training_started()
    after = time.time_ns(), time.monotonic_ns()
    wall, monotonic = map(int, file.read_text().split())
    assert before[0] <= wall <= after[0]
    assert before[1] <= monotonic <= after[1]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.unlink()
    torchelastic_otel.training_started()
    assert not file.exists()


def test_without_an_agent_of_ours_it_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same script runs under plain torchrun, and under none."""
    monkeypatch.chdir(tmp_path)
    torchelastic_otel.training_started()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()


@pytest.mark.parametrize("path", ["/proc/nowhere/x", "/dev/null/x", "nul\ud800", "x" * 5_000])
def test_a_file_that_cannot_be_written_is_no_affair_of_the_training(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never raises."""
    monkeypatch.setattr(os, "environ", {TRAINING_FILE: path})
    torchelastic_otel.training_started()


def test_a_link_in_its_place_is_not_followed(file: Path, tmp_path: Path) -> None:
    """Promise 8: nobody has a file of the user's overwritten by putting a link there."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    file.symlink_to(precious)
    torchelastic_otel.training_started()
    assert precious.read_text() == "mine"


def test_a_child_of_the_worker_that_calls_later_moves_nothing(file: Path) -> None:
    """A data loader's process inherits the environment; the first word holds."""
    file.write_text("1 2")
    torchelastic_otel.training_started()
    assert file.read_text() == "1 2"
