"""An exporter's thread outlives what is set for it and what its exporter raises: each flush is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.batch_workers import TestSender, source
from tests.support.collector import wait_until
from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.export.batch_worker import BatchExportWorker
from torchelastic_otel.export.config import export_config
from torchelastic_otel.export.result import Sender
from torchelastic_otel.export.sources import SpoolSource
from torchelastic_otel.export.worker import ExportWorker, Wait, wait_until_urgent
from torchelastic_otel.settings import Settings

LONG_S = 60
FOREVER = ["9999999999999999", "9" * 400]
"""Milliseconds: more than a lock can be waited for, and more than a float holds."""
FAULTS = [ValueError("broken"), SystemExit(3), KeyboardInterrupt()]


class Driven(ExportWorker[object]):
    """A thread that attempts what it is told to, and rests as long.

    Attributes:
        attempt: What it attempts; returns how long to rest.
        rested: Set once it has gone to rest.
        sender: Its sender.
    """

    disabled_effect = "nothing is"

    def __init__(
        self,
        attempt: Callable[[], int | None] = lambda: None,
        *,
        make_sender: Callable[[], Sender[object]] | None = None,
        rest: Wait = wait_until_urgent,
    ) -> None:
        self.sender = TestSender()
        self.attempt = attempt
        self.rested = threading.Event()
        super().__init__("x", make_sender or (lambda: self.sender), BatchConfig(delay_ns=0), wait=rest)  # type: ignore[arg-type, return-value]
        self.start()

    def _attempt(self, sender: Sender[object], *, flushing: bool) -> int | None:
        return self.attempt()

    def has_unsent(self, source: SpoolSource) -> bool:
        """Nothing is."""
        return False

    def _wait(self, wait_ns: int | None) -> None:
        self.rested.set()
        super()._wait(wait_ns)


@pytest.fixture
def threads() -> Iterator[list[Driven]]:
    """Threads that answer flushes, still are there after that, and end when told."""
    made: list[Driven] = []
    yield made
    for thread in made:
        for _ in range(3):
            assert thread.flush().acquire(timeout=LONG_S)
        assert thread._thread is not None
        assert thread._thread.is_alive()
        assert thread.stop(LONG_S)


def raises(error: BaseException) -> Callable[..., object]:
    """What ends so, whatever it is called with."""

    def call(*_: object) -> object:
        raise error

    return call


@pytest.mark.parametrize("milliseconds", FOREVER)
def test_a_rest_of_any_length_is_one_that_a_flush_ends(threads: list[Driven], milliseconds: str) -> None:
    """Who wants no numbers sets an interval that never ends; without its thread each exit waits its full time."""
    interval_ns = export_config(
        {"OTEL_METRIC_EXPORT_INTERVAL": milliseconds}, Settings(), pytest.fail
    ).metrics_interval_ns
    thread = Driven(lambda: interval_ns)
    threads.append(thread)
    assert thread.rested.wait(LONG_S)


@pytest.mark.parametrize("milliseconds", FOREVER)
def test_rows_that_wait_for_company_for_ever_go_with_a_flush(milliseconds: str) -> None:
    """The delay of a batch may be as long: what waits for it is delivered at the exit."""
    sender = TestSender()
    pace = export_config({"OTEL_BLRP_SCHEDULE_DELAY": milliseconds}, Settings(), pytest.fail).logs
    resting = threading.Event()

    def rest(urgent: threading.Event, ns: int) -> object:
        resting.set()
        return wait_until_urgent(urgent, ns)

    route = BatchExportWorker("x", lambda: sender, pace, wait=rest)
    route.add(source("1", "2"))
    route.start()
    assert sender.wait_for_taken(2, LONG_S)
    assert wait_until(lambda: route.wake() or resting.is_set())
    assert all(route.flush().acquire(timeout=LONG_S) for _ in range(3))
    assert route._thread is not None
    assert route._thread.is_alive()
    assert route.stop(LONG_S)


@pytest.mark.tests_own_faults
@pytest.mark.parametrize("fault", FAULTS)
def test_an_attempt_that_fails_answers_its_flush_and_the_thread_lives(
    threads: list[Driven], faults: list[BaseException], fault: BaseException
) -> None:
    """A user's exporter that calls sys.exit() must not hold up every exit of the agent."""
    threads.append(Driven(raises(fault)))  # type: ignore[arg-type]
    assert threads[0].flush().acquire(timeout=LONG_S)
    assert set(faults) == {fault}


@pytest.mark.tests_own_faults
def test_a_rest_that_fails_is_taken_all_the_same(threads: list[Driven], faults: list[BaseException]) -> None:
    """A thread that has no rest would ask a collector that is away without end."""
    attempts: list[int] = []

    def attempt() -> int:
        attempts.append(1)
        return 1

    fault = OverflowError("timeout value is too large")
    thread = Driven(attempt, rest=raises(fault))
    threads.append(thread)
    assert thread.flush().acquire(timeout=LONG_S)
    assert thread.flush().acquire(timeout=LONG_S)
    assert len(attempts) <= 3
    assert set(faults) == {fault}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_exporter_that_cannot_be_made_leaves_no_flush_waiting(threads: list[Driven], fault: BaseException) -> None:
    """It is off and no more, whatever its constructor calls."""
    threads.append(Driven(make_sender=raises(fault)))  # type: ignore[arg-type]
    assert threads[0].flush().acquire(timeout=LONG_S)
    assert threads[0].state.error.startswith("disabled: ")


@pytest.mark.tests_own_faults
@pytest.mark.parametrize("fault", FAULTS)
def test_an_exporter_that_cannot_be_closed_leaves_no_flush_waiting(
    monkeypatch: pytest.MonkeyPatch, faults: list[BaseException], fault: BaseException
) -> None:
    """A flush that comes while the thread is told to end is answered by the end of it."""
    going, go = threading.Event(), threading.Event()

    def attempt() -> None:
        going.set()
        assert go.wait(LONG_S)

    thread = Driven(attempt)
    monkeypatch.setattr(thread.sender, "close", raises(fault))
    assert going.wait(LONG_S)
    done = thread.flush()
    monkeypatch.setattr(thread, "_stopping", True)
    go.set()
    assert done.acquire(timeout=LONG_S)
    assert thread.stop(LONG_S)
    assert faults == [fault]
