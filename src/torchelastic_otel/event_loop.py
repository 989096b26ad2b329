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
import resource
import select
import sys
import time
from collections.abc import Callable
from typing import Final

from torchelastic_otel.guard import guard
from torchelastic_otel.units import NS_PER_MS, NS_PER_S

Task = Callable[[], None]
_WAKEUP_NS: Final = NS_PER_MS
"""The assumed time until an idle core runs a thread, which no counter has (measured in a virtual machine: 0.3 ms)."""
_MAX_DELAY_NS: Final = 50 * NS_PER_MS
"""The assumed delay where the kernel does not report any (measured with two processes that compute on each core)."""


class DelayMeter:
    """How long the calling thread was ready to run, and did not: by the scheduler's and the interpreter's choice.

    The kernel reports the time in its run queue (``/proc/thread-self/schedstat``, second field, nanoseconds). A wait
    for the interpreter's lock ends, or is counted as another wait, after each switch interval (CPython 3.10 to 3.14,
    ``take_gil``); the kernel reports the number of waits.
    """

    def __init__(self) -> None:
        self._before = (0, 0)

    def start(self) -> None:
        """Begin to measure, on the thread to be measured."""
        self._before = self._read()

    def delay_ns(self) -> int:
        """The longest possible delay since then, nanoseconds; one wait of any length is not counted."""
        (queued_ns, waits), (queued_before_ns, waits_before) = self._read(), self._before
        if queued_ns < 0:
            return _MAX_DELAY_NS
        return _WAKEUP_NS + queued_ns - queued_before_ns + max(0, waits - waits_before - 1) * self.switch_interval_ns

    @property
    def switch_interval_ns(self) -> int:
        """The longest uncounted wait for the interpreter's lock."""
        return int(sys.getswitchinterval() * NS_PER_S)

    def _read(self) -> tuple[int, int]:
        try:
            # opened each time: a program may close all descriptors
            with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
                queued_ns = int(file.read(64).split()[1])
        except (OSError, ValueError, IndexError):
            queued_ns = -1
        return queued_ns, resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class EventLoopThread:
    """See the header of this file.

    Args:
        monotonic_ns: The monotonic clock, nanoseconds.
        delays: Measures how late the thread is; ``None`` for a thread that is never late.
    """

    def __init__(
        self,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        delays: Callable[[], DelayMeter | None] = DelayMeter,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._delays = delays
        self.woken_ns = monotonic_ns()
        """When the descriptors whose tasks run now were seen to be readable, monotonic clock; on the thread only."""
        self.woken_error_ns = 0
        """By how much they may have become readable earlier, nanoseconds."""
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
        delays = self._delays()
        looked_ns = self._monotonic_ns()
        while self._tasks is tasks:
            timeout_ms: float | None = None
            if self._timers:
                # rounded up: a wakeup that is early by less than a millisecond would be followed by another one
                timeout_ms = max(0, -(-(self._timers[0][0] - self._monotonic_ns()) // NS_PER_MS))
            if delays is not None:
                delays.start()
            entered_ns = self._monotonic_ns()
            ready = poll.poll(timeout_ms)
            self.woken_ns = self._monotonic_ns()
            if delays is not None:
                late_ns = delays.delay_ns()
                # after a wait this short, a descriptor may have been readable before it
                waited = self.woken_ns - entered_ns > late_ns + delays.switch_interval_ns
                self.woken_error_ns = late_ns if waited else max(0, self.woken_ns - looked_ns)
                looked_ns = max(entered_ns, self.woken_ns - late_ns)
            for descriptor, event in ready:
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
