"""Files that workers write, read where nothing waits for them: on threads of this package's own, for a bounded time.

Guarantees:

- Only regular files are read, at most a bounded part of each; no link is followed, and opening never blocks (a worker
  may put a FIFO there).
- A file system that does not answer (NFS without its server) blocks the reader's thread only: after the time limit the
  result is ``None``, and so is that of every further request until the file system answers.
"""

from __future__ import annotations

import _thread
import os
import queue
import stat
from collections.abc import Callable
from typing import Final, TypeVar

from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.guard import guard
from torchelastic_otel.units import NS_PER_S

READ_TIMEOUT_NS: Final = 2 * NS_PER_S
"""The longest that a result is waited for."""
T = TypeVar("T")


class FileReader:
    """A thread that reads files.

    Args:
        thread: The event loop, on which results arrive.
    """

    def __init__(self, thread: EventLoopThread) -> None:
        self._thread = thread
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pid = 0

    def read(self, read: Callable[[], T], on_done: Callable[[T | None], object]) -> None:
        """Read; from the event loop only.

        Args:
            read: Called on the thread.
            on_done: Called once on the event loop with the result; with ``None`` if it raised or took too long.
        """
        pending = [on_done]

        def finish(result: T | None) -> None:
            if pending:
                pending.pop()(result)

        def run() -> None:
            result: T | None = None
            with guard:
                if pending:  # nobody waits any more for what has waited too long
                    result = read()
            self._thread.call_soon(lambda: finish(result))

        if self._pid != os.getpid():
            self._requests = queue.SimpleQueue()
            _thread.start_new_thread(_run, (self._requests,))
            self._pid = os.getpid()
        self._requests.put(run)
        self._thread.call_later(READ_TIMEOUT_NS, lambda: finish(None))


def _run(requests: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        requests.get()()


def read_regular(path: str, limit: int, *, tail: bool = False) -> tuple[bytes, int] | None:
    """A part of a regular file, and when the file was last written.

    Args:
        path: The file.
        limit: The most that is read, bytes.
        tail: Whether to read its end in place of its beginning.

    Returns:
        The content, and the time in nanoseconds since the epoch; ``None`` if there is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        return os.pread(descriptor, limit, max(0, status.st_size - limit) if tail else 0), status.st_mtime_ns
    except OSError:
        return None
    finally:
        os.close(descriptor)
