"""Locks that a fork waits for, so that a child never begins in the middle of another thread's SQLite call.

Guarantees:

- While a process forks, no thread of this package is inside SQLite: SQLite's own mutexes would stay locked in the child
  for ever, and block its first ``sqlite3.connect``.
- A fork waits 50 ms at most (a disk that hangs). ``subprocess`` is no fork in this sense, and does not wait.
- What runs at a fork runs on torch's thread. CPython drops an exception that a signal handler raises there (``os.fork``
  writes it as unraisable); then the signal is sent again, and nothing stays locked.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from typing import Final

MAX_WAIT_S: Final = 0.05
_RESEND_AFTER_S: Final = 0.02


class ForkLock:
    """As ``threading.RLock`` in a ``with``; no thread gets it once a fork waits for it. Never one within another."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        with _gate:  # a fork goes through them
            _locks.add(self)

    def __enter__(self) -> None:
        with _gate:
            pass
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def acquire_until(self, until: float) -> None:
        """Wait for it, by the monotonic clock, seconds; past all that wait."""
        self._lock.acquire(timeout=max(0.0, until - time.monotonic()))

    def release_all(self) -> None:
        """Release it if this thread has it."""
        while self._lock._is_owned():  # type: ignore[attr-defined]
            self._lock.release()


_gate = threading.RLock()
_locks: weakref.WeakSet[ForkLock] = weakref.WeakSet()


def _before_fork() -> None:
    try:
        until = time.monotonic() + MAX_WAIT_S
        if _gate.acquire(timeout=MAX_WAIT_S):
            for each in list(_locks):
                each.acquire_until(until)
    except BaseException as error:  # noqa: BLE001 - a signal: nobody would hear of it
        _resend_signal(error)


def _after_fork() -> None:
    for _ in range(3):
        try:
            for each in list(_locks):
                each.release_all()
            while _gate._is_owned():  # type: ignore[attr-defined]
                _gate.release()
            return
        except BaseException as error:  # noqa: BLE001 - as above; what it interrupted is done again
            _resend_signal(error)


def _after_fork_in_child() -> None:
    _after_fork()
    _gate._at_fork_reinit()  # type: ignore[attr-defined]  # another thread that forked may have had it


def _resend_signal(error: BaseException) -> None:
    """Torch's ``SignalException`` knows its signal, and ``KeyboardInterrupt`` is one; others are unknown."""
    number = getattr(error, "sigval", signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
    if number is not None:
        again = threading.Timer(_RESEND_AFTER_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
