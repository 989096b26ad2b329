"""One exporter's thread: it makes the sender, exports, waits, answers flushes, and ends when it is stopped.

Guarantees:

- Workers share nothing but the spools: a slow, hung or broken exporter delays no other.
- While a flush is requested, a worker makes one attempt at once and does not wait for another.
- Whatever an exporter raises, the thread lives and the flush is answered.
- Each error is logged once.
"""

from __future__ import annotations

import _thread
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Final, Generic, TypeVar

from torchelastic_otel.export.backoff import MAX_BACKOFF_NS, Backoff, BatchConfig
from torchelastic_otel.export.result import Disposition, ExportResult, Sender
from torchelastic_otel.export.sources import ExporterState, SourceSet, SpoolSource
from torchelastic_otel.guard import guard
from torchelastic_otel.units import NS_PER_S

logger = logging.getLogger("torchelastic_otel")

_Batch = TypeVar("_Batch")
_MAX_WAIT_NS: Final = int(threading.TIMEOUT_MAX) * NS_PER_S
"""The longest that an event can be waited for; a configured interval may be longer."""
Wait = Callable[[threading.Event, int], object]
"""Waits for nanoseconds, or until the event is set."""


def wait_until_urgent(urgent: threading.Event, ns: int) -> object:
    """Wait by the machine's clock."""
    return urgent.wait(min(ns, _MAX_WAIT_NS) / NS_PER_S)


