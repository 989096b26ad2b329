"""One exporter's route: order, splitting, acknowledging, and what it does with rows and spools that are at fault."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.batch_workers import BOUND, DELIVERED, TestSender, event, fill, origin, refusing, source
from tests.support.collector import wait_until
from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.export.batch_worker import BatchExportWorker
from torchelastic_otel.export.result import Disposition, ExportResult
from torchelastic_otel.export.sources import SpoolSource
from torchelastic_otel.spool import store
from torchelastic_otel.spool.records import CursorState

FAST = BatchConfig(delay_ns=0, min_backoff_ns=1_000_000, max_backoff_ns=4_000_000, blocked_delay_ns=5_000_000)


@pytest.fixture
def routes() -> Iterator[list[BatchExportWorker]]:
    """Routes to stop at the end."""
    made: list[BatchExportWorker] = []
    yield made
    for route in made:
        assert route.stop(10)


def start(
    routes: list[BatchExportWorker], sender: Any, *sources: SpoolSource, pace: BatchConfig = FAST, name: str = "x"
) -> BatchExportWorker:
    """A running route that reads these."""
    route = BatchExportWorker(name, lambda: sender, pace)
    for each in sources:
        route.add(each)
    route.start()
    routes.append(route)
    return route


def cursor(of: SpoolSource, name: str = "x") -> CursorState:
    """How far it got."""
    return of.spool.cursors()[name]


def test_everything_is_sent_in_order_and_acknowledged(routes: list[BatchExportWorker]) -> None:
    """Promise 4: in order, in batches of the pace's size."""
    read = source(*map(str, range(25)))
    sender = TestSender()
    route = start(routes, sender, read, pace=BatchConfig(max_rows=10, delay_ns=0))
    assert sender.wait_for_taken(25)
    assert [len(batch) for batch in sender.batches] == [10, 10, 5]
    assert sender.taken == [f"a-{number}" for number in range(1, 26)]
    assert wait_until(lambda: cursor(read).delivered == 25)
    assert (route.state.delivered, route.state.failures, route.state.error) == (25, 0, "")


def test_new_rows_wake_the_route(routes: list[BatchExportWorker]) -> None:
    """A route that is done waits for nothing but the next row."""
    read = source("1")
    sender = TestSender()
    route = start(routes, sender, read)
    assert sender.wait_for_taken(1)
    read.spool.append([event("2")])
    route.wake()
    assert sender.wait_for_taken(2)


@pytest.mark.parametrize("bad", [{"0"}, {"12"}, {"6", "7"}, {"0", "5", "12"}, set(map(str, range(13)))])
def test_a_refused_batch_is_split_down_to_the_records_at_fault(routes: list[BatchExportWorker], bad: set[str]) -> None:
    """Only what is refused alone is set aside; its neighbours arrive, in order and once."""
    bodies = [str(number) for number in range(13)]
    read = source(*bodies)
    sender = TestSender(refusing(*bad))
    route = start(routes, sender, read)
    assert wait_until(lambda: cursor(read).position == 13)
    assert sender.taken == [f"a-{number + 1}" for number in range(13) if str(number) not in bad]
    state = cursor(read)
    assert (state.quarantined, state.delivered, state.pending) == (len(bad), 13 - len(bad), 0)
    assert route.state.quarantined == len(bad)


def test_a_collector_that_goes_away_in_the_middle_of_a_split_changes_nothing(routes: list[BatchExportWorker]) -> None:
    """What was taken of a refused batch is acknowledged before the rest is tried; nothing is counted twice."""
    down = threading.Event()

    def answer(bodies: list[str]) -> ExportResult:
        if "5" in bodies:
            if len(bodies) == 1 and not down.is_set():
                down.set()
                return ExportResult(Disposition.RETRY, "away")
            return ExportResult(Disposition.REJECTED, "HTTP 400")
        return DELIVERED

    read = source(*map(str, range(8)))
    sender = TestSender(answer)
    route = start(routes, sender, read)
    assert wait_until(lambda: cursor(read).position == 8)
    assert sender.taken == [f"a-{number + 1}" for number in range(8) if number != 5]
    assert (route.state.quarantined, route.state.failures, cursor(read).quarantined) == (1, 1, 1)


def test_an_unreadable_row_is_set_aside_once_and_costs_no_neighbour(routes: list[BatchExportWorker]) -> None:
    """A row of a newer version, or a torn one; however often the rest has to be tried."""
    read = source("1", "2")
    read.spool.append([("null", "not json"), event("4"), ("null", "[]"), ("null", "{}"), event("7")])
    tries: list[int] = []

    def answer(bodies: list[str]) -> ExportResult:
        tries.append(1)
        return ExportResult(Disposition.RETRY, "away") if len(tries) % 3 else DELIVERED

    sender = TestSender(answer)
    route = start(routes, sender, read)
    assert wait_until(lambda: cursor(read).position == 7)
    assert sender.taken == ["a-1", "a-2", "a-4", "a-7"]
    assert (cursor(read).quarantined, route.state.quarantined, cursor(read).delivered) == (3, 3, 4)


