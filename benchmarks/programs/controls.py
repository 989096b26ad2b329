"""Handlers that do one part of the work each: what a way to keep events cannot be faster than.

What always holds: they do nothing but their part, and use nothing of ours.
"""

from __future__ import annotations

import _thread
import logging
import queue
import sqlite3
import tempfile
from pathlib import Path


class Nowhere(logging.Handler):
    """Takes a record and does nothing with it; not a ``NullHandler``, which torch looks for."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Nothing."""
        return True


class HandOver(logging.Handler):
    """Hands the text to a thread and waits until that says it has it; the thread does nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: queue.SimpleQueue[tuple[str, _thread.LockType]] = queue.SimpleQueue()
        _thread.start_new_thread(self._answer, ())

    def _answer(self) -> None:
        while True:
            self._queue.get()[1].release()

    def handle(self, record: logging.LogRecord) -> bool:
        """Hand over and wait."""
        done = _thread.allocate_lock()
        done.acquire()
        self._queue.put((record.getMessage(), done))
        return done.acquire(True, 1)


class Commit(logging.Handler):
    """Commits the text to SQLite (WAL, ``synchronous=NORMAL``) on the caller's own thread."""

    def __init__(self) -> None:
        super().__init__()
        path = Path(tempfile.mkdtemp()) / "control.sqlite3"
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute("CREATE TABLE events (sequence INTEGER PRIMARY KEY, text TEXT)")

    def handle(self, record: logging.LogRecord) -> bool:
        """One transaction."""
        self._database.execute("INSERT INTO events (text) VALUES (?)", (record.getMessage(),))
        return True
