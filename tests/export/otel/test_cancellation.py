"""The lifeline of an attempt: cuts it and never the one after it."""

from __future__ import annotations

import threading

import pytest

from torchelastic_otel.export.otel.cancellation import AttemptFinished, CancellationScope, one_line
from torchelastic_otel.export.result import Disposition, ExportResult

MINUTE_NS = 60_000_000_000


def test_a_cut_without_an_attempt_cuts_nothing() -> None:
    """Abort may come between two sends; the pooled connection stays."""
    cuts: list[int] = []
    lifeline = CancellationScope(MINUTE_NS)
    lifeline.on_cancel(lambda: cuts.append(1))
    lifeline.cancel()
    with lifeline.attempt():
        assert lifeline.cancelled_result() is None
    lifeline.cancel()
    assert cuts == []


def test_the_time_limit_of_an_attempt_that_is_over_does_not_cut_the_next() -> None:
    """A timer that fires late must find its own attempt or none."""
    cuts: list[int] = []
    lifeline = CancellationScope(MINUTE_NS)
    lifeline.on_cancel(lambda: cuts.append(1))
    with lifeline.attempt():
        pass
    with lifeline.attempt():
        lifeline._cancel("late", 1)
        assert (cuts, lifeline.cancelled_result()) == ([], None)
        lifeline._cancel("in time", 2)
    assert cuts == [1]
    assert lifeline.cancelled_result() == ExportResult(Disposition.RETRY, "in time")


def test_what_opens_after_the_cut_is_cut_at_once() -> None:
    """Abort may come before the connection is there."""
    cuts: list[int] = []
    lifeline = CancellationScope(MINUTE_NS)
    with lifeline.attempt():
        lifeline.cancel()
        lifeline.on_cancel(lambda: cuts.append(1))
    assert cuts == [1]


def test_an_attempt_is_its_own_thread_s() -> None:
    """A user's other threads may use the same exporter meanwhile."""
    seen: list[bool] = []
    lifeline = CancellationScope(MINUTE_NS)
    with lifeline.attempt():
        thread = threading.Thread(target=lambda: seen.append(lifeline.is_current_thread()))
        thread.start()
        thread.join()
        seen.append(lifeline.is_current_thread())
    assert seen == [False, True]
    assert not lifeline.is_current_thread()


def test_an_attempt_runs_where_no_more_threads_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the interpreter ends, `can't start new thread` must not lose the last batch."""

    def refuses(self: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refuses)
    lifeline = CancellationScope(MINUTE_NS)
    with lifeline.attempt():
        under_way = lifeline.is_current_thread()
    assert under_way
    assert lifeline.cancelled_result() is None


def test_an_answer_passes_every_handler_of_exceptions() -> None:
    """The exporters catch Exception around their requests."""
    assert not issubclass(AttemptFinished, Exception)


def test_what_a_server_says_becomes_one_bounded_line() -> None:
    """It goes into a log of ours."""
    assert one_line(" a\r\nb\x1b[0m\x00 c ") == "a b [0m c"
    assert one_line("x" * 10, 6) == "xxx..."
