"""Plays scenarios a few at a time, ahead of the tests that look at them: most of a scenario is waiting.

What always holds: a scenario is played in a directory and with a receiver of its own; its processes are gone when its
test is over, or the session; only what was asked for is played.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tests.live.environments import Environment
from tests.live.harness import Agents
from tests.live.scenarios.actual import flush
from tests.live.scenarios.cluster import Stage
from tests.live.scenarios.table import Scenario
from tests.support.ports import free_port
from torchelastic_otel.demo.receiver import Receiver

AT_ONCE = 3


class Theatre:
    """See the header of this file.

    Args:
        directory: Where to play.
        wanted: What will be asked for, in order.
    """

    def __init__(self, directory: Path, wanted: Sequence[tuple[Scenario, Environment]]) -> None:
        self._directory = directory
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="theatre")
        self._closed = threading.Event()
        self._plays: dict[tuple[str, str], Future[tuple[Stage, dict[str, int]]]] = {}
        for number, (scenario, torch) in enumerate(wanted):
            key = (scenario.name, torch.torch)
            self._plays[key] = self._pool.submit(self._play, number, scenario, torch)

    @contextlib.contextmanager
    def played(self, scenario: Scenario, torch: Environment) -> Iterator[tuple[Stage, dict[str, int]]]:
        """The stage after the play, and the agents' exit statuses."""
        yield self._plays[scenario.name, torch.torch].result(900)

    def close(self) -> None:
        """Play nothing more."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _play(self, number: int, scenario: Scenario, torch: Environment) -> tuple[Stage, dict[str, int]]:
        assert not self._closed.is_set(), "the session is over"
        assert torch.complete, f"no torch {torch.torch} in {torch.folder}: run `make environments` (some GB, once)"
        directory = self._directory / f"play-{number}"
        directory.mkdir()
        with Receiver() as receiver, Agents(directory) as agents:
            stage = Stage(agents, receiver, torch, directory, free_port(), free_port())
            scenario.play(stage)
            exits = stage.exits()
            for name in scenario.flushed:
                flush(stage, name)
            return stage, exits
