"""The job's own store, for the few facts that all agents must agree on.

What always holds:

- Torch's own client is never used (one mutex covers all of it): a connection of ours, on a daemon thread of ours.
- Only ``compare_set`` and ``check`` are called (``get`` and ``wait`` block on a key that is not there); every call is
  outside the interpreter's lock. A call may block for as long as the store's host is stopped: the thread then waits
  alone, and whoever asked has gone on.
- A caller waits only where it asks to, and then at most 50 ms; but for the end of the process, which waits for calls
  that are out as long as it is allowed to (:func:`wait_for_calls`).

Read in and run on torch 2.2 to 2.15 (``TCPStore``). Before torch 2.4 ``compare_set`` makes its answer without the
interpreter's lock, so there is no store for us there; nor with etcd, which has no ``compare_set``.
"""

from __future__ import annotations

import _thread
import os
import queue
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from torchelastic_otel.guard import guard

MAX_WAIT_S: Final = 0.05
"""The longest that a caller is held, seconds."""
CALL_TIMEOUT_NS: Final = 2_000_000_000
"""A call that is out for longer gives the store up, nanoseconds."""
CONNECT_TIMEOUT_NS: Final = 12_000_000_000
"""A connection that takes longer gives the store up, nanoseconds: torch's client asks for the reverse DNS name of whom
it connects to, and a name server that does not answer takes five seconds at a time."""
_pending_calls: list[_thread.LockType] = []
"""Of stores that have ended with a call out: released when it has come back."""
_NEVER: Final = "\x01"
"""No value is ever this: to compare with it is to read."""


class Client(Protocol):
    """What is used of a ``torch.distributed.TCPStore``."""

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        """Set a key where it holds what is expected (empty: where it is not there); what it holds then."""
        ...

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys are there."""
        ...


class Keys:
    """The store as our thread sees it: keys under a prefix, text values, never deleted."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def read(self, key: str) -> str | None:
        """What a key holds; ``None`` where it is not there."""
        if not self._client.check([self._prefix + key]):
            return None
        return self._client.compare_set(self._prefix + key, _NEVER, _NEVER).decode()

    def all_there(self, keys: Sequence[str]) -> bool:
        """Whether all keys are there."""
        return self._client.check([self._prefix + key for key in keys])

    def put_first(self, key: str, value: str) -> str:
        """Set a key unless it is there; what it holds then."""
        return self._client.compare_set(self._prefix + key, "", value).decode()

    def replace(self, key: str, held: str, value: str) -> str:
        """Set a key where it still holds this; what it holds then."""
        return self._client.compare_set(self._prefix + key, held, value).decode()


Request = Callable[[Keys], None]


def wait_for_pending_calls(until_ns: int) -> None:
    """Before the interpreter ends: wait for calls of stores that have ended.

    A thread that comes back from C++ while the interpreter ends aborts the process (pybind11): not ours.

    Args:
        until_ns: When to wait no longer, monotonic clock, nanoseconds.
    """
    while _pending_calls:
        _pending_calls[-1].acquire(True, max(0, until_ns - time.monotonic_ns()) / 1e9)
        _pending_calls.pop()


def _forget_in_child() -> None:
    """The threads that would come back are the parent's."""
    _pending_calls.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class JobStore:
    """See the header of this file.

    Args:
        connect: Makes a client of ours; called on the thread, once, and again after it failed.
        prefix: Of all keys.
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
        self._running = False
        self._asked = self._closed = False
        self._connecting_since_ns: int | None = None
        self._busy_since_ns: int | None = None
        self._pid = os.getpid()
        self.error = ""
        """Why it cannot be used, or the empty string."""

    @property
    def given_up(self) -> bool:
        """Whether it failed, or has not answered for too long."""
        late = self._is_out(self._busy_since_ns, CALL_TIMEOUT_NS)
        late = late or self._is_out(self._connecting_since_ns, CONNECT_TIMEOUT_NS)
        return late or self._closed or bool(self.error)

    @property
    def connecting(self) -> bool:
        """Whether it is still being connected to, and not given up: an answer may take longer than usual."""
        return self._connecting_since_ns is not None and not self.given_up

    def submit(self, errand: Request, *, wait_s: float = 0.0) -> bool:
        """Have an errand run on the thread.

        Args:
            errand: What to do; nothing of it runs where the store is given up.
            wait_s: How long to wait for it, seconds, at most 50 ms.

        Returns:
            Whether it is done.
        """
        if self.given_up or self._pid != os.getpid():
            return False
        done = self._put(errand)
        return bool(wait_s) and done.acquire(True, min(wait_s, MAX_WAIT_S))

    def retry(self) -> None:
        """A round has begun: what failed in the one before is tried anew, over a new connection."""
        self.error = ""

    def close(self) -> None:
        """Nobody asks any more: once what was asked is done, the thread ends, and the connection with it.

        Waits for that, at most 50 ms.
        """
        if not self._closed and self._pid == os.getpid():
            self._closed = True
            if self._asked:
                done = self._put(None)
                if not done.acquire(True, MAX_WAIT_S):
                    _pending_calls[:] = [*(other for other in _pending_calls if other.locked()), done]

    def _is_out(self, since_ns: int | None, longest_ns: int) -> bool:
        return since_ns is not None and self._monotonic_ns() - since_ns > longest_ns

    def _put(self, errand: Request | None) -> _thread.LockType:
        done = _thread.allocate_lock()
        done.acquire()
        self._asked = True
        self._requests.put((errand, done))
        if not self._running:
            # more than one caller may get here: each thread but the first ends at once
            _thread.start_new_thread(self._run, ())
        return done

    def _run(self) -> None:
        if not self._thread_lock.acquire(False):
            return
        self._running = True
        keys: Keys | None = None
        while True:
            errand, done = self._requests.get()
            if errand is None:
                self._running = False
                keys = None  # the connection is closed by this thread
                done.release()
                return
            try:
                if keys is None and not self.error:
                    self._connecting_since_ns = self._monotonic_ns()
                    keys = Keys(self._connect(), self._prefix)
                self._connecting_since_ns, self._busy_since_ns = None, self._monotonic_ns()
                if keys is not None and not self.error:
                    errand(keys)
            except BaseException as error:  # noqa: BLE001 - no signal comes to this thread; torch raises many kinds
                keys = None
                self.error = f"{type(error).__name__}: {error}"
                guard.suppress(error) if not isinstance(error, (RuntimeError, OSError)) else None
            self._connecting_since_ns = self._busy_since_ns = None
            done.release()
