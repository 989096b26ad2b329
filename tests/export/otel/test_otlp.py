"""What must hold over HTTP and over gRPC alike, against real sockets that misbehave."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.collector import (
    BAD_REQUEST,
    FORBIDDEN,
    HANG,
    NOT_FOUND,
    OK,
    THROTTLED,
    TOO_LARGE,
    UNAUTHORIZED,
    UNAVAILABLE,
    Answer,
    Collector,
    GrpcCollector,
    HttpCollector,
    attributes_of,
    make_certificate,
    refusing_port,
)
from tests.support.senders import SECOND_NS, sender_by, sender_to, user_draws
from tests.support.stored_events import ORIGIN, deliveries, delivery
from torchelastic_otel.export.result import Disposition


@pytest.fixture(params=[HttpCollector, GrpcCollector], ids=["http", "grpc"])
def collector(request: pytest.FixtureRequest) -> Iterator[Collector]:
    """A receiver of each protocol."""
    with request.param() as running:
        yield running


def test_an_accepted_batch_is_delivered_with_its_own_uids_in_order(collector: Collector) -> None:
    """Promise 4: what is acknowledged is at the receiver, in order, by uid."""
    with sender_to(collector) as sender:
        outcome = sender.send(deliveries(3))
    assert (outcome.disposition, outcome.rejected_count) == (Disposition.DELIVERED, 0)
    assert collector.uids() == [f"{ORIGIN.id}-{number}" for number in (1, 2, 3)]


def test_a_record_arrives_with_every_field(collector: Collector) -> None:
    """The record on the wire is the event: times, severity, name, body, scope, resource."""
    with sender_to(collector) as sender:
        sender.send([delivery()])
    [(resource, record)] = collector.records()
    scope = collector.received()[0].resource_logs[0].scope_logs[0]
    assert record.time_unix_nano == 1_700_000_000_000_000_001
    assert record.observed_time_unix_nano == 1_700_000_000_000_000_002
    assert (record.severity_number, record.severity_text) == (13, "WARN")
    assert record.event_name == "torchelastic.rendezvous.joined"
    assert record.body.string_value == "The node 'a' has joined round 0."
    assert attributes_of(record.attributes) == {"torchelastic.run.id": "r", "log.record.uid": f"{ORIGIN.id}-1"}
    assert (resource["host.name"], resource["process.pid"]) == ("node-a", 41)
    assert scope.scope.name == "torchelastic_otel"
    assert scope.schema_url.startswith("https://opentelemetry.io/schemas/")


def test_a_partial_success_is_delivered_and_says_how_many_were_rejected(collector: Collector) -> None:
    """The exporters call it SUCCESS and ignore it: a loss that nobody would count."""
    collector.behaviour = Answer(rejected=2, message="too old")
    with sender_to(collector) as sender:
        outcome = sender.send(deliveries(3))
    assert (outcome.disposition, outcome.rejected_count) == (Disposition.DELIVERED, 2)
    assert "too old" in outcome.reason


def test_a_partial_success_without_rejections_is_a_warning_only(collector: Collector) -> None:
    """OTLP uses it for advice; nothing was lost."""
    collector.behaviour = Answer(message="use v2")
    with sender_to(collector) as sender:
        outcome = sender.send(deliveries(1))
    assert (outcome.disposition, outcome.rejected_count) == (Disposition.DELIVERED, 0)
    assert "use v2" in outcome.reason


@pytest.mark.parametrize(
    ("answer", "disposition"),
    [
        (BAD_REQUEST, Disposition.REJECTED),
        (TOO_LARGE, Disposition.REJECTED),
        (UNAUTHORIZED, Disposition.BLOCKED),
        (FORBIDDEN, Disposition.BLOCKED),
        (NOT_FOUND, Disposition.BLOCKED),
        (THROTTLED, Disposition.RETRY),
        (UNAVAILABLE, Disposition.RETRY),
        (Answer(500, "INTERNAL", "oops"), Disposition.RETRY),
        (Answer(408, "DEADLINE_EXCEEDED"), Disposition.RETRY),
    ],
    ids=lambda value: f"{value.status}-{value.code}" if isinstance(value, Answer) else value.name,
)
def test_each_refusal_has_its_verdict_after_exactly_one_request(
    collector: Collector, answer: Answer, disposition: Disposition
) -> None:
    """The exporters' own FAILURE is the same for all of these; and no retry of theirs may happen."""
    collector.behaviour = answer
    with sender_to(collector) as sender:
        outcome = sender.send(deliveries(2))
        assert outcome.disposition is disposition
        assert (str(answer.status) if collector.protocol != "grpc" else answer.code) in outcome.reason
        assert (collector.requests, collector.uids()) == (1, [])
        collector.behaviour = OK
        assert sender.send(deliveries(2)).disposition is Disposition.DELIVERED


