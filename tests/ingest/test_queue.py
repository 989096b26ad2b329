"""The way in: bounded waits, no lock, nothing twice, nothing lost unsaid (promises 1 to 3)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.collector import wait_until
from torchelastic_otel.guard import guard
from torchelastic_otel.ingest.queue import IngestQueue

if TYPE_CHECKING:
    from torchelastic_otel.ingest.queue import Record

LONG_S = 20.0


class Kept:
    """A keeper in memory, which can be held up for real and can be broken.

    Attributes:
        texts: What was kept, in order.
        go: Cleared, ``keep`` blocks until it is set.
        fault: Raised by ``keep`` where it is set.
        entered: Set once ``keep`` was called.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.fault: BaseException | None = None
        self.threads: set[int] = set()
        self.made = 0
        self.settled = 0

    def make(self) -> Kept:
        """As the inlet wants it."""
        self.made += 1
        return self

    def process(self) -> None:
        """Counts; nobody waits for it."""
        self.settled += 1

    def append(self, observations: list[Record]) -> int:
        """Keep, when it may."""
        self.entered.set()
        self.threads.add(threading.get_ident())
        assert self.go.wait(60)
        if self.fault is not None:
            raise self.fault
        self.texts += [text for _, text, _, _ in observations]
        return 0


def held_ns(inlet: IngestQueue, text: str) -> int:
    """How long one ``put`` takes."""
    begin = time.monotonic_ns()
    inlet.submit("null", text)
    return time.monotonic_ns() - begin


def test_put_returns_when_it_is_kept() -> None:
    """Promise 3: True means kept, at once and not soon."""
    kept = Kept()
    inlet = IngestQueue(kept.make, wait_s=LONG_S)
    for number in range(100):
        assert inlet.submit("null", str(number)) is True
        assert kept.texts[-1] == str(number)
    assert (inlet.pending, inlet.lost, kept.made) == (0, 0, 1)
    assert kept.threads.isdisjoint({threading.get_ident()})


def test_after_the_end_what_is_still_said_finds_no_closed_spool_and_what_was_put_is_kept() -> None:
    """Torch's heartbeats go on while the interpreter ends; a traceback there frightens whoever reads the log."""
    kept = Kept()
    inlet = IngestQueue(kept.make, wait_s=LONG_S)
    assert inlet.submit("null", "before")
    inlet.close()
    assert inlet.submit("null", "after") is False
    assert inlet.flush(LONG_S)
    assert (kept.texts, inlet.lost, inlet.pending) == (["before"], 0, 0)


def test_what_a_handler_saw_is_kept_with_its_clocks() -> None:
    """Times are when it happened, not when the writer came to it."""
    seen: list[Record] = []

    class Keeper:
        def append(self, observations: list[Record]) -> int:
            seen.extend(observations)
            return 0

        def process(self) -> None:
            pass

    inlet = IngestQueue(Keeper, wait_s=LONG_S, wall_ns=lambda: 17, monotonic_ns=lambda: 4)
    assert inlet.submit("console", "text")
    assert seen == [("console", "text", 17, 4)]


def test_a_hung_disk_holds_one_caller_for_the_wait_and_the_next_ones_not_at_all() -> None:
    """Promise 2: 50 ms at most, and not 50 ms for each of a hundred events."""
    kept = Kept()
    kept.go.clear()
    inlet = IngestQueue(kept.make, wait_s=0.2)
    first = held_ns(inlet, "0")
    assert first >= 190_000_000
    others = [held_ns(inlet, str(number)) for number in range(1, 101)]
    assert sum(others) < 10_000_000_000  # half of what it would be if each of the hundred waited
    assert inlet.pending == 101
    kept.go.set()
    assert inlet.flush(LONG_S)
    assert kept.texts == [str(number) for number in range(101)]
    assert (inlet.pending, inlet.lost) == (0, 0)
    kept.go.clear()
    assert held_ns(inlet, "again") >= 190_000_000  # the writer came back, so it is waited for again
    kept.go.set()


