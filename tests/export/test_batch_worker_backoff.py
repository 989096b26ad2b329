"""One exporter's patience: backoff, jitter, the receiver's wish, holding, flush and stop; by a clock of our own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.batch_workers import DELIVERED, TestSender, event, source
from tests.support.collector import wait_until
from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.export.batch_worker import BatchExportWorker
from torchelastic_otel.export.result import Disposition, ExportResult

S = 1_000_000_000
AWAY = ExportResult(Disposition.RETRY, "away")
HANGS = None
"""For a stand: a receiver that never answers, until the send is aborted."""


class Clock:
    """A time that passes when it is told to.

    Attributes:
        now_ns: What time it is.
        asked_ns: What every rest was asked to last.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self.asked_ns: list[int] = []

    def rest(self, urgent: threading.Event, ns: int) -> None:
        """As a route rests: until the time is over, or something cannot wait."""
        until = self.now_ns + ns
        self.asked_ns.append(ns)
        while self.now_ns < until and not urgent.wait(0.002):
            pass


class Stand:
    """A route on such a clock."""

    def __init__(self, answer: ExportResult | None, *, pace: BatchConfig | None = None) -> None:
        self.clock = Clock()
        self.sender = TestSender(answer or self._hang)
        self.source = source("1", "2", "3")
        self.route = BatchExportWorker(
            "x", lambda: self.sender, pace or BatchConfig(delay_ns=0), jitter=lambda: 1.0, wait=self.clock.rest
        )
        self.route.add(self.source)
        self.route.start()

    def _hang(self, bodies: list[str]) -> ExportResult:
        return AWAY if self.sender.aborted.wait(60) else DELIVERED

    def rested_ns(self, rests: int = 1) -> int:
        """How long the rest that it is in was asked to last."""
        assert wait_until(lambda: len(self.clock.asked_ns) >= rests)
        return self.clock.asked_ns[rests - 1]


@pytest.fixture
def stands() -> Iterator[list[Stand]]:
    """Stands to stop at the end."""
    made: list[Stand] = []
    yield made
    for stand in made:
        stand.sender.answer = DELIVERED
        assert stand.route.stop(10)


def on(stands: list[Stand], stand: Stand) -> Stand:
    """Remembered, and after its first attempt."""
    stands.append(stand)
    assert stand.sender.wait_for_batches(1)
    return stand


def failed(route: BatchExportWorker, outcome: ExportResult) -> float:
    """Seconds that the route would wait after this outcome."""
    return route._failed(outcome) / S


def test_backoff_doubles_from_one_second_to_a_quarter_of_a_minute() -> None:
    """Patience is ours: 1, 2, 4, 8, 15 s, at full jitter."""
    route = BatchExportWorker("x", TestSender, BatchConfig(), jitter=lambda: 1.0)
    assert [failed(route, AWAY) for _ in range(6)] == [1, 2, 4, 8, 15, 15]


def test_jitter_takes_away_up_to_a_half() -> None:
    """A thousand agents that lost one collector must not come back in one second."""
    lowest = BatchExportWorker("x", TestSender, BatchConfig(), jitter=lambda: 0.0)
    assert [failed(lowest, AWAY) for _ in range(3)] == [0.5, 1, 2]
    free = BatchExportWorker("x", TestSender, BatchConfig())
    waits = {failed(BatchExportWorker("x", TestSender, BatchConfig()), AWAY) for _ in range(20)}
    assert len(waits) > 10
    assert all(0.5 <= wait <= 1 for wait in waits)
    assert 0.5 <= failed(free, AWAY) <= 1


def test_the_receivers_wish_goes_before_our_backoff_within_reason() -> None:
    """Retry-After: 7 is 7 s, also where our backoff is longer or shorter; a wish for a day is asked again in 10 min."""
    route = BatchExportWorker("x", TestSender, BatchConfig(), jitter=lambda: 1.0)
    assert failed(route, ExportResult(Disposition.RETRY, "429", retry_after_ns=7 * S)) == 7
    assert failed(route, ExportResult(Disposition.RETRY, "429", retry_after_ns=86_400 * S)) == 600
    assert failed(route, AWAY) == 1


def test_holding_waits_a_minute_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    """401, 403, 404: nobody's data is at fault, somebody has to do something."""
    route = BatchExportWorker("x", TestSender, BatchConfig(), jitter=lambda: 1.0)
    assert [failed(route, ExportResult(Disposition.BLOCKED, "HTTP 401")) for _ in range(3)] == [60, 60, 60]
    assert [r.message for r in caplog.records] == [
        "torchelastic-otel: exporter x: HTTP 401; all records are kept, next attempt every 60 s"
    ]


def test_new_rows_do_not_cut_a_backoff_short(stands: list[Stand]) -> None:
    """Each event of a busy agent would be an attempt at a collector that is struggling."""
    stand = on(stands, Stand(AWAY))
    assert stand.rested_ns() == S
    for _ in range(20):
        stand.source.spool.append([event("more")])
        stand.route.wake()
    stand.clock.now_ns += S - 1
    assert not stand.sender.wait_for_batches(2, 0.1)
    stand.clock.now_ns += 1
    assert stand.sender.wait_for_batches(2)


def test_a_success_makes_the_next_backoff_short_again(stands: list[Stand]) -> None:
    """One good answer is a collector that is back."""
    stand = on(stands, Stand(AWAY))
    for rests, expected in enumerate((S, 2 * S, 4 * S), 1):
        assert stand.rested_ns(rests) == expected
        stand.sender.answer = DELIVERED if rests == 3 else AWAY
        stand.clock.now_ns += expected
    assert stand.sender.wait_for_taken(3)
    assert wait_until(lambda: stand.route.state.error == "")
    rests = len(stand.clock.asked_ns)
    stand.sender.answer = AWAY
    stand.source.spool.append([event("4")])
    stand.route.wake()
    assert wait_until(lambda: S in stand.clock.asked_ns[rests:])
    assert 8 * S not in stand.clock.asked_ns


