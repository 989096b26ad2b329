"""What stands around an agent under watch: who listens, a clock in the test's hands, and the job's real store."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from torchelastic_otel.agent.coordination.agreement import JobKeys
from torchelastic_otel.agent.coordination.job_store import JobStore
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.inferred_event import ClockReading, InferredEvent

S = 1_000_000_000
EPOCH_NS = 1_700_000_000 * S
BOOTED_NS = 5_000 * S
LONGEST_S = 20.0
"""Until then a test waits for what it says will come; none takes it where it does."""


class EventCollector:
    """Listens to an agent."""

    def __init__(self) -> None:
        self.facts: list[InferredEvent] = []
        self.interrupted: Callable[[InferredEvent], bool] = lambda event: False
        """Which event is interrupted, once, as a signal's exception interrupts what runs on the main thread."""
        self._changed = threading.Condition()

    def __call__(self, event: InferredEvent) -> None:
        """Takes what is said, from any thread."""
        if self.interrupted(event):
            self.interrupted = lambda event: False
            raise KeyboardInterrupt
        with self._changed:
            self.facts.append(event)
            self._changed.notify_all()

    def of(self, name: str) -> list[InferredEvent]:
        """What was said under a name."""
        return [event for event in self.facts if event.name == name]

    def wait(self, name: str, count: int = 1) -> list[InferredEvent]:
        """The same, once it was said so often."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of(name)) >= count, LONGEST_S), [f.name for f in self.facts]
        return self.of(name)

    def one(self, name: str) -> InferredEvent:
        """The one that was said."""
        (event,) = self.of(name)
        return event


class Clock:
    """Both clocks, in seconds since the test's beginning."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> ClockReading:
        """This moment."""
        return moment(self.seconds)

    def monotonic_ns(self) -> int:
        """As :func:`time.monotonic_ns`."""
        return self().monotonic_ns


def moment(seconds: float) -> ClockReading:
    """A moment of a test, by both clocks."""
    return ClockReading(EPOCH_NS + round(seconds * S), BOOTED_NS + round(seconds * S))


def wait_until_idle(thread: EventLoopThread) -> None:
    """Wait until the thread has done what it was asked until now, and what is due."""
    event = threading.Event()
    thread.call_soon(lambda: thread.call_later(0, event.set))
    assert event.wait(LONGEST_S)


def wait_until_all_idle(threads: Sequence[EventLoopThread], stores: Sequence[JobStore]) -> None:
    """Wait until nothing is under way between watch threads and stores' threads, but for what waits for a time."""
    for _ in range(8):
        for thread in threads:
            wait_until_idle(thread)
        for store in stores:
            event = threading.Event()
            store.submit(lambda keys, event=event: event.set())  # type: ignore[misc]
            assert store.given_up or event.wait(LONGEST_S)


class Server:
    """The job's store, in this process; clients come over the loopback, as agents' do. Keys are each test's own."""

    _one: Any = None
    _numbers = itertools.count()

    def __init__(self) -> None:
        from torch.distributed import TCPStore

        # one for all: to connect while another one of this process goes away may take torch's whole timeout (2.15)
        if Server._one is None:
            Server._one = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.store = Server._one
        self.prefix = f"test {next(Server._numbers)}/"

    def client(self) -> Any:
        """A connection of one's own."""
        from torch.distributed import TCPStore

        return TCPStore(
            "127.0.0.1", self.store.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30)
        )

    def keys(self, prefix: str = "") -> JobKeys:
        """Keys over a connection of one's own."""
        return JobKeys(self.client(), self.prefix + prefix)


def in_threads(tasks: Sequence[Callable[[], object]]) -> None:
    """Run them at once, each on its own thread, and wait for all."""
    failed: list[BaseException] = []
    together = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> None:
        try:
            together.wait(LONGEST_S)
            task()
        except BaseException as error:  # noqa: BLE001 - raised below, where the test sees it
            failed.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
