"""When training really began: each worker writes one file, whose path the agent puts into its environment.

Guarantees: a worker writes one file, once; the agent reads it on the event loop; without a file nothing is concluded.
The folder belongs to this agent, mode 0700, and is removed with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Final

from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.inferred_event import ClockReading
from torchelastic_otel.units import NS_PER_S

_FIRST_INTERVAL_NS: Final = NS_PER_S
_LATER_INTERVAL_NS: Final = 5 * NS_PER_S
_FIRST_POLLS: Final = 60


class TrainingFiles:
    """The files of one agent's workers, start after start.

    Args:
        thread: The event loop.
        on_started: Called on that thread for each worker that trains: its local rank and since when.
    """

    def __init__(self, thread: EventLoopThread, on_started: Callable[[int, ClockReading], object]) -> None:
        self._thread = thread
        self._on_started = on_started
        self._folder: str | None = None
        self._start = 0
        self._pending: dict[int, str] = {}

    def path(self, local_rank: int) -> str:
        """The file of a worker that is about to be started."""
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="torchelastic-otel-training-")
        return os.path.join(self._folder, f"{self._start + 1}-{local_rank}")

    def evidence_path(self, local_rank: int) -> str:
        """Where a worker that is about to be started puts its evidence; each process adds its process id."""
        return self.path(local_rank) + ".evidence"

    def started(self, local_ranks: list[int]) -> None:
        """The workers run: poll for their files from here on."""
        self._start += 1
        start, folder = self._start, self._folder
        if folder is not None:
            pending = {rank: os.path.join(folder, f"{start}-{rank}") for rank in local_ranks}
            self._thread.call_soon(lambda: self._start_polling(start, pending))

    def poll(self) -> None:
        """Read now: the workers are about to end."""
        if self._folder is not None:
            self._thread.call_soon(self._read_files)

    def close(self) -> None:
        """The agent ends."""
        if self._folder is not None:
            folder, self._folder = self._folder, None
            self._thread.call_soon(self._read_files)
            self._thread.call_soon(lambda: shutil.rmtree(folder, ignore_errors=True))

    # --- on the event loop

    def _start_polling(self, start: int, pending: dict[int, str]) -> None:
        self._pending = pending
        self._poll_again(start, 0)

    def _poll_again(self, start: int, polls: int) -> None:
        if start != self._start or self._folder is None:
            return
        self._read_files()
        if self._pending:
            interval_ns = _FIRST_INTERVAL_NS if polls < _FIRST_POLLS else _LATER_INTERVAL_NS
            self._thread.call_later(interval_ns, lambda: self._poll_again(start, polls + 1))

    def _read_files(self) -> None:
        for rank, path in list(self._pending.items()):
            try:
                with open(path, encoding="ascii") as file:
                    wall, _, monotonic = file.read(64).partition(" ")
                at = ClockReading(int(wall), int(monotonic))
            except (OSError, ValueError):
                continue  # does not exist yet, or is being written
            del self._pending[rank]
            self._on_started(rank, at)
