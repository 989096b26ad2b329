"""The way in: a caller hands a text over and waits, briefly, until it is kept.

What always holds:

- ``put`` never raises because of what is behind it and holds its caller at most 50 ms; once a wait has run
  out, the next ones do not wait until the writer is back.
- When ``put`` returned True, what was put survives SIGKILL of this process (where there is a spool on disk).
- The caller's path takes no Python-level lock: one ``queue.SimpleQueue`` and one raw lock that nobody else
  ever takes. Torch's signal handler may raise at any bytecode of the main thread (torch-elastic's
  ``_terminate_process_handler``); with ``queue.Queue`` and ``threading.Event`` that left locks behind.
- All else, from importing what it needs to opening the file, happens on one writer thread, started lazily,
  again in a forked child.
- What cannot be kept is counted.
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
    """What a handler saw, not yet read: destination, text, wall clock ns, monotonic ns."""
    Handed: TypeAlias = tuple[Record | None, _thread.LockType]

    class RecordWriter(Protocol):
        """Keeps observations; used by the writer thread only."""

        def append(self, records: list[Record]) -> int:
            """Keep them and return how many could not be kept; where it raises, none was."""
            ...

        def process(self) -> None:
            """Do what nobody has to wait for; called when nobody has come for a moment."""
            ...


WAIT_S: Final = 0.05
"""The longest a caller is held, seconds."""
MAX_PENDING: Final = 20_000
"""Texts that may wait for a writer that does not come back; about 20 MiB."""
PROCESS_AFTER_S: Final = 0.02
"""How long nobody must have come before what can wait is done: it would take the interpreter from who comes."""
_MAX_BATCH: Final = 256


_queues: weakref.WeakSet[IngestQueue] = weakref.WeakSet()


def _reset_in_child() -> None:
    # at the fork, while the child has one thread: later, two threads that record at once would each begin
    for inlet in list(_queues):
        inlet._reset()


os.register_at_fork(after_in_child=_reset_in_child)


class IngestQueue:
    """See the header of this file.

    Args:
        make_keeper: Called on the writer thread, once in each process; may take its time.
        wait_s: The longest a caller is held, seconds.
        max_waiting: Texts that may wait for the writer; more are counted as lost.
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
        self._closed = False  # once for all: a child that is forked after it has nothing to say either
        self._reset()
        _queues.add(self)

    def _reset(self) -> None:
        """What belongs to one process; a forked child begins anew."""
        self._queue: queue.SimpleQueue[Handed] = queue.SimpleQueue()
        self._writer_lock = _thread.allocate_lock()  # held by the one writer thread for as long as it lives
        self._running = False
        self._stalled = False
        self._stopping = False
        self._in_progress = 0  # texts that the writer took and has not kept yet
        self._flushes = self._flushes_done = 0  # what was put that is no text
        self.lost = 0
        self.used = False
        """Whether anything was handed over in this process."""
        self._pid = os.getpid()  # last, so that a new process is never taken for begun when it is half

    @property
    def pending(self) -> int:
        """Texts handed over and not yet kept."""
        return max(0, self._queue.qsize() - self._flushes + self._flushes_done) + self._in_progress

    def submit(self, destination: str, text: str) -> bool:
        """Hand one recorded text over.

        Returns:
            Whether it is kept; False means "not yet", or "never" where it was counted as lost.
        """
        return self._put((destination, text, self._wall_ns(), self._monotonic_ns()), self._wait_s)

    def start(self) -> None:
        """Start the writer and what follows it, without waiting."""
        self._put(None, 0)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything put before is kept. Whether it is."""
        self._stalled = False
        return self._put(None, timeout_s)

    def stop(self) -> None:
        """End the writer thread once it has kept what was put before; what is put later starts another."""
        if self.used and self._pid == os.getpid():
            self._stopping = True
            self._put(None, 0)

    def close(self) -> None:
        """The process ends and what was put is delivered: what torch's threads still say is not kept, nor counted."""
        self._closed = True

    def _put(self, observation: Record | None, wait_s: float) -> bool:
        if self._pid != os.getpid():
            self._reset()  # a fork that Python was not told of
        if self._closed and observation is not None:
            return False
        self.used = True
        if observation is None:
            self._flushes += 1
        elif self._queue.qsize() >= self._max_pending:
            self.lost += 1
            return False
        done = _thread.allocate_lock()
        done.acquire()
        self._queue.put((observation, done))
        if not self._running:
            # more than one caller may get here: each thread but the first ends at once
            try:
                _thread.start_new_thread(self._write, (self._queue, self._writer_lock))
            except RuntimeError:
                return False  # the interpreter ends, or the system has no thread left: the next call tries again
        if self._stalled or not wait_s:
            return False
        if done.acquire(True, wait_s):
            return True
        self._stalled = True
        if done.acquire(False):
            # the writer came back in this moment, and nobody else would take the mark away
            self._stalled = False
            return True
        return False

    def _write(self, waiting: queue.SimpleQueue[Handed], writing: _thread.LockType) -> None:
        """The writer thread, for the rest of the process's life."""
        if not writing.acquire(False):
            return
        self._running = True
        keeper: RecordWriter | None = None
        unsettled = 0
        while True:
            try:
                batch = [waiting.get(timeout=PROCESS_AFTER_S) if unsettled else waiting.get()]
            except queue.Empty:
                batch = []
            while batch and len(batch) < _MAX_BATCH and not waiting.empty():
                batch.append(waiting.get())
            observations = [observation for observation, _ in batch if observation is not None]
            self._in_progress = len(observations)
            self._flushes_done += len(batch) - len(observations)
            try:
                keeper = keeper or self._make_writer()
                if observations:
                    missed = keeper.append(observations)
                    self.lost += missed  # not in one line: callers count too, in the meantime
            except BaseException as error:  # noqa: BLE001 - no signal comes to this thread, and it must never end
                self.lost += len(observations)
                guard.suppress(error)
            self._in_progress = 0
            self._stalled = False
            for observation, done in batch:
                if observation is not None:
                    done.release()
            unsettled += len(observations)
            asked = len(batch) > len(observations) and not self._stopping
            if keeper is not None and (asked or not batch or unsettled >= _MAX_BATCH):
                # somebody asks for everything, or nobody has come for a while, or enough has come together
                unsettled = 0
                try:
                    keeper.process()
                except BaseException as error:  # noqa: BLE001 - as above
                    guard.suppress(error)
            for observation, done in batch:
                if observation is None:
                    done.release()
            if self._stopping and waiting.empty():
                self._running = self._stopping = False
                writing.release()
                return
