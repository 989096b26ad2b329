"""What workers say of their training, by one small file each."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.observers import Clock, moment, wait_until_idle
from torchelastic_otel.agent.training import TrainingFiles
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.inferred_event import ClockReading


class Agent:
    """Training files with somebody who listens."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.thread = EventLoopThread(self.clock.monotonic_ns)
        self.told: list[tuple[int, ClockReading]] = []
        self.files = TrainingFiles(self.thread, lambda rank, at: self.told.append((rank, at)))

    def start(self, ranks: list[int]) -> dict[int, Path]:
        """Start workers; where each is to leave its word."""
        paths = {rank: Path(self.files.path(rank)) for rank in ranks}
        self.files.started(ranks)
        wait_until_idle(self.thread)
        return paths

    def at(self, seconds: float) -> list[tuple[int, ClockReading]]:
        """What was told until then."""
        self.clock.seconds = seconds
        wait_until_idle(self.thread)
        return self.told


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """An agent whose temporary files are the test's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Agent()


def train(path: Path, seconds: float) -> None:
    """A worker says that it trains."""
    at = moment(seconds)
    path.write_text(f"{at.wall_ns} {at.monotonic_ns}", encoding="ascii")


def test_each_worker_that_trains_is_told_once_with_the_moment_it_wrote(agent: Agent) -> None:
    """The agent looks once a second; the moment is the worker's."""
    paths = agent.start([0, 1])
    train(paths[1], 2.25)
    assert agent.at(3) == [(1, moment(2.25))]
    train(paths[0], 7.5)
    assert agent.at(8) == [(1, moment(2.25)), (0, moment(7.5))]
    assert len(agent.at(100)) == 2


def test_each_start_has_files_of_its_own(agent: Agent) -> None:
    """After a restart the old word must not be taken for the new one's."""
    first = agent.start([0])
    train(first[0], 1)
    agent.at(2)
    second = agent.start([0])
    assert first[0] != second[0]
    assert len(agent.at(5)) == 1
    train(second[0], 6)
    assert agent.at(7)[1:] == [(0, moment(6))]


def test_a_word_of_the_last_moment_is_read_before_the_workers_are_stopped(agent: Agent) -> None:
    """A worker may begin to train and fail within the same second."""
    paths = agent.start([0])
    train(paths[0], 0.5)
    agent.files.poll()
    wait_until_idle(agent.thread)
    assert agent.told == [(0, moment(0.5))]


@pytest.mark.parametrize("content", ["", "17", "x y", "\xff\xfe"])
def test_a_word_that_is_half_written_is_read_when_it_is_whole(agent: Agent, content: str) -> None:
    """The agent may look in between."""
    paths = agent.start([0])
    paths[0].write_text(content, encoding="latin-1")
    assert agent.at(2) == []
    train(paths[0], 2.5)
    assert agent.at(4) == [(0, moment(2.5))]


def test_the_folder_is_this_users_alone_and_goes_with_the_agent(agent: Agent) -> None:
    """A temporary directory is everybody's (promise 8)."""
    paths = agent.start([0])
    folder = paths[0].parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    train(paths[0], 1)
    agent.files.close()
    wait_until_idle(agent.thread)
    assert agent.told == [(0, moment(1))]
    assert not folder.exists()
    assert agent.at(100) == [(0, moment(1))]


def test_an_agent_without_workers_leaves_no_folder(agent: Agent, tmp_path: Path) -> None:
    """A rendezvous that fails starts none."""
    agent.files.poll()
    agent.files.close()
    wait_until_idle(agent.thread)
    assert os.listdir(tmp_path) == []