def test_a_held_route_goes_on_by_itself_when_the_receiver_agrees(stands: list[Stand]) -> None:
    """No restart of the job is needed after somebody has fixed the token."""
    stand = on(stands, Stand(ExportResult(Disposition.BLOCKED, "HTTP 401")))
    assert stand.rested_ns() == 60 * S
    assert stand.source.spool.cursors()["x"].pending == 3
    stand.sender.answer = DELIVERED
    stand.clock.now_ns += 60 * S
    assert stand.sender.wait_for_taken(3)


def test_new_rows_wait_for_company_but_not_for_long(stands: list[Stand]) -> None:
    """OTEL_BLRP_SCHEDULE_DELAY: one request for a burst, not one for each event."""
    stand = on(stands, Stand(DELIVERED, pace=BatchConfig(delay_ns=5 * S)))
    assert stand.route.flush().acquire(True, 10)
    for number in range(10):
        stand.source.spool.append([event(str(number))])
        stand.route.wake()
    assert stand.rested_ns(2) == 5 * S  # the first rest was what the flush cut short
    assert not stand.sender.wait_for_batches(2, 0.1)
    stand.clock.now_ns += 5 * S
    assert stand.sender.wait_for_taken(13)
    assert len(stand.sender.batches) == 2


def test_a_flush_makes_one_attempt_at_once_and_does_not_wait_out_the_backoff(stands: list[Stand]) -> None:
    """Promise 5: an exit is not held up by a collector that said no."""
    stand = on(stands, Stand(ExportResult(Disposition.RETRY, "503", retry_after_ns=600 * S)))
    assert stand.rested_ns() == 600 * S
    for attempt in range(2, 5):
        assert stand.route.flush().acquire(True, 10)
        assert len(stand.sender.batches) == attempt


def test_a_flush_cuts_the_wait_for_company_short(stands: list[Stand]) -> None:
    """At the exit the last events go at once."""
    stand = on(stands, Stand(DELIVERED, pace=BatchConfig(delay_ns=600 * S)))
    assert stand.route.flush().acquire(True, 10)
    stand.source.spool.append([event("4")])
    stand.route.wake()
    assert stand.route.flush().acquire(True, 10)
    assert stand.sender.taken[-1] == "a-4"


def test_a_flush_asked_for_during_an_attempt_gets_one_of_its_own(stands: list[Stand]) -> None:
    """What was put after that attempt had read its rows must be in the answer."""
    stand = on(stands, Stand(DELIVERED))
    assert stand.sender.wait_for_taken(3)
    entered, go = threading.Event(), threading.Event()

    def slow(bodies: list[str]) -> ExportResult:
        entered.set()
        go.wait(60)
        return DELIVERED

    stand.sender.answer = slow
    stand.source.spool.append([event("4")])
    stand.route.wake()
    assert entered.wait(10)
    stand.source.spool.append([event("5")])
    flushed = stand.route.flush()
    assert not flushed.acquire(False)
    go.set()
    assert flushed.acquire(True, 10)
    assert stand.sender.taken[-1] == "a-5"


def test_many_flushes_from_many_threads_are_all_answered(stands: list[Stand]) -> None:
    """None may be lost between the asking and the looking, or the exit waits out its whole deadline."""
    stand = on(stands, Stand(DELIVERED))
    missed: list[int] = []

    def ask(name: int) -> None:
        for number in range(200):
            if not stand.route.flush().acquire(True, 10):
                missed.append(number)

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert missed == []
    assert stand.route._thread is not None
    assert stand.route._thread.is_alive()


def test_a_stop_at_any_moment_ends_the_thread(stands: list[Stand]) -> None:
    """The signal to stop must not fall between two looks, or the exit waits for nothing."""
    for _ in range(200):
        made: list[TestSender] = []

        def make(made: list[TestSender] = made) -> TestSender:
            made.append(TestSender())
            return made[0]

        route = BatchExportWorker("x", make, BatchConfig())
        route.start()
        assert route.stop(20)
        assert all(sender.closed.is_set() for sender in made)


def test_a_stop_aborts_a_send_that_is_under_way(stands: list[Stand]) -> None:
    """Promise 5: a hung collector does not hold the exit up."""
    stand = Stand(HANGS)
    assert stand.sender.wait_for_batches(1)
    stand.route.stop(0.4)
    assert stand.sender.aborted.is_set()
    assert stand.route.stop(60)  # no second abort is needed; it only waits for a machine that is slow
    assert stand.source.spool.cursors()["x"].position == 0


def test_a_stopped_route_keeps_no_flush_waiting(stands: list[Stand]) -> None:
    """An exit handler after an explicit uninstall must not wait for a thread that is gone."""
    stand = Stand(DELIVERED)
    assert stand.sender.wait_for_taken(3)
    assert stand.route.stop(10)
    begin = time.monotonic()
    assert stand.route.flush().acquire(True, 10)
    assert time.monotonic() - begin < 5


def test_flushes_that_wait_when_the_route_stops_are_answered(stands: list[Stand]) -> None:
    """Whoever waits is told."""
    stand = Stand(HANGS)
    assert stand.sender.wait_for_batches(1)
    flushes = [stand.route.flush() for _ in range(3)]
    stand.route.stop(0.4)
    assert all(flush.acquire(True, 10) for flush in flushes)
