"""The thread beside torch's: what it is asked to do, when, and what it survives."""

from __future__ import annotations

import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.collector import wait_until
from tests.support.descriptors import descriptors
from tests.support.observers import LONGEST_S, Clock, S, in_threads, wait_until_idle
from torchelastic_otel.event_loop import DelayMeter, EventLoopThread


@pytest.fixture
def clock() -> Clock:
    """The clock that timers go by."""
    return Clock()


@pytest.fixture
def thread(clock: Clock) -> EventLoopThread:
    """A thread of its own."""
    return EventLoopThread(clock.monotonic_ns, lambda: None)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Something to read from and something to write to; the thread closes the first one."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(writing)


def test_tasks_run_in_the_order_in_which_they_were_asked_and_not_on_the_callers_thread(thread: EventLoopThread) -> None:
    """Facts must not overtake each other, and torch's thread must not do the work."""
    ran: list[tuple[int, bool]] = []
    here = threading.get_ident()
    for number in range(100):
        thread.call_soon(lambda number=number: ran.append((number, threading.get_ident() == here)))  # type: ignore[misc]
    wait_until_idle(thread)
    assert ran == [(number, False) for number in range(100)]


def test_every_thread_may_ask_and_nothing_is_lost(thread: EventLoopThread) -> None:
    """Torch's main thread, its heartbeat thread and the store's thread hand over at once."""
    ran: list[int] = []
    thread.call_soon(lambda: None)

    def ask() -> None:
        for _ in range(200):
            thread.call_soon(lambda: ran.append(1))

    in_threads([ask] * 4)
    wait_until_idle(thread)
    assert len(ran) == 800


def test_timers_come_when_their_time_has_come_and_in_the_order_of_their_times(
    thread: EventLoopThread, clock: Clock
) -> None:
    """Who is given up after two seconds must not be given up before, nor behind who is given up after three."""
    ran: list[str] = []
    for name, seconds in (("late", 3), ("early", 1), ("also early", 1), ("middle", 2)):
        thread.call_soon(lambda name=name, seconds=seconds: thread.call_later(seconds * S, lambda: ran.append(name)))  # type: ignore[misc]
    wait_until_idle(thread)
    assert ran == []
    clock.seconds = 1
    wait_until_idle(thread)
    assert ran == ["early", "also early"]
    clock.seconds = 10
    wait_until_idle(thread)
    assert ran == ["early", "also early", "middle", "late"]