class ExportWorker(ABC, Generic[_Batch]):
    """See the module's docstring.

    Args:
        name: The name of the exporter's cursor.
        make_sender: Makes the exporter's sender; called on the worker's thread.
        config: Batch size, delay and backoff.
        jitter: A random number from 0 to 1, for the backoff.
        wait: Replaces the machine's clock in tests.

    Attributes:
        disabled_effect: What happens to the data if the exporter cannot be made, for the log.
    """

    disabled_effect: ClassVar[str]

    def __init__(
        self,
        name: str,
        make_sender: Callable[[], Sender[_Batch]],
        config: BatchConfig,
        *,
        jitter: Callable[[], float] | None = None,
        wait: Wait = wait_until_urgent,
    ) -> None:
        self.name = name
        self._make_sender = make_sender
        self._config = config
        self._backoff = Backoff(config, jitter)
        self._wait_until_urgent = wait
        self._sources = SourceSet()
        self._start_allowed = threading.Event()
        self._wake = threading.Event()  # there is something to do
        self._urgent = threading.Event()  # it must be done now
        self._flush_locks: deque[_thread.LockType] = deque()
        self._stopping = False
        self._sender: Sender[_Batch] | None = None
        self._thread: threading.Thread | None = None
        self._delivered = self._rejected = self._quarantined = self._failures = 0
        self._error = ""
        self._logged: set[str] = set()

    @property
    def state(self) -> ExporterState:
        """The counters and the last error."""
        return ExporterState(self.name, self._delivered, self._rejected, self._quarantined, self._failures, self._error)

    def prepare(self) -> None:
        """Create the thread early: Python 3.12 and newer create none while the interpreter exits.

        Raises:
            RuntimeError: The system cannot start a thread.
        """
        if self._stopping or self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name=f"torchelastic-otel-{self.name}", daemon=True)
        thread.start()
        self._thread = thread  # only now: stop() must not join a thread that has not started

    def start(self) -> None:
        """Let the thread run. It is a daemon: the exit of the process does not wait for it."""
        self.prepare()
        self._start_allowed.set()

    def wake(self) -> None:
        """New data is there. This wakes the thread only if it is idle."""
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> _thread.LockType:
        """Request an attempt at once.

        Returns:
            A locked lock, which is released when everything is exported or the attempt has failed. It is not locked
            if the worker has been stopped.
        """
        done = _thread.allocate_lock()
        if not self._stopping:
            done.acquire()
            self._flush_locks.append(done)
            self._wake_at_once()
        return done

    def stop(self, timeout_s: float) -> bool:
        """Stop the thread, cancel a send if necessary; whether the thread has ended in time."""
        self._stopping = True
        self._start_allowed.set()
        self._wake_at_once()
        thread, sender = self._thread, self._sender
        if thread is None:
            return True
        thread.join(timeout_s / 2)
        if thread.is_alive() and sender is not None:
            with guard:
                sender.cancel()
            thread.join(timeout_s / 2)
        return not thread.is_alive()

    def _wake_at_once(self) -> None:
        self._urgent.set()
        self._wake.set()

    # --- sources; on any thread but torch's

    def add(self, source: SpoolSource) -> None:
        """Export this source, too.

        Raises:
            SpoolError: The spool cannot be read.
        """
        self._sources.add(source)

    def remove(self, source: SpoolSource) -> None:
        """Begin nothing more with a source."""
        self._sources.remove(source)

    def is_using(self, source: SpoolSource) -> bool:
        """Whether data of this source is being read, sent or acknowledged now."""
        return self._sources.is_in_use(source)

    @abstractmethod
    def has_unsent(self, source: SpoolSource) -> bool:
        """Whether an orphaned spool has data that this exporter has not received.

        Raises:
            SpoolError: The spool cannot be read.
        """

    # --- on the thread

    @abstractmethod
    def _attempt(self, sender: Sender[_Batch], *, flushing: bool) -> int | None:
        """Export what there is.

        Args:
            sender: The sender.
            flushing: Whether a flush requests it.

        Returns:
            How long to wait, nanoseconds; ``None`` for until there is new data, and then for the batch delay.
        """

    def _send(self, sender: Sender[_Batch], batch: _Batch) -> ExportResult:
        """Send a batch; an exception is a rejection, because the data may cause it."""
        try:
            return sender.send(batch)
        except BaseException as error:  # noqa: BLE001 - a sender must not raise; if it does, the data may be the cause
            guard.suppress(error)
            return ExportResult(Disposition.REJECTED, f"{type(error).__name__}: {error}")

    def _run(self) -> None:
        self._start_allowed.wait()
        try:
            self._sender = self._make_sender() if not self._stopping else None
        except BaseException as error:  # noqa: BLE001 - whatever a constructor raises disables its exporter only
            self._error = f"disabled: {error}"
            logger.warning("exporter %s is disabled, %s: %s", self.name, self.disabled_effect, error)
        while True:
            # cleared before anything is read: a request from here on sets them again
            self._wake.clear()
            self._urgent.clear()
            if self._stopping:
                break
            flushes = len(self._flush_locks)
            wait_ns: int | None = None
            try:
                wait_ns = self._attempt(self._sender, flushing=flushes > 0) if self._sender is not None else None
            except BaseException as error:  # noqa: BLE001 - no signal reaches this thread: an exporter calls sys.exit()
                guard.suppress(error)
            finally:
                for _ in range(flushes):
                    self._flush_locks.popleft().release()
            try:
                self._wait(wait_ns)
            except Exception as error:  # noqa: BLE001 - without a wait the thread would never end, or never sleep
                guard.suppress(error)
                self._urgent.wait(MAX_BACKOFF_NS / NS_PER_S)
        try:
            if self._sender is not None:
                self._sender.close()
        except BaseException as error:  # noqa: BLE001 - as above
            guard.suppress(error)
        while self._flush_locks:
            self._flush_locks.popleft().release()

    def _wait(self, wait_ns: int | None) -> None:
        """Wait for new data and the batch delay, or for ``wait_ns``, which only a flush cuts short."""
        if wait_ns is None:
            self._wake.wait()
            wait_ns = self._config.delay_ns
        self._wait_until_urgent(self._urgent, wait_ns)

    def _log_once(self, text: str) -> None:
        """Log each text once: a collector that is down for a night must not fill the job's log."""
        if text not in self._logged and len(self._logged) < 64:
            self._logged.add(text)
            logger.warning("exporter %s: %s", self.name, text)
