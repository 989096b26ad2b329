"""One metrics exporter's route: when it tells, what becomes of a snapshot that is not taken, and what of the dead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.support.batch_workers import BOUND, DELIVERED, origin
from tests.support.collector import wait_until
from tests.support.metric_snapshots import START, S, snapshot
from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.export.metric_checkpoints import EXPORTERS_KEY
from torchelastic_otel.export.metric_delta import MetricBatch, cumulative_values
from torchelastic_otel.export.metric_worker import PeriodicMetricWorker
from torchelastic_otel.export.result import Disposition, ExportResult
from torchelastic_otel.export.sources import SpoolSource
from torchelastic_otel.model.metric import Kind, Snapshot
from torchelastic_otel.processing.processor import METRICS_KEY
from torchelastic_otel.spool import store

INTERVAL_NS = 60 * S
AWAY, BAD, FORBIDDEN = (
    ExportResult(disposition, "no") for disposition in (Disposition.RETRY, Disposition.REJECTED, Disposition.BLOCKED)
)
EVERY_KIND = frozenset({Kind.COUNTER, Kind.HISTOGRAM})


class Told:
    """A sender of metrics that does as it is told.

    Attributes:
        answer: What it answers.
        sent: What it was given, taken or not.
        deltas: The instruments of which it wants differences.
    """

    def __init__(self, answer: ExportResult = DELIVERED, deltas: frozenset[Kind] = frozenset()) -> None:
        self.answer = answer
        self.delta_kinds = deltas
        self.sent: list[MetricBatch] = []

    def send(self, batch: MetricBatch) -> ExportResult:
        """See ``Sender``."""
        self.sent.append(batch)
        return self.answer

    def cancel(self) -> None:
        """See ``Sender``."""

    def close(self) -> None:
        """See ``Sender``."""

    @property
    def failures(self) -> list[object]:
        """The value of the counter in each."""
        return [next(iter(cumulative_values(measured.snapshot).values()), None) for measured in self.sent]


class Counted:
    """Numbers that rise by one failure a second of the stand's clock.

    Attributes:
        now_s: What time it is.
        known: Whether there is anything to tell.
        more: Whether another snapshot is wanted after one that was accepted.
        due: Whether one is wanted at once.
        acknowledged: Snapshots that were accepted.
    """

    def __init__(self) -> None:
        self.now_s = 1
        self.known = True
        self.more = False
        self.due = False
        self.acknowledged: list[Snapshot] = []

    def collect(self) -> Snapshot:
        """See ``MetricSource``."""
        return snapshot(self.now_s, failures=self.now_s) if self.known else Snapshot(START, START)

    def commit(self, snapshot: Snapshot) -> bool:
        """See ``MetricSource``."""
        self.acknowledged.append(snapshot)
        return self.more

    def should_collect(self) -> bool:
        """See ``MetricSource``."""
        return self.due

    def clock_ns(self) -> int:
        """The same time, by a monotonic clock."""
        return self.now_s * S


class Stand:
    """A route that is driven by hand: one attempt for each call of ``attempt``.

    Its receiver was told the 0 of each series before, but of a ``fresh`` one.
    """

    def __init__(
        self, sender: Told, last_numbers: Callable[[str], Sequence[Snapshot]] = lambda tally: [], fresh: bool = False
    ) -> None:
        self.numbers = Counted()
        self.sender = sender
        self.own = SpoolSource(store.create_in_memory(BOUND), origin("own"))
        self.route = PeriodicMetricWorker(
            "x metrics",
            lambda: sender,
            BatchConfig(),
            INTERVAL_NS,
            metric_source=lambda: self.numbers,
            final_snapshots=last_numbers,
            current_source=lambda: self.own,
            clock_ns=self.numbers.clock_ns,
            jitter=lambda: 1.0,
        )
        if not fresh:
            self.route._started_series |= cumulative_values(snapshot(0, failures=0)).keys()

    def attempt(self, *, flushing: bool = False) -> float | None:
        """What the thread does when it wakes; seconds that it rests then."""
        wait_ns = self.route._attempt(self.sender, flushing=flushing)
        return None if wait_ns is None else wait_ns / S


def test_the_first_snapshot_goes_at_once_and_the_next_after_the_interval() -> None:
    """A counter that a backend first hears of when it is 1 never rose from 0."""
    stand = Stand(Told())
    assert stand.attempt() == 60
    stand.numbers.now_s = 31
    assert stand.attempt() == 30
    stand.numbers.now_s = 61
    assert stand.attempt() == 60
    assert stand.sender.failures == [1, 61]
    assert [measured.origin.id for measured in stand.sender.sent] == ["own", "own"]


def test_where_there_is_nothing_to_tell_yet_it_waits_for_something_new() -> None:
    """Before the run is known there is no series."""
    stand = Stand(Told())
    stand.numbers.known = False
    assert stand.attempt() is None
    assert stand.sender.sent == []


def test_a_flush_asks_for_a_snapshot_before_its_time() -> None:
    """What was counted in the last minute of a job is what killed it."""
    stand = Stand(Told())
    stand.attempt()
    stand.numbers.now_s = 5
    stand.attempt(flushing=True)
    assert stand.sender.failures == [1, 5]


def test_what_had_to_be_held_back_follows_soon_and_at_the_end_at_once() -> None:
    """A series begins with 0, and then shows what it is."""
    stand = Stand(Told())
    stand.numbers.more = True
    assert stand.attempt() == 1, "soon"
    stand.attempt(flushing=True)
    assert len(stand.sender.sent) == 4, "a flush goes on for as long as something is held back, within reason"
    assert len(stand.numbers.acknowledged) == 4


def test_each_receiver_is_told_the_0_of_a_series_before_what_it_counts() -> None:
    """Another exporter was told it before, and this one's receiver would take 5 for the beginning, and count 0."""
    stand = Stand(Told(AWAY), fresh=True)
    stand.numbers.now_s = 5
    stand.attempt()
    stand.sender.answer = DELIVERED
    assert stand.attempt(flushing=True) == 60
    assert stand.sender.failures == [0, 0, 5], "what did not arrive is no beginning; a flush tells all there is"
    stand.numbers.now_s = 70
    assert stand.attempt() == 60
    assert stand.sender.failures[-1] == 70