def test_a_timer_comes_by_itself() -> None:
    """Nobody rings when the time has come."""
    thread, came = EventLoopThread(), threading.Event()
    thread.call_soon(lambda: thread.call_later(S // 100, came.set))
    assert came.wait(LONGEST_S)


def test_what_is_readable_is_told_once_and_closed(thread: EventLoopThread, pipe: tuple[int, int]) -> None:
    """A process ends once; ten thousand restarts must not leave ten thousand descriptors."""
    reading, writing = pipe
    told: list[int] = []
    came = threading.Event()
    thread.call_soon(lambda: thread.add_reader(reading, lambda: (told.append(1), came.set())[-1]))
    wait_until_idle(thread)
    assert told == []
    os.write(writing, b"x")
    assert came.wait(LONGEST_S)
    wait_until_idle(thread)
    assert told == [1]
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(reading)


@pytest.mark.tests_own_faults
def test_a_task_that_fails_costs_no_other(
    thread: EventLoopThread, pipe: tuple[int, int], faults: list[Exception]
) -> None:
    """One fault of ours must not end what all agents of the process go by."""
    reading, writing = pipe

    def fail() -> None:
        raise ValueError("ours")

    ran: list[str] = []
    thread.call_soon(fail)
    thread.call_soon(lambda: thread.call_later(0, fail))
    thread.call_soon(lambda: thread.add_reader(reading, fail))
    os.write(writing, b"x")
    wait_until_idle(thread)
    thread.call_soon(lambda: ran.append("on"))
    wait_until_idle(thread)
    assert ran == ["on"]
    assert [str(fault) for fault in faults] == ["ours"] * 3
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(reading)


@pytest.mark.tests_own_faults
def test_a_program_that_closes_all_descriptors_costs_what_they_were_for_and_no_more(
    thread: EventLoopThread, pipe: tuple[int, int]
) -> None:
    """Daemons close what they do not know; a thread that died of it, or span, would harm the job for ever."""
    reading, writing = pipe
    lost, other = os.pipe()
    told, begun = threading.Event(), threading.Event()
    thread.call_soon(lambda: thread.add_reader(lost, told.set))
    wait_until_idle(thread)
    os.close(lost)
    thread.call_soon(lambda: None)  # it looks around, and finds it closed
    assert told.wait(LONGEST_S)
    os.close(other)
    thread.call_soon(lambda: thread.add_reader(reading, lambda: None))
    wait_until_idle(thread)
    os.close(thread._wakeup)
    os.write(writing, b"x")
    until = time.monotonic() + LONGEST_S
    while thread._pid and time.monotonic() < until:
        os.sched_yield()
    thread.call_soon(begun.set)
    assert begun.wait(LONGEST_S)


def test_a_forked_child_has_a_thread_of_its_own_when_it_asks(thread: EventLoopThread) -> None:
    """What the parent was waiting for is none of the child's affair, and its thread is not there."""
    ran: list[str] = []
    thread.call_soon(lambda: thread.call_later(S, lambda: ran.append("the parent's")))
    wait_until_idle(thread)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            thread.call_soon(lambda: ran.append("the child's"))
            wait_until_idle(thread)
            status = 0 if ran == ["the child's"] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    wait_until_idle(thread)
    assert ran == []


def test_a_system_without_a_thread_to_spare_costs_that_task_and_the_next_one_begins(
    thread: EventLoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not begin once must not wait for ever for a thread that nobody starts."""

    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr("_thread.start_new_thread", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            thread.call_soon(lambda: None)
    ran: list[str] = []
    thread.call_soon(lambda: ran.append("on"))
    wait_until_idle(thread)
    assert ran == ["on"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_the_middle_of_handing_over_leaves_no_lock_behind(thread: EventLoopThread) -> None:
    """Torch raises its signal at any bytecode of the main thread (torch-elastic's handler)."""

    class Signal(Exception):
        pass

    def handler(*_: object) -> None:
        raise Signal

    before = signal.signal(signal.SIGALRM, handler)
    try:
        hits = 0
        for number in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + number % 30 * 0.00001)
                for _ in range(100_000):
                    thread.call_soon(lambda: None)
            except Signal:
                hits += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until_idle(thread)
    assert hits > 250  # one that comes in the middle of a destructor is raised to nobody


def test_a_thread_that_is_let_go_ends_and_who_asks_again_begins_anew() -> None:
    """After an uninstall nothing of ours is left in the process."""
    watch = EventLoopThread()
    before = len(descriptors("[eventfd]"))
    threads: queue.SimpleQueue[int] = queue.SimpleQueue()
    for _ in range(50):
        watch.call_soon(lambda: threads.put(threading.get_ident()))
        mine = threads.get(timeout=LONGEST_S)
        watch.stop()
        assert wait_until(lambda mine=mine: mine not in sys._current_frames())  # type: ignore[misc]
        assert len(descriptors("[eventfd]")) <= before


class Delays:
    """A meter whose thread is late by a literal time."""

    switch_interval_ns = 5_000_000

    def __init__(self, late_ns: int) -> None:
        self.late_ns = late_ns

    def start(self) -> None:
        """Nothing to read."""

    def delay_ns(self) -> int:
        """As the kernel would report it."""
        return self.late_ns


@pytest.mark.parametrize(("waited_s", "error_ns"), [(2.0, 30_000_000), (0.02, 20_000_000)])
def test_the_time_of_a_descriptor_has_the_error_of_a_late_thread(
    clock: Clock, pipe: tuple[int, int], waited_s: float, error_ns: int
) -> None:
    """Two exits close together must not be put into an order that a late thread made up.

    After a long wait the thread was late by what the kernel reports; a short one it may have slept through.
    """
    thread = EventLoopThread(clock.monotonic_ns, lambda: Delays(30_000_000))  # type: ignore[arg-type, return-value]
    seen: list[tuple[int, int]] = []

    class Poll:
        """The kernel: time passes, then the descriptor is readable."""

        def poll(self, timeout_ms: float | None) -> list[tuple[int, int]]:
            """Wait."""
            clock.seconds += waited_s
            return [(pipe[0], select.POLLIN)]

        def unregister(self, descriptor: int) -> None:
            """It is read once."""

    def read() -> None:
        seen.append((thread.woken_ns, thread.woken_error_ns))
        thread._tasks = queue.SimpleQueue()  # the last round

    thread._readers[pipe[0]] = read
    thread._poll = Poll()  # type: ignore[assignment]
    thread._run(thread._tasks, thread._poll, os.eventfd(0))
    assert seen == [(clock.monotonic_ns(), error_ns)]


def test_the_kernel_reports_how_late_a_thread_is() -> None:
    """A thread that is not run for want of a core, or of the interpreter's lock, is late by at least that."""
    meter = DelayMeter()
    meter.start()
    first = meter.delay_ns()
    assert first >= 0
    for _ in range(3):
        threading.Event().wait(0.001)
    assert meter.delay_ns() >= first + 2 * meter.switch_interval_ns
