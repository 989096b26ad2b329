"""The embedded receiver, against OpenTelemetry's own exporters on real sockets."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext

from tests.support.otlp_lines import encode_line
from tests.support.received import Receiver
from torchelastic_otel.testing.otlp_receiver import ReceivedRecord


def a_record(number: int = 1, **attributes: Any) -> ReadableLogRecord:
    """A record with a uid."""
    return ReadableLogRecord(
        log_record=LogRecord(
            timestamp=1_700_000_000_000_000_001,
            observed_timestamp=1_700_000_000_000_000_002,
            context=Context(),
            severity_number=SeverityNumber.WARN,
            body="é",
            event_name="torchelastic.worker.failed",
            attributes={"log.record.uid": f"o-{number}", **attributes},
        ),
        resource=Resource({"host.name": "node-a"}),
    )


@pytest.fixture(autouse=True)
def random_state_as_it_was() -> Iterator[None]:
    """OpenTelemetry's HTTP exporters draw from the global ``random``; here they run bare, and may."""
    state = random.getstate()
    yield
    random.setstate(state)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that runs."""
    with Receiver() as running:
        yield running


def post(
    receiver: Receiver, body: bytes, content: str = "application/json", path: str = "/v1/logs", **headers: str
) -> tuple[int, str, bytes]:
    """POST by hand; status, content type and body of the answer."""
    connection = http.client.HTTPConnection(receiver.http_endpoint.removeprefix("http://"), timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", path, body, {"Content-Type": content, **named})
    answer = connection.getresponse()
    got = answer.status, answer.headers["Content-Type"], answer.read()
    connection.close()
    return got


def exporters(receiver: Receiver) -> list[Any]:
    """OpenTelemetry's exporters, in every compression they have."""
    url = f"{receiver.http_endpoint}/v1/logs"
    return [
        GrpcLogExporter(endpoint=receiver.grpc_endpoint, insecure=True),
        GrpcLogExporter(endpoint=receiver.grpc_endpoint, insecure=True, compression=grpc.Compression.Gzip),
        HttpLogExporter(endpoint=url),
        HttpLogExporter(endpoint=url, compression=Compression.Gzip),
        HttpLogExporter(endpoint=url, compression=Compression.Deflate),
    ]