@pytest.mark.parametrize("answer", [THROTTLED, UNAVAILABLE], ids=["throttled", "unavailable"])
def test_the_wait_that_the_receiver_asks_for_is_known(collector: Collector, answer: Answer) -> None:
    """Retry-After and RetryInfo: the pipeline waits as long as it was asked to."""
    collector.behaviour = answer.but(retry_after_s=7)
    with sender_to(collector) as sender:
        assert sender.send(deliveries(1)).retry_after_ns == 7 * SECOND_NS
        collector.behaviour = answer
        assert sender.send(deliveries(1)).retry_after_ns is None


def test_a_receiver_that_never_answers_ends_with_the_attempt_timeout(collector: Collector) -> None:
    """`export()` is not bounded in time by itself; ours is."""
    collector.behaviour = HANG
    with sender_to(collector, timeout_s=3) as sender:
        assert sender.send(deliveries(1)).disposition is Disposition.RETRY
        collector.behaviour = OK
        assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED


def test_abort_ends_a_send_that_hangs_and_spoils_no_later_one(collector: Collector) -> None:
    """Promise 5: exit is not held up by a hung collector; the sender stays usable."""
    collector.behaviour = HANG
    outcomes: list[Any] = []
    with sender_to(collector, timeout_s=60) as sender:
        thread = threading.Thread(target=lambda: outcomes.append(sender.send(deliveries(1))), daemon=True)
        thread.start()
        assert collector.wait_for_requests(1)
        sender.cancel()
        thread.join(10)
        assert not thread.is_alive()
        assert (outcomes[0].disposition, outcomes[0].reason) == (Disposition.RETRY, "cancelled")
        collector.behaviour = OK
        sender.cancel()
        assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED


def test_a_refused_connection_is_tried_again(collector: Collector) -> None:
    """A collector that is down: nothing is lost, nothing raises."""
    collector.stop()
    with sender_to(collector) as sender:
        outcome = sender.send(deliveries(1))
    assert outcome.disposition is Disposition.RETRY
    assert "refused" in outcome.reason.lower()


def test_a_collector_that_was_restarted_on_its_port_is_reached_again(collector: Collector) -> None:
    """Stale pooled connections and gRPC's own backoff must not keep us away."""
    with sender_to(collector) as sender:
        assert sender.send([delivery(1)]).disposition is Disposition.DELIVERED
        collector.stop()
        assert sender.send([delivery(2)]).disposition is Disposition.RETRY
        collector.start()
        deadline = time.monotonic() + 20
        while sender.send([delivery(2)]).disposition is not Disposition.DELIVERED:
            assert time.monotonic() < deadline, "not reached again"
            time.sleep(0.05)
    assert collector.wait_for(2)


def test_a_lone_surrogate_refuses_its_batch_and_leaves_others_alone(collector: Collector) -> None:
    """Capture cleans; should one come through, the pipeline must be able to find it by splitting."""
    with sender_to(collector) as sender:
        assert sender.send([delivery(1), delivery(2, body="\ud800")]).disposition is Disposition.REJECTED
        assert sender.send([delivery(2, body="\ud800")]).disposition is Disposition.REJECTED
        assert sender.send([delivery(1)]).disposition is Disposition.DELIVERED
    assert collector.requests == 1


def test_the_global_random_module_is_not_drawn_from(collector: Collector) -> None:
    """Promise 7: a training script's seed stays what it was, over success and failure."""
    with sender_to(collector, timeout_s=1) as sender:
        before = random.getstate()
        for answer in (OK, UNAVAILABLE, THROTTLED, BAD_REQUEST, Answer(rejected=1)):
            collector.behaviour = answer
            sender.send(deliveries(1))
        collector.stop()
        sender.send(deliveries(1))
        assert random.getstate() == before