def test_partial_rejections_are_counted_and_move_on(routes: list[BatchExportWorker]) -> None:
    """OTLP partial success: the receiver says it will not take them, and asks for no retry."""
    read = source("1", "2", "3")
    sender = TestSender(ExportResult(Disposition.DELIVERED, "2 rejected", rejected_count=2))
    route = start(routes, sender, read)
    assert wait_until(lambda: cursor(read).position == 3)
    assert (cursor(read).delivered, cursor(read).rejected) == (1, 2)
    assert (route.state.delivered, route.state.rejected) == (1, 2)
    assert len(sender.batches) == 1


@pytest.mark.tests_own_faults
@pytest.mark.parametrize("fault", [TypeError("cannot encode"), SystemExit(3)])
def test_a_sender_that_raises_is_taken_to_refuse(
    routes: list[BatchExportWorker], faults: list[BaseException], fault: BaseException
) -> None:
    """An exception splits the batch like a 400: one event that no exporter can encode holds up no other."""

    def answer(bodies: list[str]) -> ExportResult:
        if "3" in bodies:
            raise fault
        return DELIVERED

    read = source("1", "2", "3", "4")
    sender = TestSender(answer)
    start(routes, sender, read)
    assert sender.wait_for_taken(3)
    assert wait_until(lambda: cursor(read).position == 4)
    assert sender.taken == ["a-1", "a-2", "a-4"]
    assert cursor(read).quarantined == 1
    assert set(faults) == {fault}


def test_what_cannot_be_acknowledged_is_not_sent_again_by_this_process(
    routes: list[BatchExportWorker], tmp_path: Path
) -> None:
    """A disk that went read-only: the next agent sends it again, this one need not."""
    read = source("1", "2", path=tmp_path / "a.spool")
    read.spool._connection.execute("PRAGMA query_only=ON")
    sender = TestSender()
    route = start(routes, sender, read)
    assert sender.wait_for_taken(2)
    flushed = route.flush()
    assert flushed.acquire(True, 10)
    route.wake()
    flushed = route.flush()
    assert flushed.acquire(True, 10)
    assert sender.batches == [["a-1", "a-2"]]
    assert cursor(read).position == 0
    read.spool.close()


def test_a_record_refused_on_a_read_only_disk_is_passed_over_too(
    routes: list[BatchExportWorker], tmp_path: Path
) -> None:
    """Or the route would try it for ever."""
    read = source("1", "bad", "3", path=tmp_path / "a.spool")
    read.spool._connection.execute("PRAGMA query_only=ON")
    sender = TestSender(refusing("bad"))
    route = start(routes, sender, read)
    assert sender.wait_for_taken(2)
    assert wait_until(lambda: route.state.quarantined == 1)
    assert sender.taken == ["a-1", "a-3"]
    read.spool.close()


def test_memory_that_goes_on_after_a_failed_disk_keeps_the_order(
    routes: list[BatchExportWorker], tmp_path: Path
) -> None:
    """Promise 4: rows in memory wait until those on the disk before them have gone."""
    disk = source("1", "2", "3", path=tmp_path / "a.spool")
    memory = SpoolSource(fill(store.create_in_memory(BOUND, 4), "4", "5"), origin("a"), predecessor=disk)
    away = threading.Event()
    sender = TestSender(lambda bodies: DELIVERED if away.is_set() else ExportResult(Disposition.RETRY, "away"))
    start(routes, sender, disk, memory, pace=BatchConfig(max_rows=2, delay_ns=0, min_backoff_ns=1_000_000))
    assert sender.wait_for_batches(2)
    disk.spool._connection.execute("PRAGMA query_only=ON")
    away.set()
    assert sender.wait_for_taken(5)
    assert sender.taken == ["a-1", "a-2", "a-3", "a-4", "a-5"]
    disk.spool.close()


def test_sources_of_different_processes_take_turns(routes: list[BatchExportWorker]) -> None:
    """A dead process' thousand events must not keep the living one's waiting, and each sampler its order."""
    first = source(*map(str, range(6)), name="a")
    second = source(*map(str, range(6)), name="b")
    sender = TestSender()
    start(routes, sender, first, second, pace=BatchConfig(max_rows=2, delay_ns=0))
    assert sender.wait_for_taken(12)
    assert [batch[0][0] for batch in sender.batches] == ["a", "b"] * 3
    for name in "ab":
        own = [uid for uid in sender.taken if uid.startswith(name)]
        assert own == [f"{name}-{number}" for number in range(1, 7)]


