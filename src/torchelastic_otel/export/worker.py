"""One exporter's thread: it makes the sender, attempts, rests, answers flushes, and ends when told.

What always holds:

- Threads share nothing but the spools: a slow, hung or broken exporter holds up no other.
- While a flush is asked for, a thread makes one honest attempt at once and does not wait for another.
- Whatever an exporter raises, the thread lives and the flush is answered.
- Each trouble is said once.
"""

from __future__ import annotations

import _thread
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Final, Generic, TypeVar

from torchelastic_otel.export.backoff import LAST_BACKOFF_NS, BatchConfig
from torchelastic_otel.export.result import Sender
from torchelastic_otel.export.sources import ExporterState
from torchelastic_otel.guard import guard
from torchelastic_otel.units import NS_PER_S

logger = logging.getLogger("torchelastic_otel")

_Batch = TypeVar("_Batch")
_LONGEST_REST_NS: Final = int(threading.TIMEOUT_MAX) * NS_PER_S
"""What a lock can be waited for; an interval that somebody has set may be longer."""
Rest = Callable[[threading.Event, int], object]
"""Rest for nanoseconds, or until the event is set."""


def rest_until_urgent(urgent: threading.Event, ns: int) -> object:
    """Rest by the clock of the machine."""
    return urgent.wait(min(ns, _LONGEST_REST_NS) / NS_PER_S)


class ExportWorker(ABC, Generic[_Batch]):
    """See the header of this file.

    Args:
        name: The name of the exporter's cursor.
        make_sender: Makes the exporter's sender; called on the thread.
        pace: How it goes about it.
        rest: In place of the machine's clock.

    Attributes:
        when_off: What becomes of its data where the exporter cannot be made.
    """

    when_off: ClassVar[str]

    def __init__(
        self, name: str, make_sender: Callable[[], Sender[_Batch]], pace: BatchConfig, rest: Rest = rest_until_urgent
    ) -> None:
        self.name = name
        self._make_sender = make_sender
        self._pace = pace
        self._rest_until_urgent = rest
        self._may_begin = threading.Event()
        self._wake = threading.Event()  # there is something to do
        self._urgent = threading.Event()  # and it cannot wait
        self._flushes: deque[_thread.LockType] = deque()
        self._stopping = False
        self._sender: Sender[_Batch] | None = None
        self._thread: threading.Thread | None = None
        self._delivered = self._rejected = self._set_aside = self._failures = 0
        self._trouble = ""
        self._said: set[str] = set()

    @property
    def state(self) -> ExporterState:
        """What the thread is at."""
        return ExporterState(self.name, self._delivered, self._rejected, self._set_aside, self._failures, self._trouble)

    def prepare(self) -> None:
        """Have the thread ready: while the interpreter ends none can be had (Python 3.12 and newer)."""
        if self._stopping or self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name=f"torchelastic-otel-{self.name}", daemon=True)
        thread.start()
        self._thread = thread  # not before: a stop that comes in between could not join it

    def start(self) -> None:
        """Let the thread begin. It is a daemon: an exit never waits for it."""
        self.prepare()
        self._may_begin.set()

    def wake(self) -> None:
        """There is something to read. Costs a thread's waking only where it has nothing to do."""
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> _thread.LockType:
        """Ask for an attempt at once.

        Returns:
            A lock, locked; it is released when everything is delivered or the attempt has failed. Free already
            where the thread has been stopped.
        """
        done = _thread.allocate_lock()
        if not self._stopping:
            done.acquire()
            self._flushes.append(done)
            self._hurry()
        return done

    def stop(self, timeout_s: float) -> bool:
        """End the thread, in the middle of a send if need be; whether it has ended in time."""
        self._stopping = True
        self._may_begin.set()
        self._hurry()
        thread, sender = self._thread, self._sender
        if thread is None:
            return True
        thread.join(timeout_s / 2)
        if thread.is_alive() and sender is not None:
            with guard:
                sender.abort()
            thread.join(timeout_s / 2)
        return not thread.is_alive()

    def _hurry(self) -> None:
        self._urgent.set()
        self._wake.set()

    # --- on the thread

    @abstractmethod
    def _attempt(self, sender: Sender[_Batch], *, asked: bool) -> int | None:
        """Do what there is to do.

        Args:
            sender: The sender.
            asked: Whether a flush asks for it.

        Returns:
            How long to rest, nanoseconds; ``None`` for until something is new, and has had time for company.
        """

    def _run(self) -> None:
        self._may_begin.wait()
        try:
            self._sender = self._make_sender() if not self._stopping else None
        except BaseException as error:  # noqa: BLE001 - whatever a constructor raises, its exporter is off and no more
            self._trouble = f"off: {error}"
            logger.warning("exporter %s is off, %s: %s", self.name, self.when_off, error)
        while True:
            # before anything is looked at: what is asked for from here on sets them again
            self._wake.clear()
            self._urgent.clear()
            if self._stopping:
                break
            flushes = len(self._flushes)
            wait_ns: int | None = None
            try:
                wait_ns = self._attempt(self._sender, asked=flushes > 0) if self._sender is not None else None
            except BaseException as error:  # noqa: BLE001 - no signal comes to this thread: an exporter calls sys.exit()
                guard.suppress(error)
            finally:
                for _ in range(flushes):
                    self._flushes.popleft().release()
            try:
                self._rest(wait_ns)
            except Exception as error:  # noqa: BLE001 - without its rest the thread would never end, or never sleep
                guard.suppress(error)
                self._urgent.wait(LAST_BACKOFF_NS / NS_PER_S)
        try:
            if self._sender is not None:
                self._sender.close()
        except BaseException as error:  # noqa: BLE001 - as above
            guard.suppress(error)
        while self._flushes:
            self._flushes.popleft().release()

    def _rest(self, wait_ns: int | None) -> None:
        """Wait for something new and for company; after a failure, for its time, which only a flush cuts short."""
        if wait_ns is None:
            self._wake.wait()
            wait_ns = self._pace.delay_ns
        self._rest_until_urgent(self._urgent, wait_ns)

    def _say(self, what: str) -> None:
        """Each trouble once: a collector that is away for a night must not fill the job's log."""
        if what not in self._said and len(self._said) < 64:
            self._said.add(what)
            logger.warning("exporter %s: %s", self.name, what)
