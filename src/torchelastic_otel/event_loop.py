"""One thread of ours beside torch's: it waits for processes to end and for moments to come.

What always holds: nothing of torch's waits for it; a task that fails costs no other; it is a daemon, started lazily,
and a forked child has none. What is handed over from torch's main thread takes no Python-level lock (a signal may
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
        self._asked: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._timers: list[tuple[int, int, Task]] = []
        self._numbers = itertools.count()
        self._readable: dict[int, Task] = {}
        self._poll = select.poll()
        self._bell = -1
        self._pid = 0

    def call_soon(self, task: Task) -> None:
        """Have a task run on the thread, soon; from any thread."""
        if self._pid != os.getpid():
            self._begin()
        self._asked.put(task)
        os.eventfd_write(self._bell, 1)

    def stop(self) -> None:
        """Let the thread go: what it waits for is forgotten. Who asks again begins anew."""
        if self._pid == os.getpid():
            self._pid = 0
            bell, self._asked = self._bell, queue.SimpleQueue()
            os.eventfd_write(bell, 1)

    def _begin(self) -> None:
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._asked, self._timers, self._readable = queue.SimpleQueue(), [], {}
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        _thread.start_new_thread(self._run, (self._asked, self._poll, self._bell))
        self._pid = os.getpid()  # last: where a signal came in between, or no thread was to be had, the next one begins

    # --- on the thread

    def call_later(self, delay_ns: int, task: Task) -> None:
        """Have a task run after a delay, nanoseconds; from a task only."""
        heapq.heappush(self._timers, (self._monotonic_ns() + delay_ns, next(self._numbers), task))

    def add_reader(self, descriptor: int, task: Task) -> None:
        """Have a task run once, when a descriptor is readable; from a task only. The descriptor is closed after it."""
        self._readable[descriptor] = task
        self._poll.register(descriptor, select.POLLIN)

    def _run(self, asked: queue.SimpleQueue[Task], poll: select.poll, bell: int) -> None:
        while self._asked is asked:
            timeout_ms: float | None = None
            if self._timers:
                # rounded up: to come a moment too early would be to come twice
                timeout_ms = max(0, -(-(self._timers[0][0] - self._monotonic_ns()) // NS_PER_MS))
            for descriptor, event in poll.poll(timeout_ms):
                if descriptor == bell and event & select.POLLNVAL:
                    self._pid = 0  # a program that closes all descriptors closed ours: whoever asks next begins anew
                    return
                with guard:
                    os.eventfd_read(bell) if descriptor == bell else self._came(descriptor)
            while not asked.empty():
                with guard:
                    asked.get()()
            while self._timers and self._timers[0][0] <= self._monotonic_ns():
                _, _, task = heapq.heappop(self._timers)
                with guard:
                    task()
        with guard:
            os.close(bell)

    def _came(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        task = self._readable.pop(descriptor)
        with guard:
            task()
        os.close(descriptor)