def test_no_log_line_of_the_exporters_appears(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """They would speak of failed and dropped batches that are neither."""
    with sender_to(collector) as sender:
        for answer in (OK, UNAVAILABLE, BAD_REQUEST, UNAUTHORIZED):
            collector.behaviour = answer
            sender.send(deliveries(1))
    assert [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")] == []


def test_instrumentation_of_requests_and_grpc_makes_no_span_of_ours(collector: Collector) -> None:
    """Each export would be a trace of its own in the user's backend; and an ambient span must not get in."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    instrumentors = (RequestsInstrumentor(), GrpcInstrumentorClient())
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=provider)
    try:
        with user_draws(), provider.get_tracer("test").start_as_current_span("ambient"), sender_to(collector) as sender:
            assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED
            collector.behaviour = UNAVAILABLE
            assert sender.send(deliveries(1)).disposition is Disposition.RETRY
            assert trace.get_current_span().is_recording(), "the caller's own context is as it was"
    finally:
        for instrumentor in instrumentors:
            instrumentor.uninstrument()
    assert [span.name for span in spans.get_finished_spans()] == ["ambient"]
    [(_, record)] = collector.records()
    assert (record.trace_id, record.span_id, record.flags) == (b"", b"", 0)
    assert "traceparent" not in collector.headers[0]


@pytest.mark.parametrize("value", ["none", "gzip", "deflate"])
def test_compression_of_the_specification_is_taken(collector: Collector, value: str) -> None:
    """The gRPC exporter raises on `none`, which the specification defines."""
    with sender_to(collector, OTEL_EXPORTER_OTLP_COMPRESSION=value) as sender:
        assert sender.send([delivery(body="a" * 10_000)]).disposition is Disposition.DELIVERED
    if collector.protocol != "grpc":
        assert collector.headers[0].get("content-encoding") == (None if value == "none" else value)
        assert (collector.sizes[0] < 1_000) == (value != "none")


def test_headers_of_the_signal_reach_the_wire_and_win(collector: Collector) -> None:
    """OTEL_EXPORTER_OTLP_LOGS_HEADERS goes before OTEL_EXPORTER_OTLP_HEADERS."""
    headers: dict[str, Any] = {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=general",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "x-key=for%20logs",
    }
    with sender_to(collector, **headers) as sender:
        sender.send(deliveries(1))
    assert collector.headers[0]["x-key"] == "for logs"


def test_the_endpoint_of_the_signal_goes_before_the_general_one(collector: Collector) -> None:
    """Logs must not go where only traces were meant to."""
    with sender_to(collector, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{refusing_port()}") as sender:
        assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED


def test_the_general_endpoint_is_taken_where_there_is_no_other(collector: Collector) -> None:
    """Over HTTP the signal's path is appended to it."""
    base = collector.endpoint.removesuffix("/v1/logs")
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": base, "OTEL_EXPORTER_OTLP_PROTOCOL": collector.protocol}
    with sender_by(variables) as sender:
        assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED


@pytest.mark.parametrize("kind", [HttpCollector, GrpcCollector], ids=["http", "grpc"])
def test_tls_with_a_certificate_of_ones_own(
    kind: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_EXPORTER_OTLP_CERTIFICATE is trusted, also where REQUESTS_CA_BUNDLE would go before it."""
    certificate = make_certificate(tmp_path_factory.mktemp("tls"))
    other, _ = make_certificate(tmp_path_factory.mktemp("other"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    with kind(certificate=certificate) as collector:
        with sender_to(collector) as sender:
            assert sender.send(deliveries(1)).disposition is Disposition.DELIVERED
        with sender_to(collector, OTEL_EXPORTER_OTLP_CERTIFICATE=str(other)) as sender:
            outcome = sender.send(deliveries(1))
    assert outcome.disposition in (Disposition.BLOCKED, Disposition.RETRY)
    assert len(collector.uids()) == 1


def test_a_batch_beyond_what_a_collector_takes_is_refused_not_retried_for_ever(collector: Collector) -> None:
    """5 MB in one batch: gRPC's own receiver refuses above 4 MiB, and the exporter takes that for transient."""
    if collector.protocol != "grpc":
        collector.behaviour = TOO_LARGE
    with sender_to(collector) as sender:
        outcome = sender.send([delivery(body="x" * 5_000_000)])
    assert outcome.disposition is Disposition.REJECTED


def test_grpc_does_not_wait_two_minutes_between_connects() -> None:
    """Beside our own backoff, gRPC's would keep a collector that is back waiting; its state is not to be seen."""
    with GrpcCollector() as collector, sender_to(collector) as sender:
        assert ("grpc.max_reconnect_backoff_ms", 3000) in sender.exporter._channel_options
