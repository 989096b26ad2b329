"""The arithmetic of snapshots."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.metric_snapshots import START, S, snapshot
from torchelastic_otel.export.metric_delta import (
    Checkpoint,
    MetricBatch,
    cumulative_values,
    delta_since,
    remaining,
    without_gauges,
)
from torchelastic_otel.model.event import Origin
from torchelastic_otel.model.metric import Distribution, Kind, Snapshot

COUNTER = ("torchelastic.worker.failures", (("torchelastic.failure.kind", "exit"),))
HISTOGRAM = ("torchelastic.restart.duration", ())

DURATIONS = st.lists(st.floats(0, 1_000, width=32), max_size=5).map(tuple)


def test_a_difference_is_what_was_counted_in_between() -> None:
    """Delta backends add up what they get: nothing twice, nothing left out."""
    part = delta_since(snapshot(60, failures=5, restarts=(0.5, 3.0)), snapshot(20, failures=2, restarts=(0.5,)))
    assert (part.start_ns, part.time_ns) == (START + 20 * S, START + 60 * S)
    assert cumulative_values(part) == {COUNTER: 3, HISTOGRAM: Distribution((1.0,), (0, 1), 3.0, None, None)}
    assert [metric.points[0].value for metric in part.metrics if metric.kind is Kind.GAUGE] == [7]


@given(st.lists(st.tuples(st.integers(0, 9), DURATIONS), min_size=1, max_size=6))
def test_differences_add_up_to_the_whole(steps: list[tuple[int, tuple[float, ...]]]) -> None:
    """Whatever is counted when: the sum of all deltas is the last cumulative value."""
    failures, restarts, before = 0, (), snapshot(0)
    total, buckets = 0, [0, 0]
    for number, (more, durations) in enumerate(steps, start=1):
        failures, restarts = failures + more, restarts + durations  # type: ignore[assignment]
        now = snapshot(number, failures=failures, restarts=restarts)
        part = cumulative_values(delta_since(now, before))
        total += part[COUNTER]  # type: ignore[operator,assignment]
        buckets = [a + b for a, b in zip(buckets, part[HISTOGRAM].buckets, strict=True)]  # type: ignore[union-attr]
        before = now
    assert total == failures
    assert tuple(buckets) == cumulative_values(before)[HISTOGRAM].buckets  # type: ignore[union-attr]


def test_a_series_that_is_new_is_told_whole() -> None:
    """Nobody was told of it before."""
    empty = Snapshot(START, START + S)
    assert cumulative_values(delta_since(snapshot(60, failures=5), empty))[COUNTER] == 5


@pytest.mark.parametrize("failures", [0, 3])
def test_what_is_written_can_be_read_again(failures: int) -> None:
    """The spool sampler what was told last; gauges and exemplars are of their moment only."""
    sent = snapshot(60, failures=failures, restarts=(0.25, 9))
    written = Checkpoint.of(MetricBatch(Origin("a", "h", 1, 1), sent)).to_json()
    read = Checkpoint.from_json(written)
    assert read.base is None
    assert read.sent is not None
    assert cumulative_values(read.sent) == cumulative_values(sent)
    assert read.to_json() == written
    assert all(metric.kind is not Kind.GAUGE for metric in read.sent.metrics)


@pytest.mark.parametrize("data", [{}, [1], [1, 2, [[3]]], "x", 5])
def test_what_is_no_snapshot_is_a_value_error(data: object) -> None:
    """A spool of another version, or a damaged one, costs one warning."""
    with pytest.raises(ValueError):
        Checkpoint.from_json(json.dumps([None, data]))


def test_of_a_dead_process_counters_and_histograms_are_left_to_tell() -> None:
    """A gauge of the dead is a present that is not."""
    last = remaining(snapshot(60, failures=5), None)
    assert last == without_gauges(snapshot(60, failures=5))
    assert remaining(Snapshot(START, START), None) is None


def test_what_was_told_is_not_told_again() -> None:
    """One final send, and none where the last snapshot said it all."""
    assert remaining(snapshot(90, failures=5), snapshot(60, failures=5, size=None)) is None


def test_no_counter_falls_and_no_time_runs_backwards() -> None:
    """A backend takes a fall for a restart of the process, and refuses a point that is older than its newest."""
    told = snapshot(60, failures=5, restarts=(1.0, 2.0))
    last = remaining(snapshot(30, failures=7, restarts=(1.0,)), told)
    assert last is not None
    assert last.time_ns > told.time_ns
    assert cumulative_values(last)[COUNTER] == 7
    assert cumulative_values(last)[HISTOGRAM] == cumulative_values(told)[HISTOGRAM]
