"""One metrics exporter's own way: a snapshot every interval, the newest only, and what dead processes left unsaid.

What always holds:

- State, not a backlog: a snapshot that could not be sent is replaced by a newer one, and never filled in later. Only
  where the exporter counts in deltas, the difference that was fixed before its first attempt is sent again,
  unchanged, until it is accepted or refused; the next one begins where it ended.
- A snapshot that the receiver refuses is dropped and counted.
- What a receiver is told of a counter or histogram first is 0, whatever another receiver was told before.
- What was told last is noted in the spool before it is sent, so that whoever adopts the spool tells the rest, once
  and without gauges, and no counter ever falls.
- Its thread keeps what :mod:`~torchelastic_otel.export.worker` promises.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol, cast

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export import metric_delta
from torchelastic_otel.export.backoff import Backoff, BatchConfig
from torchelastic_otel.export.final_snapshots import last_snapshots
from torchelastic_otel.export.metric_checkpoints import LastNumbers, TallyNotes
from torchelastic_otel.export.metric_delta import Measured
from torchelastic_otel.export.result import Disposition, ExportResult, Sender
from torchelastic_otel.export.sources import SourceSet, SpoolSource
from torchelastic_otel.export.worker import ExportWorker, Rest, rest_until_urgent
from torchelastic_otel.guard import guard
from torchelastic_otel.model.metric import Kind, Snapshot

logger = logging.getLogger("torchelastic_otel")

_MOST_AT_ONCE: Final = 3
"""Snapshots that follow each other at once where a flush asks for all that there is."""


class MetricSource(Protocol):
    """This process's own numbers; called on the threads of metrics exporters, but for ``is_due``."""

    def collect(self) -> Snapshot:
        """All numbers of this moment; one without metrics is not sent."""
        ...

    def commit(self, snapshot: Snapshot) -> bool:
        """A receiver has accepted a snapshot; whether another one is wanted soon."""
        ...

    def should_collect(self) -> bool:
        """Whether a snapshot is wanted before the interval is over; asked at each commit, on the writer's thread."""
        ...


class MetricsSender(Sender[Measured], Protocol):
    """A sender of metrics."""

    @property
    def deltas(self) -> frozenset[Kind]:
        """The instruments of which the exporter wants differences."""
        ...