def test_a_corrupt_source_is_left_alone_and_the_others_go_on(
    routes: list[BatchExportWorker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 6: one warning, not one for each round."""
    torn = source("1", name="torn", path=tmp_path / "a.spool")
    good = source("1", name="good")
    sender = TestSender(ExportResult(Disposition.RETRY, "away"))
    route = start(routes, sender, torn, good)
    assert sender.wait_for_batches(1)
    with torn.spool._lock:  # SQLite refuses it beside a query of the route
        torn.spool._connection.execute("DROP TABLE events")
    sender.answer = DELIVERED
    assert sender.wait_for_taken(1)
    good.spool.append([event("2")])
    route.wake()
    assert wait_until(lambda: "good-2" in sender.taken)
    assert len([r for r in caplog.records if "is not exported from here on" in r.message]) == 1


def test_a_source_that_cannot_be_read_now_is_tried_again_and_holds_up_no_other(
    routes: list[BatchExportWorker], tmp_path: Path
) -> None:
    """Somebody's lock or a disk's hiccup: not corrupt, so not given up, and no new event is needed to go on."""
    busy = source("1", name="busy", path=tmp_path / "a.spool")
    good = source("1", name="good")
    read = busy.spool.read
    hiccup = threading.Event()

    def fails(*arguments: Any) -> Any:
        if not hiccup.is_set():
            raise SpoolError("disk I/O error")
        return read(*arguments)

    busy.spool.read = fails  # type: ignore[method-assign, assignment]
    sender = TestSender()
    route = start(routes, sender, busy, good)
    assert sender.wait_for_taken(1)
    assert wait_until(lambda: "disk I/O error" in route.state.error)
    hiccup.set()
    assert sender.wait_for_taken(2)
    assert sender.taken == ["good-1", "busy-1"]
    assert wait_until(lambda: route.state.error == "")


def test_a_disk_that_cannot_be_read_any_more_holds_up_what_is_in_memory_for_three_attempts(
    routes: list[BatchExportWorker], caplog: pytest.LogCaptureFixture
) -> None:
    """The writer goes on in memory when the disk fails; rows there must not wait for a disk that is gone."""
    failed, sender = source("1"), TestSender()
    memory = SpoolSource(fill(store.create_in_memory(BOUND, 2), "2"), failed.origin, predecessor=failed)

    def fails(*arguments: Any) -> Any:
        raise SpoolError("disk I/O error")

    failed.spool.read = fails  # type: ignore[method-assign, assignment]
    start(routes, sender, failed, memory)
    assert sender.wait_for_taken(1)
    assert sender.taken == ["a-2"]
    assert "it is not exported from here on" in caplog.text


def test_a_hung_exporter_starves_no_other(routes: list[BatchExportWorker]) -> None:
    """Each exporter has its own thread and cursor."""
    read = source("1", "2", exporters=("x", "y"))
    go = threading.Event()

    def hang(bodies: list[str]) -> ExportResult:
        go.wait(60)
        return DELIVERED

    hung, other = TestSender(hang), TestSender()
    start(routes, hung, read, name="x")
    start(routes, other, read, name="y")
    assert hung.wait_for_batches(1)
    assert other.wait_for_taken(2)
    read.spool.append([event("3")])
    routes[1].wake()
    assert other.wait_for_taken(3)
    assert wait_until(lambda: cursor(read, "y").pending == 0)
    assert cursor(read, "x").pending == 3
    go.set()
    assert hung.wait_for_taken(2)


def test_an_exporter_that_cannot_be_made_is_off_with_one_warning(
    routes: list[BatchExportWorker], caplog: pytest.LogCaptureFixture
) -> None:
    """Its events stay in the spool, and a flush does not wait for it."""
    read = source("1")

    def broken() -> Any:
        raise ValueError("compression 'none'")

    route = BatchExportWorker("x", broken, FAST)
    route.add(read)
    route.start()
    routes.append(route)
    assert wait_until(lambda: route.state.error == "disabled: compression 'none'")
    assert route.flush().acquire(True, 10)
    assert cursor(read).pending == 1
    assert len([r for r in caplog.records if "is disabled" in r.message]) == 1


def test_a_source_that_is_removed_is_read_no_more(routes: list[BatchExportWorker]) -> None:
    """Its owner closes it next."""
    read = source("1")
    sender = TestSender()
    route = start(routes, sender, read)
    assert sender.wait_for_taken(1)
    route.remove(read)
    read.spool.append([event("2")])
    assert route.flush().acquire(True, 10)
    assert sender.taken == ["a-1"]


def test_the_global_random_state_is_not_drawn_from(routes: list[BatchExportWorker]) -> None:
    """Promise 7: the jitter is from a source of our own."""
    state = random.getstate()
    sender = TestSender(ExportResult(Disposition.RETRY, "away"))
    start(routes, sender, source("1"))
    assert sender.wait_for_batches(4)
    assert random.getstate() == state


def test_each_trouble_is_said_once(routes: list[BatchExportWorker], caplog: pytest.LogCaptureFixture) -> None:
    """A collector that is away for a night must not fill the job's log."""
    sender = TestSender(ExportResult(Disposition.RETRY, "HTTP 503"))
    start(routes, sender, source("1"))
    assert sender.wait_for_batches(5)
    assert len([r for r in caplog.records if "HTTP 503" in r.message]) == 1
