"""A connection of this package's own to the job's store, on a thread of its own.

Guarantees:

- Torch's own client is never used: one mutex covers all of it.
- Only ``compare_set`` and ``check`` are called (``get`` and ``wait`` block on a key that does not exist); every call
  releases the interpreter's lock. If the store's host is stopped, a call blocks this thread only.
- A caller waits only on request, and then at most 50 ms; the end of the process waits for pending calls as long as it
  is allowed to (:func:`wait_for_pending_calls`).

Read in and run on torch 2.2 to 2.15 (``TCPStore``). Before torch 2.4 ``compare_set`` creates its result without the
interpreter's lock, so that the store is not used there; nor with etcd, which has no ``compare_set``.
"""

from __future__ import annotations

import _thread
import os
import queue
import time
from collections.abc import Callable
from typing import Final

from torchelastic_otel.agent.coordination.agreement import Client, JobKeys
from torchelastic_otel.guard import guard
from torchelastic_otel.units import NS_PER_S

MAX_WAIT_S: Final = 0.05
"""The longest that a caller waits, seconds."""
CALL_TIMEOUT_NS: Final = 2 * NS_PER_S
"""The store is given up while a call takes longer."""
CONNECT_TIMEOUT_NS: Final = 12 * NS_PER_S
"""The store is given up while a connection takes longer. Torch's client resolves the host name of its peer, and a name
server that does not answer takes five seconds at a time."""
_pending_calls: list[_thread.LockType] = []
"""Of closed stores with a pending call: released when the call has returned."""

Request = Callable[[JobKeys], object]


def wait_for_pending_calls(until_ns: int) -> None:
    """Before the interpreter ends: wait for pending calls of closed stores.

    A thread that returns from C++ while the interpreter ends aborts the process (pybind11).

    Args:
        until_ns: When to stop waiting, monotonic clock, nanoseconds.
    """
    while _pending_calls:
        _pending_calls[-1].acquire(True, max(0, until_ns - time.monotonic_ns()) / NS_PER_S)
        _pending_calls.pop()


os.register_at_fork(after_in_child=_pending_calls.clear)


class JobStore:
    """See the header of this file.

    Args:
        connect: Opens a connection; called on the thread, once, and again after a failure.
        prefix: Prefix of all keys.
        monotonic_ns: The monotonic clock, nanoseconds.
    """

    def __init__(
        self, connect: Callable[[], Client], prefix: str, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._connect = connect
        self._prefix = prefix
        self._requests: queue.SimpleQueue[tuple[Request | None, _thread.LockType]] = queue.SimpleQueue()
        self._thread_lock = _thread.allocate_lock()  # held by the one thread for as long as it lives
        self._running = self._used = self._closed = False
        self._connecting_since_ns: int | None = None
        self._busy_since_ns: int | None = None
        self._pid = os.getpid()
        self.error = ""
        """Why the store cannot be used, or the empty string."""

    @property
    def given_up(self) -> bool:
        """Whether it failed, or has not answered for too long."""
        late = self._exceeds(self._busy_since_ns, CALL_TIMEOUT_NS)
        late = late or self._exceeds(self._connecting_since_ns, CONNECT_TIMEOUT_NS)
        return late or self._closed or bool(self.error)

    @property
    def connecting(self) -> bool:
        """Whether the connection is being opened, and not given up: an answer may take longer than usual."""
        return self._connecting_since_ns is not None and not self.given_up

    def submit(self, request: Request, *, wait_s: float = 0.0) -> bool:
        """Run a request on the thread, unless the store is given up.

        Args:
            request: The request.
            wait_s: How long to wait for it, seconds, at most 50 ms.

        Returns:
            Whether it is done.
        """
        if self.given_up or self._pid != os.getpid():
            return False
        done = self._put(request)
        return bool(wait_s) and done.acquire(True, min(wait_s, MAX_WAIT_S))

    def retry(self) -> None:
        """Forget a failure: the next request opens a new connection. Called when a round begins."""
        self.error = ""

    def close(self) -> None:
        """End the thread and its connection after the submitted requests; waits for that at most 50 ms."""
        if not self._closed and self._pid == os.getpid():
            self._closed = True
            if self._used:
                done = self._put(None)
                if not done.acquire(True, MAX_WAIT_S):
                    _pending_calls[:] = [*(call for call in _pending_calls if call.locked()), done]

    def _exceeds(self, since_ns: int | None, timeout_ns: int) -> bool:
        return since_ns is not None and self._monotonic_ns() - since_ns > timeout_ns

    def _put(self, request: Request | None) -> _thread.LockType:
        done = _thread.allocate_lock()
        done.acquire()
        self._used = True
        self._requests.put((request, done))
        if not self._running:
            # several callers may get here: each thread but the first ends at once
            _thread.start_new_thread(self._run, ())
        return done

    def _run(self) -> None:
        if not self._thread_lock.acquire(False):
            return
        self._running = True
        keys: JobKeys | None = None
        while True:
            request, done = self._requests.get()
            if request is None:
                self._running = False
                keys = None  # this thread closes the connection
                done.release()
                return
            try:
                if keys is None and not self.error:
                    self._connecting_since_ns = self._monotonic_ns()
                    keys = JobKeys(self._connect(), self._prefix)
                self._connecting_since_ns, self._busy_since_ns = None, self._monotonic_ns()
                if keys is not None and not self.error:
                    request(keys)
            except BaseException as error:  # noqa: BLE001 - no signal arrives on this thread; torch raises many kinds
                keys = None
                self.error = f"{type(error).__name__}: {error}"
                guard.suppress(error) if not isinstance(error, (RuntimeError, OSError)) else None
            self._connecting_since_ns = self._busy_since_ns = None
            done.release()
