"""One exporter's own way: its thread, its cursor in every spool, its patience.

What always holds:

- Routes share nothing but the spools: a slow, hung or broken exporter holds up no other.
- A row is acknowledged after the exporter accepted it, or set aside after the receiver refused it alone;
  nothing else moves a cursor. So every row gets there at least once, in order for each spool.
- Patience is ours: backoff with jitter from a random source of our own, the receiver's wish before it.
- While a flush is asked for, a route makes one honest attempt at once and does not wait for another.
"""

from __future__ import annotations

import _thread
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from torchelastic_otel.deliver.outcome import Outcome, Sender, Verdict
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import Delivery, ElasticEvent, Origin
from torchelastic_otel.spool.store import Row, Spool, SpoolCorruptError, SpoolError

logger = logging.getLogger("torchelastic_otel")

NS_PER_S: Final = 1_000_000_000
MAX_BATCH_BYTES: Final = 512 * 1024
"""Bytes of event JSON in a batch; encoded it stays below 1 MiB (held by a test)."""
FIRST_BACKOFF_NS: Final = 1 * NS_PER_S
LAST_BACKOFF_NS: Final = 15 * NS_PER_S
"""Short enough that what waited is there soon after a collector is back."""
HOLD_NS: Final = 60 * NS_PER_S
LONGEST_WISH_NS: Final = 600 * NS_PER_S
"""A receiver that asks for more is asked again after this."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a route goes about it.

    Attributes:
        max_rows: Rows in a batch (``OTEL_BLRP_MAX_EXPORT_BATCH_SIZE``).
        delay_ns: How long new rows wait for company, nanoseconds (``OTEL_BLRP_SCHEDULE_DELAY``).
        first_backoff_ns: The wait after a first failure; it doubles with every further one.
        last_backoff_ns: The longest such wait.
        hold_ns: The wait after a refusal that no data is to blame for.
    """

    max_rows: int = 512
    delay_ns: int = NS_PER_S
    first_backoff_ns: int = FIRST_BACKOFF_NS
    last_backoff_ns: int = LAST_BACKOFF_NS
    hold_ns: int = HOLD_NS


@dataclass(slots=True, eq=False)
class Source:
    """A spool that routes read, and whose rows they are.

    Attributes:
        spool: The spool.
        origin: The process the rows come from.
        before: A source of the same process whose rows all come before these.
        positions: How far each route is, also where the spool could not note it.
    """

    spool: Spool
    origin: Origin
    before: Source | None = None
    positions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouteState:
    """What a route is at, for ``doctor``, ``flush`` and tests.

    Attributes:
        name: The exporter's name.
        delivered: Rows accepted since the process started.
        rejected: Rows of accepted batches that the receiver says it did not take.
        set_aside: Rows refused one by one.
        failures: Attempts that failed.
        trouble: Why it is not getting on, or the empty string.
    """

    name: str
    delivered: int
    rejected: int
    set_aside: int
    failures: int
    trouble: str


