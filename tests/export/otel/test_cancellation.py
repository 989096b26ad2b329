"""The lifeline of an attempt: cuts it and never the one after it."""

from __future__ import annotations

import threading

import pytest

from torchelastic_otel.export.otel.cancellation import Answered, CancellationScope, one_line
from torchelastic_otel.export.result import Disposition, ExportResult

MINUTE_NS = 60_000_000_000


def test_a_cut_without_an_attempt_cuts_nothing() -> None:
    """Abort may come between two sends; the pooled connection stays."""
    cuts: list[int] = []
    lifeline = CancellationScope(MINUTE_NS)
    lifeline.hold(lambda: cuts.append(1))
    lifeline.abort()
    with lifeline.attempt():
        assert lifeline.cut_outcome() is None
    lifeline.abort()
    assert cuts == []


def test_the_time_limit_of_an_attempt_that_is_over_does_not_cut_the_next() -> None:
    """A timer that fires late must find its own attempt or none."""
    cuts: list[int] = []
    lifeline = CancellationScope(MINUTE_NS)
    lifeline.hold(lambda: cuts.append(1))
    with lifeline.attempt():
        pass
    with lifeline.attempt():
        lifeline._cut_off("late", 1)
        assert (cuts, lifeline.cut_outcome()) == ([], None)
        lifeline._cut_off("in time", 2)
    assert cuts == [1]
    assert lifeline.cut_outcome() == ExportResult(Disposition.RETRY, "in time")


def test_what_opens_after_the_cut_is_cut_at_once() -> None:
    """Abort may come before the connection is there."""
    cuts: list[int] = []
    lifeline = CancellationScope(MINUTE_NS)
    with lifeline.attempt():
        lifeline.abort()
        lifeline.hold(lambda: cuts.append(1))
    assert cuts == [1]


def test_an_attempt_is_its_own_thread_s() -> None:
    """A user's other threads may use the same exporter meanwhile."""
    seen: list[bool] = []
    lifeline = CancellationScope(MINUTE_NS)
    with lifeline.attempt():
        thread = threading.Thread(target=lambda: seen.append(lifeline.is_mine()))
        thread.start()
        thread.join()
        seen.append(lifeline.is_mine())
    assert seen == [False, True]
    assert not lifeline.is_mine()


def test_an_attempt_runs_where_no_more_threads_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the interpreter ends, `can't start new thread` must not lose the last batch."""

    def refuses(self: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refuses)
    lifeline = CancellationScope(MINUTE_NS)
    with lifeline.attempt():
        under_way = lifeline.is_mine()
    assert under_way
    assert lifeline.cut_outcome() is None


def test_an_answer_passes_every_handler_of_exceptions() -> None:
    """The exporters catch Exception around their requests."""
    assert not issubclass(Answered, Exception)


def test_what_a_server_says_becomes_one_bounded_line() -> None:
    """It goes into a log of ours."""
    assert one_line(" a\r\nb\x1b[0m\x00 c ") == "a b [0m c"
    assert one_line("x" * 10, 6) == "xxx..."