def test_every_protocol_and_compression_gives_the_same_record(receiver: Receiver) -> None:
    """The demo compares nodes that export differently: the way must not show in the record."""
    attributes = {"i": 2**53 + 1, "f": 0.5, "ok": True, "ids": ("a", "b"), "map": {"k": 1}, "none": None}
    for exporter in exporters(receiver):
        assert exporter.export([a_record(1, **attributes)]) is LogRecordExportResult.SUCCESS
        exporter.shutdown()
    assert [record.protocol for record in receiver.records] == ["grpc"] * 2 + ["http/protobuf"] * 3
    for record in receiver.records:
        assert record == ReceivedRecord(
            uid="o-1",
            event_name="torchelastic.worker.failed",
            time_ns=1_700_000_000_000_000_001,
            severity=13,
            body="é",
            attributes={"log.record.uid": "o-1", **attributes, "ids": ["a", "b"]},
            resource={"host.name": "node-a"},
            protocol=record.protocol,
        )


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("identity", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_json_bodies_are_taken_and_answered_in_json(receiver: Receiver, encoding: str, encode: Any) -> None:
    """OTLP/HTTP answers in the form of the question."""
    status, content, answer = post(receiver, encode(encode_line([a_record()])), Content_Encoding=encoding)
    assert (status, content, json.loads(answer)) == (200, "application/json", {})
    [record] = receiver.records
    assert (record.uid, record.protocol) == ("o-1", "http/json")


def test_a_protobuf_answer_is_an_export_response(receiver: Receiver) -> None:
    """An exporter that reads partial success must find a real response, on each of two signals."""
    status, content, answer = post(receiver, b"", "application/x-protobuf")
    assert (status, content) == (200, "application/x-protobuf")
    assert ExportLogsServiceResponse.FromString(answer).partial_success.rejected_log_records == 0


@pytest.mark.parametrize(
    ("status", "body", "content", "path", "headers"),
    [
        (400, b"\xff\xff", "application/x-protobuf", "/v1/logs", {}),
        (400, b"{oops", "application/json", "/v1/logs", {}),
        (400, b"not gzip", "application/json", "/v1/logs", {"Content_Encoding": "gzip"}),
        (400, gzip.compress(b"{}")[:-4], "application/json", "/v1/logs", {"Content_Encoding": "gzip"}),
        (
            413,
            gzip.compress(b" " * (64 * 1024 * 1024 + 1)),
            "application/json",
            "/v1/logs",
            {"Content_Encoding": "gzip"},
        ),
        (413, b"", "application/json", "/v1/logs", {"Content_Length": str(2**40)}),
        (411, b"", "application/json", "/v1/logs", {"Content_Length": "many"}),
        (415, b"{}", "text/plain", "/v1/logs", {}),
        (415, b"{}", "application/json", "/v1/logs", {"Content_Encoding": "zstd"}),
        (404, b"{}", "application/json", "/v1/other", {}),
    ],
    # Named by hand: gzip puts the time into its bytes, and a test's name must not change.
    ids=["protobuf", "json", "no-gzip", "torn-gzip", "bomb", "too-large", "no-length", "content", "encoding", "path"],
)
def test_a_request_that_is_not_otlp_is_refused_and_leaves_nothing(
    receiver: Receiver, status: int, body: bytes, content: str, path: str, headers: dict[str, str]
) -> None:
    """A sender that is wrong must see it, and the receiver must live on."""
    answer = post(receiver, body, content, path, **headers)
    assert answer[0] == status, answer
    assert receiver.records == []
    assert post(receiver, b"{}")[0] == 200


def test_a_connection_serves_many_requests(receiver: Receiver) -> None:
    """Exporters keep their connection: a wrong length would hang the second request."""
    exporter = HttpLogExporter(endpoint=f"{receiver.http_endpoint}/v1/logs")
    for number in range(1, 6):
        assert exporter.export([a_record(number)]) is LogRecordExportResult.SUCCESS
    exporter.shutdown()
    assert [record.uid for record in receiver.records] == [f"o-{number}" for number in range(1, 6)]


def test_spans_and_metrics_can_be_read(receiver: Receiver) -> None:
    """The three signals share an endpoint: none may be answered with an error, and a test looks at each."""
    context = SpanContext(1, 2, is_remote=False)
    span = ReadableSpan("s", context, parent=SpanContext(1, 3, is_remote=False), start_time=1, end_time=2)
    reader = InMemoryMetricReader()
    MeterProvider([reader]).get_meter("m").create_counter("c").add(1)
    data = reader.get_metrics_data()
    assert data is not None
    for spans in (
        GrpcSpanExporter(endpoint=receiver.grpc_endpoint, insecure=True),
        HttpSpanExporter(endpoint=f"{receiver.http_endpoint}/v1/traces"),
    ):
        assert spans.export([span, span]) is SpanExportResult.SUCCESS
    for metrics in (
        GrpcMetricExporter(endpoint=receiver.grpc_endpoint, insecure=True),
        HttpMetricExporter(endpoint=f"{receiver.http_endpoint}/v1/metrics"),
    ):
        assert metrics.export(data) is MetricExportResult.SUCCESS
    assert receiver.records == []
    assert len(receiver.spans) == 4
    first = receiver.spans[0]
    assert (first.name, first.trace_id, first.span_id, first.parent_id) == ("s", f"{1:032x}", f"{2:016x}", f"{3:016x}")
    assert (first.start_ns, first.end_ns, first.error, first.protocol) == (1, 2, None, "grpc")
    assert [(each.name, each.kind, each.delta, each.points[0].value) for each in receiver.metrics] == [
        ("c", "sum", False, 1)
    ] * 2


def test_on_record_sees_each_record_before_the_sender_is_answered() -> None:
    """When an exporter reports success, the person has seen the line; a fault in showing it changes nothing."""
    seen: list[str] = []

    def show(record: ReceivedRecord) -> None:
        seen.append(record.uid)
        raise RuntimeError("a screen that is gone")

    with Receiver(show) as receiver:
        exporter = GrpcLogExporter(endpoint=receiver.grpc_endpoint, insecure=True)
        assert exporter.export([a_record(1), a_record(2)]) is LogRecordExportResult.SUCCESS
        exporter.shutdown()
    assert seen == ["o-1", "o-2"]


def test_wait_until_ends_with_the_arrival_or_the_time(receiver: Receiver) -> None:
    """Tests wait for events, never for time to pass."""
    assert not receiver.wait_until(lambda records: len(records) == 1, timeout_s=0.01)
    post(receiver, encode_line([a_record()]))
    assert receiver.wait_until(lambda records: len(records) == 1, timeout_s=10)


def test_it_listens_on_loopback_only_and_stops(receiver: Receiver) -> None:
    """A demonstration opens nothing to the network and leaves nothing behind."""
    assert receiver.grpc_endpoint.startswith("http://127.0.0.1:")
    assert receiver.http_endpoint.startswith("http://127.0.0.1:")
    post(receiver, encode_line([a_record()]))
    receiver.stop()
    receiver.stop()
    for endpoint in (receiver.grpc_endpoint, receiver.http_endpoint):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=5)
    assert len(receiver.records) == 1
