"""What must hold for spans and metrics as for logs, over HTTP and over gRPC alike, against real receivers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.collector import (
    BAD_REQUEST,
    FORBIDDEN,
    NOT_FOUND,
    OK,
    UNAVAILABLE,
    Answer,
    Collector,
    GrpcCollector,
    HttpCollector,
    items_of,
)
from tests.support.metric_snapshots import snapshot
from tests.support.senders import sender_by
from tests.support.spans import span_delivery
from tests.support.stored_events import ORIGIN, deliveries
from torchelastic_otel.export.metric_delta import MetricBatch
from torchelastic_otel.export.otel.grpc import GrpcSender
from torchelastic_otel.export.otel.http import HttpSender
from torchelastic_otel.export.result import Disposition
from torchelastic_otel.model.signals import Signal

BATCHES: dict[Signal, Any] = {
    Signal.LOGS: deliveries(2),
    Signal.TRACES: [span_delivery(1), span_delivery(2)],
    Signal.METRICS: MetricBatch(ORIGIN, snapshot(60, failures=1)),
}


@pytest.fixture(params=[HttpCollector, GrpcCollector], ids=["http", "grpc"])
def collector(request: pytest.FixtureRequest) -> Iterator[Collector]:
    """A receiver over each protocol."""
    with request.param() as running:
        yield running


@pytest.fixture(params=list(Signal), ids=lambda signal: signal.value)
def signal(request: pytest.FixtureRequest) -> Signal:
    """Each signal."""
    return Signal(request.param)


def to(collector: Collector, signal: Signal, **more: str) -> Any:
    """The sender that ``otlp`` means for this collector and signal."""
    return sender_by({**collector.env(signal.value), **more}, signal=signal)


def test_a_batch_arrives_by_the_observed_exporter(collector: Collector, signal: Signal) -> None:
    """`otlp` of each signal, by its own variables, at its own path."""
    with to(collector, signal) as sender:
        assert type(sender) is (GrpcSender if collector.protocol == "grpc" else HttpSender)
        outcome = sender.send(BATCHES[signal])
    assert (outcome.disposition, outcome.rejected_count) == (Disposition.DELIVERED, 0)
    taken: dict[str, list[Any]] = {
        "logs": collector.records(),
        "traces": collector.spans(),
        "metrics": collector.metrics(),
    }
    assert [len(items) > 0 for name, items in taken.items() if name == signal.value] == [True]
    assert [items for name, items in taken.items() if name != signal.value] == [[], []]
    if collector.protocol != "grpc":
        assert collector.paths == [f"/v1/{signal.value}"]


def test_what_a_receiver_did_not_take_is_counted(collector: Collector, signal: Signal) -> None:
    """`export()` calls a partial success SUCCESS, whatever its signal."""
    collector.behaviour = Answer(rejected=1, message="one\nis old")
    with to(collector, signal) as sender:
        outcome = sender.send(BATCHES[signal])
    assert (outcome.disposition, outcome.rejected_count) == (Disposition.DELIVERED, 1)
    assert outcome.reason.endswith("1 rejected: one is old")


@pytest.mark.parametrize(
    ("answer", "disposition"),
    [(BAD_REQUEST, Disposition.REJECTED), (FORBIDDEN, Disposition.BLOCKED), (UNAVAILABLE, Disposition.RETRY)],
    ids=["bad", "forbidden", "unavailable"],
)
def test_an_answer_means_the_same_for_every_signal(
    collector: Collector, signal: Signal, answer: Answer, disposition: Disposition
) -> None:
    """One request for each attempt, no retry, nothing drawn from the global random module (promise 7)."""
    collector.behaviour = answer
    before = random.getstate()
    with to(collector, signal) as sender:
        assert sender.send(BATCHES[signal]).disposition is disposition
    assert collector.requests == 1
    assert random.getstate() == before


def test_a_404_names_the_variable_of_the_signal(signal: Signal) -> None:
    """Who set the endpoint of traces must not be sent to that of logs."""
    with HttpCollector() as collector:
        collector.behaviour = NOT_FOUND
        with to(collector, signal) as sender:
            outcome = sender.send(BATCHES[signal])
    assert outcome.disposition is Disposition.BLOCKED
    assert f"OTEL_EXPORTER_OTLP_{signal.name}_ENDPOINT is used unchanged, with its path (/v1/{signal.value})" in (
        outcome.reason
    )


def test_a_receiver_can_be_asked_with_nothing(collector: Collector, signal: Signal) -> None:
    """`doctor`: an empty export, and what comes back."""
    with to(collector, signal) as sender:
        assert sender.probe().disposition is Disposition.DELIVERED
        collector.behaviour = FORBIDDEN
        assert sender.probe().disposition is Disposition.BLOCKED
    assert [items_of(request) for request in collector.received()] == [[], []]


def test_settings_of_the_signal_go_before_the_general_ones(collector: Collector, signal: Signal) -> None:
    """Headers, compression and timeouts are there for each signal; a timeout that exporters raise on is repaired."""
    variables = {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=general",
        f"OTEL_EXPORTER_OTLP_{signal.name}_HEADERS": "x-key=own",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        f"OTEL_EXPORTER_OTLP_{signal.name}_COMPRESSION": "gzip",
        f"OTEL_EXPORTER_OTLP_{signal.name}_TIMEOUT": "10s",
    }
    said: list[str] = []
    with sender_by({**collector.env(signal.value), **variables}, signal=signal, warnings=said) as sender:
        assert sender.send(BATCHES[signal]).disposition is Disposition.DELIVERED
    assert collector.headers[0]["x-key"] == "own"
    if collector.protocol != "grpc":
        assert collector.headers[0]["content-encoding"] == "gzip"
    assert [f"OTEL_EXPORTER_OTLP_{signal.name}_TIMEOUT" in text for text in said] == [True]


def test_a_lone_surrogate_is_refused_whatever_the_signal(collector: Collector, signal: Signal) -> None:
    """Over HTTP the exporter calls it a FAILURE like any other: it would be tried for ever."""
    from dataclasses import replace

    from tests.support.spans import span
    from tests.support.stored_events import delivery

    counter, *others = snapshot(1).metrics
    bad: dict[Signal, Any] = {
        Signal.LOGS: [delivery(body="\ud800")],
        Signal.TRACES: [span_delivery(of=span("\ud800"))],
        Signal.METRICS: MetricBatch(ORIGIN, replace(snapshot(1), metrics=(replace(counter, unit="\ud800"), *others))),
    }
    with to(collector, signal) as sender:
        assert sender.send(bad[signal]).disposition is Disposition.REJECTED
        assert sender.send(BATCHES[signal]).disposition is Disposition.DELIVERED


def test_a_redirect_of_spans_is_not_followed() -> None:
    """The exporter calls 302 a SUCCESS."""
    with HttpCollector() as collector:
        collector.behaviour = OK.but(status=302, headers={"Location": "http://127.0.0.1:9/"})
        with to(collector, Signal.TRACES) as sender:
            assert sender.send(BATCHES[Signal.TRACES]).disposition is Disposition.BLOCKED