class Route:
    """See the header of this file."""

    def __init__(
        self,
        name: str,
        make_sender: Callable[[], Sender],
        pace: Pace,
        *,
        jitter: Callable[[], float] | None = None,
        rest: Callable[[threading.Event, int], object] = lambda urgent, ns: urgent.wait(ns / NS_PER_S),
    ) -> None:
        self.name = name
        self._make_sender = make_sender
        self._pace = pace
        # of our own: drawing from the global one would change the host program's random numbers
        self._jitter = jitter or random.Random().random
        self._rest_until_urgent = rest
        self._sources: list[Source] = []
        self._changing = threading.Lock()  # of the list of sources, which threads of ours change
        self._wake = threading.Event()  # there is something to do
        self._urgent = threading.Event()  # and it cannot wait
        self._flushes: deque[_thread.LockType] = deque()
        self._stopping = False
        self._sender: Sender | None = None
        self._thread: threading.Thread | None = None
        self._backoff_ns = 0
        self._delivered = self._rejected = self._set_aside = self._failures = 0
        self._trouble = ""
        self._said: set[str] = set()

    @property
    def state(self) -> RouteState:
        """What the route is at."""
        return RouteState(self.name, self._delivered, self._rejected, self._set_aside, self._failures, self._trouble)

    def start(self) -> None:
        """Start the thread. It is a daemon: an exit never waits for it."""
        if self._stopping:
            return
        thread = threading.Thread(target=self._run, name=f"torchelastic-otel-{self.name}", daemon=True)
        thread.start()
        self._thread = thread  # not before: a stop that comes in between could not join it

    def add(self, source: Source) -> None:
        """Deliver this source too, from where its cursor stands."""
        source.positions[self.name] = source.spool.cursors()[self.name].position
        with self._changing:
            self._sources = [*self._sources, source]
        self._wake.set()

    def remove(self, source: Source) -> None:
        """Leave a source alone from the next batch on."""
        with self._changing:
            self._sources = [other for other in self._sources if other is not source]

    def wake(self) -> None:
        """There is something to read. Costs a thread's waking only where the route has nothing to do."""
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> _thread.LockType:
        """Ask for an attempt at once.

        Returns:
            A lock, locked; it is released when everything is delivered or the attempt has failed. Free already
            where the route has been stopped.
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

    # --- on the route's thread

    def _run(self) -> None:
        try:
            self._sender = self._make_sender()
        except Exception as error:  # noqa: BLE001 - whatever a constructor raises, its exporter is off and no more
            self._trouble = f"off: {error}"
            logger.warning("exporter %s is off, its events stay in the spool: %s", self.name, error)
        while True:
            # before anything is looked at: what is asked for from here on sets them again
            self._wake.clear()
            self._urgent.clear()
            if self._stopping:
                break
            flushes = len(self._flushes)
            wait_ns: int | None = None
            with guard:
                wait_ns = self._deliver() if self._sender is not None else None
            for _ in range(flushes):
                self._flushes.popleft().release()
            self._rest(wait_ns)
        if self._sender is not None:
            with guard:
                self._sender.close()
        while self._flushes:
            self._flushes.popleft().release()

    def _rest(self, wait_ns: int | None) -> None:
        """Wait for something new and for company; after a failure, for its time, which only a flush cuts short."""
        if wait_ns is None:
            self._wake.wait()
            wait_ns = self._pace.delay_ns
        self._rest_until_urgent(self._urgent, wait_ns)

    def _deliver(self) -> int | None:
        """Deliver what there is, a batch of each source in turn; how long to wait after a failure."""
        more, unread = True, False
        while more and not self._stopping:
            more, unread = False, False
            for source in self._sources:
                try:
                    rows = self._next(source)
                    if not rows:
                        continue
                    outcome = self._send(source, rows)
                except SpoolCorruptError as error:
                    logger.warning("%s; it is left alone from here on", error)
                    self.remove(source)
                    continue
                except SpoolError as error:
                    self._trouble, unread = str(error), True
                    continue
                if outcome.verdict is not Verdict.DELIVERED:
                    return self._failed(outcome)
                self._backoff_ns, self._trouble = 0, ""
                more = True
        return self._failed(Outcome(Verdict.RETRY, self._trouble)) if unread else None

    def _next(self, source: Source) -> list[Row]:
        before = source.before
        unfinished = (
            before is not None
            and before in self._sources
            and before.spool.read(self.name, before.positions[self.name], 1, 1)
        )
        if unfinished:
            return []
        return source.spool.read(self.name, source.positions[self.name], self._pace.max_rows, MAX_BATCH_BYTES)

    def _send(self, source: Source, rows: Sequence[Row]) -> Outcome:
        """Send rows in order; DELIVERED once the cursor stands behind the last."""
        readable: list[Delivery] = []
        for row in rows:
            try:
                readable.append(Delivery(row.sequence, ElasticEvent.from_json(row.payload), source.origin))
            except ValueError as error:
                # what is before it goes first, so that it is set aside once, however often that has to be tried
                outcome = self._export(source, readable)
                if outcome.verdict is not Verdict.DELIVERED:
                    return outcome
                readable = []
                self._put_aside(source, row.sequence, str(error))
        return self._export(source, readable)

    def _export(self, source: Source, deliveries: Sequence[Delivery]) -> Outcome:
        """Send a batch, halving what is refused."""
        if not deliveries:
            return Outcome(Verdict.DELIVERED)
        if self._stopping or self._sender is None:
            return Outcome(Verdict.RETRY, "stopping")
        try:
            outcome = self._sender.send(deliveries)
        except Exception as error:  # noqa: BLE001 - a sender promises not to; if it does, the data may be why
            guard.kept_in(error)
            outcome = Outcome(Verdict.REFUSED, f"{type(error).__name__}: {error}")
        if outcome.verdict is Verdict.DELIVERED:
            self._acknowledge(source, deliveries[-1].sequence, len(deliveries), outcome)
        elif outcome.verdict is Verdict.REFUSED:
            if len(deliveries) == 1:
                self._put_aside(source, deliveries[0].sequence, outcome.reason)
                return Outcome(Verdict.DELIVERED)
            half = len(deliveries) // 2
            first = self._export(source, deliveries[:half])
            return first if first.verdict is not Verdict.DELIVERED else self._export(source, deliveries[half:])
        return outcome

    def _acknowledge(self, source: Source, position: int, rows: int, outcome: Outcome) -> None:
        source.positions[self.name] = position
        self._delivered += rows - outcome.rejected
        self._rejected += outcome.rejected
        if outcome.rejected:
            self._say(f"the receiver did not take {outcome.rejected} of {rows} records: {outcome.reason}")
        try:
            source.spool.acknowledge(self.name, position, delivered=rows - outcome.rejected, rejected=outcome.rejected)
        except SpoolError as error:
            # a disk that cannot note it: no reason to send it again while this process lives
            logger.debug("%s", error)

    def _put_aside(self, source: Source, sequence: int, why: str) -> None:
        self._set_aside += 1
        self._say(f"a record is refused and set aside: {why}")
        try:
            source.spool.set_aside(self.name, sequence, why)
        except SpoolError as error:
            logger.debug("%s", error)
        self._acknowledge(source, sequence, 0, Outcome(Verdict.DELIVERED))

    def _failed(self, outcome: Outcome) -> int:
        self._failures += 1
        self._trouble = outcome.reason
        if self._stopping:
            return 0
        if outcome.verdict is Verdict.HOLD:
            self._say(f"{outcome.reason}; everything is kept, asking again every {self._pace.hold_ns // NS_PER_S} s")
            return self._pace.hold_ns
        self._say(f"{outcome.reason}; everything is kept, trying again until it is delivered")
        if outcome.retry_after_ns is not None:
            return min(outcome.retry_after_ns, LONGEST_WISH_NS)
        self._backoff_ns = min(max(2 * self._backoff_ns, self._pace.first_backoff_ns), self._pace.last_backoff_ns)
        return int(self._backoff_ns * (0.5 + self._jitter() / 2))

    def _say(self, what: str) -> None:
        """Each trouble once: a collector that is away for a night must not fill the job's log."""
        if what not in self._said and len(self._said) < 64:
            self._said.add(what)
            logger.warning("exporter %s: %s", self.name, what)