def test_what_has_begun_with_0_shows_what_it_is_soon() -> None:
    """Not an interval later, which may be longer than the job."""
    stand = Stand(Told(deltas=EVERY_KIND), fresh=True)
    assert stand.attempt() == 1
    stand.numbers.now_s = 2
    assert stand.attempt() == 60
    assert stand.sender.failures == [0, 2]
    assert [measured.base is None for measured in stand.sender.sent] == [True, False]


def test_a_snapshot_that_is_wanted_goes_before_its_time_but_not_into_trouble() -> None:
    """Series that have just begun; a collector that is away is not asked at each commit."""
    stand = Stand(Told())
    stand.attempt()
    stand.numbers.due, stand.numbers.now_s = True, 2
    stand.attempt()
    assert stand.sender.failures == [1, 2]
    stand.sender.answer = AWAY
    stand.numbers.now_s = 3
    stand.attempt()
    stand.attempt()
    assert stand.sender.failures == [1, 2, 3]


def test_a_snapshot_that_could_not_be_sent_is_replaced_by_a_newer_one() -> None:
    """State, not a backlog: nothing is filled in later."""
    stand = Stand(Told(AWAY))
    assert stand.attempt() == 1
    stand.numbers.now_s = 2
    assert stand.attempt() == 2
    stand.sender.answer = DELIVERED
    stand.numbers.now_s = 4
    assert stand.attempt() == 60
    assert stand.sender.failures == [1, 2, 4]
    assert (stand.route.state.failures, stand.route.state.error) == (2, "")
    assert [counted.time_ns for counted in stand.numbers.acknowledged] == [START + 4 * S]