class PeriodicMetricWorker(ExportWorker[Measured]):
    """See the header of this file.

    Args:
        name: The name of the exporter's cursor.
        make_sender: Makes the exporter's sender; called on the route's thread.
        pace: How it goes about it.
        interval_ns: Time from one snapshot to the next, nanoseconds (``OTEL_METRIC_EXPORT_INTERVAL``).
        numbers: This process's numbers; ``None`` where there are none.
        last_numbers: Those of a process that is gone.
        own: This process's newest spool.
        clock_ns: A monotonic clock, nanoseconds.
        jitter: From 0 to 1, for backoffs.
        rest: In place of the machine's clock.
    """

    when_off = "nobody is told its numbers"

    def __init__(
        self,
        name: str,
        make_sender: Callable[[], Sender[Measured]],
        pace: BatchConfig,
        interval_ns: int,
        *,
        numbers: MetricSource | None,
        last_numbers: LastNumbers = last_snapshots,
        own: Callable[[], SpoolSource | None],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        jitter: Callable[[], float] | None = None,
        rest: Rest = rest_until_urgent,
    ) -> None:
        super().__init__(name, make_sender, pace, rest)
        self._interval_ns = interval_ns
        self._numbers = numbers
        self._notes = TallyNotes(name, last_numbers)
        self._own = own
        self._clock_ns = clock_ns
        self._patience = Backoff(pace, jitter)
        self._base: Snapshot | None = None
        self._frozen: Measured | None = None
        self._begun: set[object] = set()
        self._held_back = False  # by what is frozen, or on its way
        self._due_ns = 0
        self._dead = SourceSet()

    def wake(self) -> None:
        """There is something new: it matters at once where a series has begun, which has to be told before it rises."""
        super().wake()
        if self._is_wanted():
            self._hurry()

    def _is_wanted(self) -> bool:
        # what is in trouble waits for its time
        return self._numbers is not None and not self._trouble and self._numbers.should_collect()

    # --- of dead processes; on the caretaker's thread

    def owes(self, source: SpoolSource) -> bool:
        """Whether something of a dead process's numbers is not told by this exporter yet."""
        try:
            return bool(self._notes.left_of(source))
        except (ValueError, SpoolError) as error:
            logger.debug("%s", error)
            return False

    def add(self, source: SpoolSource) -> None:
        """Tell what is left of a dead process's numbers."""
        self._dead.put(source)
        self._hurry()

    def remove(self, source: SpoolSource) -> None:
        """Leave it alone from here on."""
        self._dead.take_away(source)

    def is_at(self, source: SpoolSource) -> bool:
        """Whether its numbers are being read, sent or noted at this moment."""
        return self._dead.is_in_hand(source)

    # --- on the route's thread

    def _attempt(self, sender: Sender[Measured], *, asked: bool) -> int | None:
        waits = [self._tell_the_last_of(sender, source) for source in self._dead]
        if self._numbers is not None:
            waits.append(self._tell_the_newest(cast(MetricsSender, sender), self._numbers, asked))
        return min((wait for wait in waits if wait is not None), default=None)

    def _tell_the_newest(self, sender: MetricsSender, numbers: MetricSource, asked: bool) -> int | None:
        """Send a snapshot where it is time; how long to rest, ``None`` where there was nothing to tell yet."""
        early_ns = self._due_ns - self._clock_ns()
        if early_ns > 0 and not asked and not self._is_wanted():
            return early_ns
        for _ in range(_MOST_AT_ONCE):
            again = self._frozen is not None
            measured = self._frozen or self._freeze(numbers)
            if measured is None:
                return None
            if self._stopping:
                break
            outcome = self._send(sender, measured)
            if outcome.verdict in (Disposition.RETRY, Disposition.HOLD):
                self._frozen = None  # cumulative numbers are taken anew
                if sender.deltas:
                    self._frozen = replace(measured, snapshot=metric_delta.without_gauges(measured.snapshot))
                return self._rest_for(self._patience.after(outcome))
            self._frozen = None
            source = self._own()
            if source is not None:
                self._notes.note(source.spool, replace(measured, base=measured.snapshot))
            more = False
            if outcome.verdict is Disposition.DELIVERED:
                self._begun |= metric_delta.values_of(measured.snapshot).keys()
                more = numbers.commit(measured.snapshot) or self._held_back
            if not (again or (more and asked)):
                return self._rest_for(min(self._pace.delay_ns, self._interval_ns) if more else self._interval_ns)
        return self._rest_for(self._interval_ns)

    def _freeze(self, numbers: MetricSource) -> Measured | None:
        """The newest snapshot, with what was told before it; noted in the spool."""
        source = self._own()
        if source is None:
            return None
        taken = numbers.collect()
        if not taken.metrics:
            return None
        snapshot = metric_delta.beginning(taken, self._begun)
        self._held_back = metric_delta.values_of(snapshot) != metric_delta.values_of(taken)
        measured = Measured(source.origin, snapshot, self._base)
        self._notes.note(source.spool, measured)
        self._base = snapshot
        return measured

    def _send(self, sender: Sender[Measured], measured: Measured) -> ExportResult:
        """Send, count, and say what went wrong."""
        try:
            outcome = sender.send(measured)
        except BaseException as error:  # noqa: BLE001 - a sender promises not to; if it does, the data may be why
            guard.suppress(error)
            outcome = ExportResult(Disposition.REFUSED, f"{type(error).__name__}: {error}")
        if outcome.verdict is Disposition.DELIVERED:
            self._trouble = ""
            self._patience.reset()
            self._delivered += measured.points - outcome.rejected
            self._rejected += outcome.rejected
            if outcome.rejected:
                self._say(f"the receiver did not take {outcome.rejected} data points: {outcome.reason}")
            return outcome
        self._failures += 1
        self._trouble = outcome.reason
        if outcome.verdict is Disposition.REFUSED:
            self._set_aside += measured.points
            self._say(f"{outcome.reason}; this snapshot is dropped, the next one is tried")
        else:
            self._say(f"{outcome.reason}; trying again with the newest numbers")
        return outcome

    def _rest_for(self, wait_ns: int) -> int:
        self._due_ns = self._clock_ns() + wait_ns
        return wait_ns

    # --- what a spool says of it

    def _tell_the_last_of(self, sender: Sender[Measured], source: SpoolSource) -> int | None:
        with self._dead.take_in_hand(source) as there:
            return self._tell(sender, source) if there else None

    def _tell(self, sender: Sender[Measured], source: SpoolSource) -> int | None:
        try:
            left = self._notes.left_of(source)
        except (ValueError, SpoolError) as error:
            logger.debug("%s", error)
            left = []
        for measured in left:
            self._notes.note(source.spool, measured)
            if self._send(sender, measured).verdict in (Disposition.RETRY, Disposition.HOLD):
                return self._pace.last_backoff_ns
            self._notes.note(source.spool, replace(measured, base=measured.snapshot))
        self.remove(source)
        return None