def test_a_writer_that_comes_back_at_the_last_moment_is_waited_for_again() -> None:
    """The mark that says "do not wait" must not stay behind when the wait and the commit end together."""
    kept = Kept()
    inlet = IngestQueue(kept.make, wait_s=0.005)

    class Slow(Kept):
        def append(self, observations: list[Record]) -> int:
            until = time.monotonic_ns() + 5_000_000
            while time.monotonic_ns() < until:
                pass
            return super().append(observations)

    slow = Slow()
    inlet = IngestQueue(slow.make, wait_s=0.005)
    for number in range(100):
        inlet.submit("null", str(number))
        assert wait_until(lambda number=number: len(slow.texts) == number + 1)
        assert wait_until(lambda: not inlet._stalled)


def test_start_and_making_the_keeper_cost_the_caller_no_wait() -> None:
    """Promise 2: what is imported and opened at the start happens behind the caller's back."""
    kept = Kept()
    go = threading.Event()

    def make() -> Kept:
        assert go.wait(60)
        return kept

    inlet = IngestQueue(make, wait_s=LONG_S)
    begin = time.monotonic()
    inlet.start()
    assert time.monotonic() - begin < LONG_S / 2
    inlet._wait_s = 0.05
    assert inlet.submit("null", "early") is False
    assert inlet.pending == 1
    go.set()
    assert inlet.flush(LONG_S)
    assert kept.texts == ["early"]


def test_what_waits_for_a_writer_that_never_comes_is_bounded_and_counted() -> None:
    """Promise 6: memory is bounded too, and what found no room is counted."""
    kept = Kept()
    kept.go.clear()
    inlet = IngestQueue(kept.make, wait_s=0.01, max_pending=10)
    inlet.submit("null", "in hand")
    assert kept.entered.wait(10)
    results = [inlet.submit("null", str(number)) for number in range(25)]
    assert results == [False] * 25
    assert inlet.lost == 15
    assert inlet.pending == 11
    assert not inlet.flush(0.01)
    assert inlet.pending == 11  # a wait is no event
    kept.go.set()
    assert inlet.flush(LONG_S)
    assert kept.texts == ["in hand", *map(str, range(10))]
    assert (inlet.pending, inlet.lost) == (0, 15)


