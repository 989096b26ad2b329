"""What is gRPC's own: status codes, details, metadata, compression on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc._cython import cygrpc

from tests.support.collector import Answer, GrpcCollector
from tests.support.relay import Relay
from tests.support.senders import SECOND_NS, sender_to
from tests.support.stored_events import deliveries, delivery
from torchelastic_otel.export.otel.grpc import status_result
from torchelastic_otel.export.result import Disposition


@pytest.fixture
def collector() -> Iterator[GrpcCollector]:
    """A receiver over gRPC."""
    with GrpcCollector() as running:
        yield running


@pytest.mark.parametrize(
    ("code", "details", "disposition"),
    [
        ("CANCELLED", "", Disposition.RETRY),
        ("UNKNOWN", "", Disposition.RETRY),
        ("ABORTED", "", Disposition.RETRY),
        ("OUT_OF_RANGE", "", Disposition.RETRY),
        ("DATA_LOSS", "", Disposition.RETRY),
        ("NOT_FOUND", "", Disposition.BLOCKED),
        ("RESOURCE_EXHAUSTED", "quota", Disposition.RETRY),
        ("INTERNAL", "grpc: error unmarshalling request: string field contains invalid UTF-8", Disposition.REJECTED),
        ("INTERNAL", "Exception deserializing request!", Disposition.REJECTED),
    ],
)
def test_the_other_codes(collector: GrpcCollector, code: str, details: str, disposition: Disposition) -> None:
    """Only a status that speaks of the data refuses it."""
    collector.behaviour = Answer(code=code, details=details)
    with sender_to(collector) as sender:
        assert sender.send(deliveries(1)).disposition is disposition


def test_retry_info_among_the_status_details_is_read() -> None:
    """Go receivers put it into grpc-status-details-bin, not beside it."""
    info = RetryInfo()
    info.retry_delay.FromSeconds(3)
    packed = AnyMessage()
    packed.Pack(info)
    error: Any = SimpleNamespace(
        code=lambda: grpc.StatusCode.UNAVAILABLE,
        details=lambda: None,
        trailing_metadata=lambda: (("grpc-status-details-bin", Status(code=14, details=[packed]).SerializeToString()),),
    )
    assert status_result(error).retry_after_ns == 3 * SECOND_NS


def test_retry_info_that_is_none_is_left_out() -> None:
    """A broken receiver must not break us."""
    error: Any = SimpleNamespace(
        code=lambda: grpc.StatusCode.UNAVAILABLE,
        details=lambda: "x",
        trailing_metadata=lambda: (("google.rpc.retryinfo-bin", b"\xff\xff"),),
    )
    outcome = status_result(error)
    assert (outcome.disposition, outcome.reason, outcome.retry_after_ns) == (
        Disposition.RETRY,
        "gRPC UNAVAILABLE: x",
        None,
    )


def test_headers_that_grpc_does_not_take_hold_the_queue(collector: GrpcCollector) -> None:
    """It answers INTERNAL to itself, at each call; that is no fault of the records."""
    with sender_to(collector, OTEL_EXPORTER_OTLP_LOGS_HEADERS="x-key=a%0Ab") as sender:
        outcome = sender.send([delivery(1)])
    assert outcome.disposition is Disposition.BLOCKED
    assert "metadata" in outcome.reason


def test_a_thread_that_is_refused_in_the_middle_holds_nothing_up(
    collector: GrpcCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter may begin to end between two lines; and gRPC never asks again for a thread it did not get."""

    def refused(target: object) -> NoReturn:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with sender_to(collector) as sender:
        monkeypatch.setattr(cygrpc, "ForkManagedThread", refused)
        first = sender.send([delivery(1)])
        monkeypatch.undo()
        second = sender.send([delivery(2)])
    assert (first.disposition, second.disposition) == (Disposition.DELIVERED, Disposition.DELIVERED)
    assert set(collector.uids()) == {one.uid for one in (delivery(1), delivery(2))}


def test_a_fault_before_the_call_is_an_outcome_and_no_wait(
    collector: GrpcCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no call was begun gRPC would wait for ever for one that ends."""

    def fault(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("an interceptor's")

    with sender_to(collector) as sender:
        monkeypatch.setattr(sender.exporter._client._export, "future", fault)
        outcome = sender.send([delivery(1)])
    assert (outcome.disposition, "RuntimeError" in outcome.reason) == (Disposition.BLOCKED, True)


def test_gzip_is_on_the_wire(collector: GrpcCollector) -> None:
    """The exporter's setting is not the proof; the bytes that pass are."""
    sizes = {}
    for kind in ("none", "gzip"):
        with Relay(collector.port) as relay:
            variables: dict[str, Any] = {
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"http://127.0.0.1:{relay.port}",
                "OTEL_EXPORTER_OTLP_COMPRESSION": kind,
            }
            with sender_to(collector, **variables) as sender:
                assert sender.send([delivery(body="a" * 100_000)]).disposition is Disposition.DELIVERED
            sizes[kind] = relay.to_server
    assert sizes["none"] > 100_000 > 10_000 > sizes["gzip"]
