"""The entry of the ingest pipeline: a caller submits a text and waits, briefly, until it is stored.

Guarantees:

- ``submit`` never raises because of the writer and blocks its caller at most 50 ms; after a timeout, callers do not
  wait until the writer is back.
- When ``submit`` returned True, the text survives SIGKILL of this process (if the spool is on disk).
- The caller's path takes no Python-level lock: one ``queue.SimpleQueue`` and one raw lock of the call's own. Torch's
  signal handler may raise at any bytecode of the main thread (``_terminate_process_handler``); with ``queue.Queue`` and
  ``threading.Event`` that leaked locks.
- Everything else, from importing modules to opening the file, happens on one writer thread, started lazily, and anew
  in a forked child.
- Texts that cannot be stored are counted.
"""

from __future__ import annotations

import _thread
import os
import queue
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from torchelastic_otel.guard import guard

if TYPE_CHECKING:
    from typing import Protocol, TypeAlias

    Record: TypeAlias = tuple[str, str, int, int]
    """What a handler got, unprocessed: destination, text, wall clock ns, monotonic ns."""
    Item: TypeAlias = tuple[Record | None, _thread.LockType]

    class RecordWriter(Protocol):
        """Stores records; used by the writer thread only."""

        def append(self, records: list[Record]) -> int:
            """Store them and return how many could not be stored; if it raises, none was."""
            ...

        def process(self) -> None:
            """Process what is stored; called when no caller waits."""
            ...


WAIT_S: Final = 0.05
"""The longest that a caller is blocked, seconds."""
MAX_PENDING: Final = 20_000
"""Texts that may wait for a writer that hangs; about 20 MiB."""
PROCESS_AFTER_S: Final = 0.02
"""How long no text must arrive before records are processed: processing would take the interpreter from callers."""
_MAX_BATCH: Final = 256


_queues: weakref.WeakSet[IngestQueue] = weakref.WeakSet()


def _reset_in_child() -> None:
    # at the fork, while the child has one thread: later, two threads that record at once would each reset
    for each in list(_queues):
        each._reset()


os.register_at_fork(after_in_child=_reset_in_child)


class IngestQueue:
    """See the header of this file.

    Args:
        make_writer: Called on the writer thread, once in each process; may take its time.
        wait_s: The longest that a caller is blocked, seconds.
        max_pending: Texts that may wait for the writer; more are counted as lost.
        wall_ns: The wall clock, nanoseconds since the epoch.
        monotonic_ns: The monotonic clock, nanoseconds.
    """

    def __init__(
        self,
        make_writer: Callable[[], RecordWriter],
        *,
        wait_s: float = WAIT_S,
        max_pending: int = MAX_PENDING,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._make_writer = make_writer
        self._wait_s = wait_s
        self._max_pending = max_pending
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._closed = False  # also in children that are forked later
        self._reset()
        _queues.add(self)

    def _reset(self) -> None:
        """The state of one process; a forked child starts with its own."""
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._writer_lock = _thread.allocate_lock()  # held by the one writer thread for as long as it lives
        self._running = False
        self._stalled = False
        self._stopping = False
        self._in_progress = 0  # texts that the writer took and has not stored yet
        self._flushes = self._flushes_done = 0  # items that are no text
        self.lost = 0
        self.used = False
        """Whether anything was submitted in this process."""
        self._pid = os.getpid()  # last, so that a half-made state is never taken for complete

    @property
    def pending(self) -> int:
        """Texts that are submitted and not yet stored."""
        return max(0, self._queue.qsize() - self._flushes + self._flushes_done) + self._in_progress

    def submit(self, destination: str, text: str) -> bool:
        """Submit one recorded text.

        Returns:
            Whether it is stored; False means "not yet", or "never" if it was counted as lost.
        """
        return self._put((destination, text, self._wall_ns(), self._monotonic_ns()), self._wait_s)

    def start(self) -> None:
        """Start the writer, and what it makes, without waiting."""
        self._put(None, 0)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything submitted before is stored and processed; returns whether it is."""
        self._stalled = False
        return self._put(None, timeout_s)

    def stop(self) -> None:
        """End the writer thread after the texts submitted before; a later text starts another one."""
        if self.used and self._pid == os.getpid():
            self._stopping = True
            self._put(None, 0)

    def close(self) -> None:
        """The process ends and everything is delivered: later texts are neither stored nor counted."""
        self._closed = True

    def _put(self, record: Record | None, wait_s: float) -> bool:
        if self._pid != os.getpid():
            self._reset()  # a fork without Python's hooks
        if self._closed and record is not None:
            return False
        self.used = True
        if record is None:
            self._flushes += 1
        elif self._queue.qsize() >= self._max_pending:
            self.lost += 1
            return False
        done = _thread.allocate_lock()
        done.acquire()
        self._queue.put((record, done))
        if not self._running:
            # several callers may get here: each thread but the first ends at once
            try:
                _thread.start_new_thread(self._write, (self._queue, self._writer_lock))
            except RuntimeError:
                return False  # the interpreter ends, or the system cannot start a thread: the next call tries again
        if self._stalled or not wait_s:
            return False
        if done.acquire(True, wait_s):
            return True
        self._stalled = True
        if done.acquire(False):
            # the writer came back in this moment, and nothing else would reset the flag
            self._stalled = False
            return True
        return False

    def _write(self, items: queue.SimpleQueue[Item], writer_lock: _thread.LockType) -> None:
        """The writer thread, for the rest of the process's life."""
        if not writer_lock.acquire(False):
            return
        self._running = True
        writer: RecordWriter | None = None
        unprocessed = 0
        while True:
            try:
                batch = [items.get(timeout=PROCESS_AFTER_S) if unprocessed else items.get()]
            except queue.Empty:
                batch = []
            while batch and len(batch) < _MAX_BATCH and not items.empty():
                batch.append(items.get())
            records = [record for record, _ in batch if record is not None]
            self._in_progress = len(records)
            self._flushes_done += len(batch) - len(records)
            try:
                writer = writer or self._make_writer()
                if records:
                    missed = writer.append(records)
                    self.lost += missed  # not in one statement: callers count too, meanwhile
            except BaseException as error:  # noqa: BLE001 - no signal arrives on this thread, and it must never end
                self.lost += len(records)
                guard.suppress(error)
            self._in_progress = 0
            self._stalled = False
            for record, done in batch:
                if record is not None:
                    done.release()
            unprocessed += len(records)
            flushing = len(batch) > len(records) and not self._stopping
            if writer is not None and (flushing or not batch or unprocessed >= _MAX_BATCH):
                unprocessed = 0
                try:
                    writer.process()
                except BaseException as error:  # noqa: BLE001 - as above
                    guard.suppress(error)
            for record, done in batch:
                if record is None:
                    done.release()
            if self._stopping and items.empty():
                self._running = self._stopping = False
                writer_lock.release()
                return