def test_a_snapshot_that_is_refused_is_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A 4xx: the same again would be refused again; said once."""
    stand = Stand(Told(BAD))
    assert stand.attempt() == 60
    stand.numbers.now_s = 61
    assert stand.attempt() == 60
    assert stand.sender.failures == [1, 61]
    assert (stand.route.state.quarantined, stand.route.state.delivered) == (6, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "torchelastic-otel: exporter x metrics: no; this snapshot is dropped"
    ]


@pytest.mark.parametrize("trouble", [AWAY, FORBIDDEN])
def test_a_difference_is_sent_again_unchanged_until_it_is_taken(trouble: ExportResult) -> None:
    """Whether a lost answer was a yes nobody knows: only the same point again can be told from a new one."""
    stand = Stand(Told(trouble, EVERY_KIND))
    stand.attempt()
    stand.numbers.now_s = 100
    stand.attempt()
    stand.sender.answer = DELIVERED
    stand.numbers.now_s = 200
    stand.attempt()
    first, again, third, newest = stand.sender.sent
    assert cumulative_values(first.snapshot) == cumulative_values(again.snapshot) == cumulative_values(third.snapshot)
    assert first.snapshot.time_ns == again.snapshot.time_ns == third.snapshot.time_ns
    assert first.base is again.base is third.base is None
    assert not [metric for metric in third.snapshot.metrics if metric.kind is Kind.GAUGE], "nor is a gauge filled in"
    assert newest.base is not None
    assert newest.base.time_ns == first.snapshot.time_ns
    assert newest.snapshot.time_ns == START + 200 * S


def test_a_difference_that_is_refused_is_dropped_and_the_next_begins_where_it_ended() -> None:
    """What a receiver may have taken in part must not come twice."""
    stand = Stand(Told(BAD, EVERY_KIND))
    stand.attempt()
    stand.sender.answer = DELIVERED
    stand.numbers.now_s = 61
    stand.attempt()
    first, second = stand.sender.sent
    assert second.base is not None
    assert second.base.time_ns == first.snapshot.time_ns


def test_what_the_receiver_did_not_take_of_it_is_counted() -> None:
    """Partial success: three points came, one was rejected."""
    stand = Stand(Told(ExportResult(Disposition.DELIVERED, "one is old", rejected_count=1)))
    stand.attempt()
    assert (stand.route.state.delivered, stand.route.state.rejected) == (2, 1)


# --- what dead processes left


def dead(tally: str | None = "tally", *exporters: str) -> SpoolSource:
    """The spool of a process that is gone."""
    spool = store.create_in_memory(BOUND)
    if tally is not None:
        spool.put_meta(METRICS_KEY, tally)
    if exporters:
        spool.put_meta(EXPORTERS_KEY, str(list(exporters)).replace("'", '"'))
    return SpoolSource(spool, origin("dead"))


def last(failures: int) -> Callable[[str], list[Snapshot]]:
    """As a tally's last numbers: zero first, then this."""
    return lambda tally: [snapshot(50, failures=0, size=None), snapshot(50, failures=failures, size=None)]


def test_the_last_numbers_of_a_dead_process_are_told_once_as_its_own() -> None:
    """A failure that killed the agent is counted."""
    stand = Stand(Told(), last(3))
    stand.numbers.known = False
    source = dead("tally", "x metrics", "y metrics")
    assert stand.route.has_unsent(source)
    stand.route.add(source)
    stand.attempt()
    assert [measured.origin.id for measured in stand.sender.sent] == ["dead", "dead"]
    assert stand.sender.failures == [0, 3]
    assert not stand.route.has_unsent(source)
    stand.route.add(source)
    stand.attempt()
    assert len(stand.sender.sent) == 2


@pytest.mark.parametrize("source", [dead(None), dead("tally", "y metrics"), dead("tally")], ids=["none", "y", "any"])
def test_numbers_that_went_another_way_are_left_alone(source: SpoolSource) -> None:
    """Two exporters of one backend would count double; where nobody noted a way, this one is as good as any."""
    assert Stand(Told(), last(3)).route.has_unsent(source) is (source.spool.meta(EXPORTERS_KEY) is None) & (
        source.spool.meta(METRICS_KEY) is not None
    )


