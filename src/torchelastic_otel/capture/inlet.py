"""The way in: a caller hands a text over and waits, briefly, until the spool has it.

What always holds:

- ``put`` never raises because of the spool and holds its caller at most 50 ms; once a wait has run out, the
  next ones do not wait until the writer is back.
- When ``put`` returned True, what was put survives SIGKILL of this process.
- The caller's path takes no Python-level lock: one ``queue.SimpleQueue`` and one raw lock that nobody else
  ever takes. Torch's signal handler may raise at any bytecode of the main thread (torch-elastic's
  ``_terminate_process_handler``); with ``queue.Queue`` and ``threading.Event`` that left locks behind.
- All else, from opening the file on, happens on one writer thread, started lazily, again in a forked child.
- What cannot be kept is counted and said once.
"""

from __future__ import annotations

import _thread
import logging
import os
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from torchelastic_otel import semconv
from torchelastic_otel.guard import guard, is_signal
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.normalise import normalise
from torchelastic_otel.model.standing import Standing, enrich
from torchelastic_otel.spool.store import Spool, SpoolError

logger = logging.getLogger("torchelastic_otel")

WAIT_S: Final = 0.05
"""The longest a caller is held, seconds."""
MAX_WAITING: Final = 20_000
"""Texts that may wait for a writer that does not come back; about 20 MiB."""
_MAX_BATCH: Final = 256

Redact = Callable[[ElasticEvent], ElasticEvent]


class Outlet(Protocol):
    """Where the inlet gets its spools from, and whom it tells."""

    def open_spool(self) -> Spool:
        """A new spool for this process, on disk or in memory; called on the writer thread."""
        ...

    def open_memory(self, first_sequence: int) -> Spool:
        """A spool in memory that goes on where one on disk failed; called on the writer thread."""
        ...

    def seen(self, destinations: Iterable[str]) -> None:
        """Rows of these destinations come next; called on the writer thread."""
        ...

    def committed(self) -> None:
        """New rows can be read; called on the writer thread."""
        ...


@dataclass(frozen=True, slots=True)
class Observation:
    """What a handler saw, not yet read.

    Attributes:
        destination: The destination it was recorded to.
        text: What was recorded.
        time_ns: Wall clock nanoseconds when it was.
        monotonic_ns: ``time.monotonic_ns()`` then.
    """

    destination: str
    text: str
    time_ns: int
    monotonic_ns: int


@dataclass(frozen=True, slots=True)
class InletCounts:
    """What became of what was put, for ``doctor`` and the log at exit.

    Attributes:
        waiting: Texts handed over and not yet in the spool.
        lost: Texts that were given up, since the writer did not come back or the spool could not keep them.
    """

    waiting: int
    lost: int


class Inlet:
    """See the header of this file."""

    def __init__(
        self,
        outlet: Outlet,
        *,
        redact: Redact | None = None,
        wait_s: float = WAIT_S,
        max_waiting: int = MAX_WAITING,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._outlet = outlet
        self._redact = redact
        self._wait_s = wait_s
        self._max_waiting = max_waiting
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._begin()

    def _begin(self) -> None:
        """What belongs to one process; a forked child begins anew and leaves its parent's file alone."""
        self._pid = os.getpid()
        self._queue: queue.SimpleQueue[tuple[Observation | None, _thread.LockType]] = queue.SimpleQueue()
        self._writing = _thread.allocate_lock()  # held by the one writer thread for as long as it lives
        self._running = False
        self._stalled = False
        self._lost = 0
        self._standing = Standing(restart_count=0)

    @property
    def counts(self) -> InletCounts:
        """What waits and what was lost."""
        return InletCounts(self._queue.qsize(), self._lost)

    def put(self, destination: str, text: str) -> bool:
        """Hand one recorded text over.

        Returns:
            Whether it is in the spool; False means "not yet", or "never" where it was counted as lost.
        """
        return self._hand_over(Observation(destination, text, self._wall_ns(), self._monotonic_ns()), self._wait_s)

    def start(self) -> None:
        """Start the writer and what follows it, without waiting."""
        self._hand_over(None, 0)

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything put before is in the spool. Whether it is."""
        self._stalled = False
        return self._hand_over(None, timeout_s)

    def _hand_over(self, observation: Observation | None, wait_s: float) -> bool:
        if self._pid != os.getpid():
            self._begin()
        if observation is not None and self._queue.qsize() >= self._max_waiting:
            self._lost += 1
            return False
        done = _thread.allocate_lock()
        done.acquire()
        self._queue.put((observation, done))
        if not self._running:
            # more than one caller may get here: each thread but the first ends at once
            _thread.start_new_thread(self._write, (self._queue, self._writing))
        if self._stalled or not wait_s:
            return False
        if done.acquire(True, wait_s):
            return True
        self._stalled = True
        return False

    # --- on the writer thread

    def _write(
        self, waiting: queue.SimpleQueue[tuple[Observation | None, _thread.LockType]], writing: _thread.LockType
    ) -> None:
        if not writing.acquire(False):
            return
        self._running = True
        spool: Spool | None = None
        while True:
            batch = [waiting.get()]
            while len(batch) < _MAX_BATCH and not waiting.empty():
                batch.append(waiting.get())
            try:
                spool = spool or self._outlet.open_spool()
                spool = self._keep(spool, [observation for observation, _ in batch if observation is not None])
            except Exception as error:
                if is_signal(error):
                    raise
                self._lost += sum(observation is not None for observation, _ in batch)
                guard.kept_in(error)
            for _, done in batch:
                done.release()
            self._stalled = False

    def _keep(self, spool: Spool, observations: Sequence[Observation]) -> Spool:
        """Put a batch into the spool, or into one in memory from here on; which one it is in."""
        if not observations:
            return spool
        standing = self._standing
        rows = []
        for seen in observations:
            event = normalise(
                seen.text,
                seen.destination,
                time_ns=seen.time_ns,
                observed_ns=seen.time_ns,
                monotonic_ns=seen.monotonic_ns,
            )
            standing, event = enrich(standing, event)
            rows.append((event.destination, self._redacted(event).to_json()))
        self._outlet.seen({destination for destination, _ in rows})
        try:
            _, dropped = spool.append(rows)
        except SpoolError as error:
            if spool.path is None:
                raise
            logger.warning("%s; events are kept in memory from here on and are lost if the agent is killed", error)
            spool = self._outlet.open_memory(spool.last_sequence + 1)
            _, dropped = spool.append(rows)
        self._standing = standing
        if dropped:
            self._dropped(dropped)
        self._outlet.committed()
        return spool

    _dropped_said = False

    def _dropped(self, rows: int) -> None:
        if not self._dropped_said:
            self._dropped_said = True
            logger.warning(
                "the spool is full: %d undelivered events were dropped, the oldest first; more are counted without"
                " a word. See `torchelastic-otel doctor`, or raise TORCHELASTIC_OTEL_SPOOL_MAX_BYTES",
                rows,
            )

    def _redacted(self, event: ElasticEvent) -> ElasticEvent:
        if self._redact is None:
            return event
        try:
            return self._redact(event)
        except Exception as error:
            if is_signal(error):
                raise
            guard.kept_in(error)
            # what a broken hook was to hide must not get out because it is broken
            free_text = {semconv.EXCEPTION_MESSAGE, semconv.EXCEPTION_STACKTRACE}
            kept = {name: value for name, value in event.attributes.items() if name not in free_text}
            return replace(event, body="[withheld: the redaction hook failed]", attributes=kept)