@pytest.mark.tests_own_faults
@pytest.mark.parametrize("fault", [ValueError("broken"), SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_a_keeper_that_fails_costs_its_batch_and_the_writer_lives(
    fault: BaseException, faults: list[BaseException]
) -> None:
    """Promise 1 and 6: nothing of it reaches the caller, it is counted, and the next event is kept."""
    kept = Kept()
    inlet = IngestQueue(kept.make, wait_s=LONG_S)
    kept.fault = fault
    inlet.submit("null", "gone")
    kept.fault = None
    assert inlet.submit("null", "kept") is True
    assert kept.texts == ["kept"]
    assert inlet.lost == 1
    assert faults == [fault]


@pytest.mark.tests_own_faults
@pytest.mark.parametrize("fault", [ValueError("broken"), SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_a_keeper_that_fails_to_settle_leaves_nobody_waiting_and_the_writer_lives(
    fault: BaseException, faults: list[BaseException]
) -> None:
    """A writer that ends in the middle keeps its lock: none ever comes after it, and each flush waits in vain."""

    class Unsettled(Kept):
        def process(self) -> None:
            raise fault

    kept = Unsettled()
    inlet = IngestQueue(kept.make, wait_s=60)
    for text in "ab":
        assert inlet.submit("null", text) is True
        assert inlet.flush(60)
    assert kept.texts == ["a", "b"]
    assert len(kept.threads) == 1
    assert set(faults) == {fault}


@pytest.mark.tests_own_faults
def test_a_keeper_that_cannot_be_made_is_tried_again() -> None:
    """A fault at the start must not silence the agent for ever."""
    kept = Kept()
    tries: list[int] = []

    def make() -> Kept:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not yet")
        return kept

    inlet = IngestQueue(make, wait_s=LONG_S)
    for text in "abc":
        inlet.submit("null", text)
    assert kept.texts == ["c"]
    assert inlet.lost == 2


@pytest.mark.parametrize("threads", [2, 20])
def test_many_threads_put_at_once_and_everything_arrives_exactly_once(threads: int) -> None:
    """Torch records from its main, heartbeat and watchdog threads; the first ones race to start the writer."""
    kept = Kept()
    inlet = IngestQueue(kept.make, wait_s=LONG_S)
    together = threading.Barrier(threads)
    each = 2_000 // threads
    results: list[bool] = []

    def put(name: int) -> None:
        together.wait(10)
        results.extend([inlet.submit("null", f"{name} {number}") for number in range(each)])

    workers = [threading.Thread(target=put, args=(name,)) for name in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert results == [True] * (threads * each)
    assert sorted(kept.texts) == sorted(f"{name} {number}" for name in range(threads) for number in range(each))
    for name in range(threads):  # in order for each thread
        own = [text for text in kept.texts if text.startswith(f"{name} ")]
        assert own == [f"{name} {number}" for number in range(each)]
    assert len(kept.threads) == 1
    assert kept.made == 1


def in_child(work: object) -> int:
    """The exit status of a forked child that does this: 0 where it returned True."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = 0 if work() is True else 1  # type: ignore[operator]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_that_records_begins_anew_also_while_its_parents_writer_hangs() -> None:
    """A fork copies neither the writer nor what it was doing; nothing of the parent's is kept twice."""
    kept = Kept()
    inlet = IngestQueue(kept.make, wait_s=LONG_S)
    assert inlet.submit("null", "before")
    inlet._wait_s = 0.05
    kept.go.clear()
    inlet.submit("null", "hangs")
    inlet.submit("null", "waits")

    def child() -> bool:
        kept.go = threading.Event()
        kept.go.set()
        kept.texts = []
        inlet._wait_s = LONG_S
        return inlet.pending == 0 and inlet.submit("null", "child") and kept.texts == ["child"] and kept.made == 2

    assert in_child(child) == 0
    kept.go.set()
    assert inlet.flush(LONG_S)
    assert kept.texts == ["before", "hangs", "waits"]


def test_threads_of_a_child_that_record_at_once_do_not_lose_each_others_events() -> None:
    """The child begins anew once, at the fork, not whenever one of its threads notices."""
    kept = Kept()
    inlet = IngestQueue(kept.make, wait_s=LONG_S)
    assert inlet.submit("null", "before")

    def child() -> bool:
        kept.texts = []
        threads = [threading.Thread(target=inlet.submit, args=("null", str(n))) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return sorted(kept.texts) == sorted(map(str, range(10)))

    for _ in range(5):
        assert in_child(child) == 0


FORK = """
import os
import sys

from torchelastic_otel.ingest.queue import IngestQueue


class Writer:
    def append(self, records):
        return 0

    def process(self):
        pass


queue = IngestQueue(Writer, wait_s=60)
assert queue.submit("null", "before")
assert len(os.listdir("/proc/self/task")) == 2
if sys.argv[1] == "closed":
    queue.close()
child = os.fork()
if child == 0:
    if sys.argv[1] == "closed":
        assert not queue.submit("null", "late")
    os._exit(len(os.listdir("/proc/self/task")))
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("state", ["open", "closed"])
def test_a_child_gets_no_thread_unless_it_records_to_an_open_queue(state: str) -> None:
    """A forked worker runs no thread of this package; after ``uninstall``, an old handler starts none either.

    In a process of its own: in others gRPC and SDK processors of earlier tests start threads in a child.
    """
    done = subprocess.run([sys.executable, "-c", FORK, state], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_a_system_without_a_thread_to_spare_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 1: a limit on processes is reached by a job's data loaders, not by us; the next event tries again."""
    import _thread

    kept = Kept()
    inlet = IngestQueue(kept.make, wait_s=LONG_S)
    original = _thread.start_new_thread

    def none_left(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", none_left)
    faults = guard.faults
    assert inlet.submit("null", "early") is False
    monkeypatch.setattr(_thread, "start_new_thread", original)
    assert inlet.submit("null", "late") is True
    assert kept.texts == ["early", "late"]
    assert guard.faults == faults