def test_a_difference_that_was_on_its_way_when_the_process_died_goes_first_and_unchanged() -> None:
    """It may have arrived: what comes after it begins where it ended."""
    alive = Stand(Told(AWAY, EVERY_KIND))
    alive.attempt()
    alive.own.spool.put_meta(METRICS_KEY, "tally")
    stand = Stand(Told(DELIVERED, EVERY_KIND), last(9))
    stand.numbers.known = False
    stand.route.add(SpoolSource(alive.own.spool, origin("dead")))
    stand.attempt()
    again, rest = stand.sender.sent
    assert cumulative_values(again.snapshot) == cumulative_values(alive.sender.sent[0].snapshot)
    assert (again.base, again.snapshot.time_ns) == (None, alive.sender.sent[0].snapshot.time_ns)
    assert rest.base is not None
    assert rest.base.time_ns == again.snapshot.time_ns
    assert stand.sender.failures == [1, 9]


def test_a_process_whose_last_snapshot_said_it_all_owes_nothing() -> None:
    """A clean end: nothing comes twice."""
    alive = Stand(Told())
    alive.attempt()
    alive.own.spool.put_meta(METRICS_KEY, "tally")
    stand = Stand(Told(), lambda tally: [snapshot(1, failures=1, size=None)])
    assert not stand.route.has_unsent(SpoolSource(alive.own.spool, origin("dead")))


def test_the_last_numbers_begin_with_0_for_a_receiver_that_was_never_told_any() -> None:
    """Another receiver had the 0 while the process lived: this one would take the last number for the beginning."""
    stand = Stand(Told(), lambda tally: [snapshot(9, failures=9, size=None)])
    stand.numbers.known = False
    source = dead()
    stand.route.add(source)
    stand.attempt()
    assert stand.sender.failures == [0, 9]
    times = [measured.snapshot.time_ns for measured in stand.sender.sent]
    assert times == sorted(set(times))
    assert not stand.route.has_unsent(source)


def test_the_last_numbers_that_could_not_be_told_are_owed_still() -> None:
    """The collector is away for the survivors, too."""
    stand = Stand(Told(AWAY), last(3))
    stand.numbers.known = False
    source = dead()
    stand.route.add(source)
    assert stand.attempt() == 15
    assert stand.route.has_unsent(source)
    assert stand.route.state.error == "no"
    stand.sender.answer = BAD
    stand.attempt()
    assert not stand.route.has_unsent(source), "dropped, and counted"


def test_a_tally_that_cannot_be_read_is_owed_to_nobody() -> None:
    """A spool of another version is delivered all the same."""

    def broken(tally: str) -> list[Snapshot]:
        raise ValueError("not a tally")

    assert not Stand(Told(), broken).route.has_unsent(dead())


# --- on its thread


@pytest.fixture
def running() -> Iterator[list[Stand]]:
    """Stands whose routes are stopped at the end."""
    stands: list[Stand] = []
    yield stands
    for stand in stands:
        assert stand.route.stop(10)


def test_a_flush_is_answered_once_the_newest_snapshot_was_sent(running: list[Stand]) -> None:
    """Promise 5: an exit waits for one honest attempt, and no longer."""
    stand = Stand(Told())
    running.append(stand)
    stand.route.start()
    assert wait_until(lambda: stand.sender.failures == [1])
    stand.numbers.now_s = 7
    assert stand.route.flush().acquire(timeout=10)
    assert stand.sender.failures == [1, 7]


def test_a_commit_wakes_it_only_where_a_series_has_begun(running: list[Stand]) -> None:
    """Every event of an agent wakes its routes: a snapshot for each would be a flood."""
    stand = Stand(Told())
    running.append(stand)
    stand.route.start()
    assert wait_until(lambda: stand.sender.failures == [1])
    stand.numbers.now_s = 2
    stand.route.wake()
    quiet = threading.Event()
    assert not quiet.wait(0.05)
    assert stand.sender.failures == [1]
    stand.numbers.due, stand.numbers.more = True, False
    stand.route.wake()
    assert wait_until(lambda: len(stand.sender.sent) > 1)
    stand.numbers.due = False
