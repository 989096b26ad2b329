"""One thread beside torch's: it runs tasks at once, after a delay, or when a descriptor becomes readable.

Guarantees: no thread of torch's waits for it; a task that fails does not affect others; it is a daemon, started lazily,
and a forked child has none. Passing a task from torch's main thread takes no Python-level lock (a signal handler may
raise there at any bytecode).
"""

from __future__ import annotations

import _thread
import heapq
import itertools
import os
import queue
import select
import time
from collections.abc import Callable

from torchelastic_otel.guard import guard
from torchelastic_otel.units import NS_PER_MS

Task = Callable[[], None]


class EventLoopThread:
    """See the header of this file.

    Args:
        monotonic_ns: The monotonic clock, nanoseconds.
    """

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic_ns = monotonic_ns
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._timers: list[tuple[int, int, Task]] = []
        self._numbers = itertools.count()
        self._readers: dict[int, Task] = {}
        self._poll = select.poll()
        self._wakeup = -1
        self._pid = 0

    def call_soon(self, task: Task) -> None:
        """Run a task on the thread; from any thread."""
        if self._pid != os.getpid():
            self._start()
        self._tasks.put(task)
        os.eventfd_write(self._wakeup, 1)

    def stop(self) -> None:
        """End the thread and discard its tasks; the next :meth:`call_soon` starts a new one."""
        if self._pid == os.getpid():
            self._pid = 0
            wakeup, self._tasks = self._wakeup, queue.SimpleQueue()
            os.eventfd_write(wakeup, 1)

    def _start(self) -> None:
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._tasks, self._timers, self._readers = queue.SimpleQueue(), [], {}
        self._poll = select.poll()
        self._poll.register(self._wakeup, select.POLLIN)
        _thread.start_new_thread(self._run, (self._tasks, self._poll, self._wakeup))
        self._pid = os.getpid()  # last: after a signal in between, or without a thread, the next call starts anew

    # --- on the thread

    def call_later(self, delay_ns: int, task: Task) -> None:
        """Run a task after a delay, nanoseconds; from a task only."""
        heapq.heappush(self._timers, (self._monotonic_ns() + delay_ns, next(self._numbers), task))

    def add_reader(self, descriptor: int, task: Task) -> None:
        """Run a task once when a descriptor is readable, then close it; from a task only."""
        self._readers[descriptor] = task
        self._poll.register(descriptor, select.POLLIN)

    def _run(self, tasks: queue.SimpleQueue[Task], poll: select.poll, wakeup: int) -> None:
        while self._tasks is tasks:
            timeout_ms: float | None = None
            if self._timers:
                # rounded up: a wakeup that is early by less than a millisecond would be followed by another one
                timeout_ms = max(0, -(-(self._timers[0][0] - self._monotonic_ns()) // NS_PER_MS))
            for descriptor, event in poll.poll(timeout_ms):
                if descriptor == wakeup and event & select.POLLNVAL:
                    self._pid = 0  # a program closed all descriptors: the next call starts anew
                    return
                with guard:
                    os.eventfd_read(wakeup) if descriptor == wakeup else self._on_readable(descriptor)
            while not tasks.empty():
                with guard:
                    tasks.get()()
            while self._timers and self._timers[0][0] <= self._monotonic_ns():
                _, _, task = heapq.heappop(self._timers)
                with guard:
                    task()
        with guard:
            os.close(wakeup)

    def _on_readable(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        task = self._readers.pop(descriptor)
        with guard:
            task()
        os.close(descriptor)
