"""The last numbers of a dead process, out of the tally in its spool."""

from __future__ import annotations

import pytest

from torchelastic_otel import semconv
from torchelastic_otel.export.metric_checkpoints import final_snapshots
from torchelastic_otel.export.metric_delta import cumulative_values
from torchelastic_otel.model.event import ElasticEvent, Severity
from torchelastic_otel.model.metric import Kind
from torchelastic_otel.processing.metrics import MetricState, update
from torchelastic_otel.processing.metrics.snapshot import acknowledge, snapshot

NOW = 1_700_000_100_000_000_000


def counted() -> MetricState:
    """The tally of an agent that knows its run and has beaten once."""
    tally = MetricState(1_700_000_000_000_000_000)
    for name in (semconv.RUN_IDENTIFIED, semconv.RENDEZVOUS_KEEP_ALIVE_SENT):
        attributes = {semconv.RUN_ID: "run-1", semconv.NODE_ID: "n"}
        tally = update(tally, ElasticEvent(name, "null", "", 1, 2, 3, Severity.DEBUG, attributes))
    return tally


def test_what_was_never_told_begins_with_zero_and_then_is_what_it_came_to() -> None:
    """An agent that died before its first snapshot: `increase()` of a first sample is 0."""
    zeros, values = final_snapshots(counted().to_json(), lambda: NOW)
    assert set(cumulative_values(zeros).values()) >= {0}
    assert not any(value for value in cumulative_values(zeros).values() if isinstance(value, (int, float)))
    assert 1 in cumulative_values(values).values()
    assert zeros.time_ns < values.time_ns
    assert all(metric.kind is not Kind.GAUGE for taken in (zeros, values) for metric in taken.metrics)


def test_what_had_begun_is_told_at_once() -> None:
    """One last snapshot, at the time of the telling."""
    taken, tally = snapshot(counted(), now_wall_ns=NOW, now_monotonic_ns=4)
    [last] = final_snapshots(acknowledge(tally, taken).to_json(), lambda: NOW + 1_000_000_000)
    assert 1 in cumulative_values(last).values()
    assert last.time_ns == NOW + 1_000_000_000


def test_a_process_that_never_joined_a_run_has_no_numbers() -> None:
    """There is no series without a run."""
    assert final_snapshots(MetricState(1).to_json(), lambda: NOW) == []


def test_what_is_no_tally_is_a_value_error() -> None:
    """A spool of another version."""
    with pytest.raises(ValueError):
        final_snapshots("{}")
