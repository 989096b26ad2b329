"""OTLP said by hand: records, spans and points that a test makes up, sent by gRPC to an endpoint.

Items are as small as possible and distinguishable; a rejection is raised (``grpc.RpcError``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

TIMEOUT_S = 20.0


def pairs(attributes: Mapping[str, str | int]) -> list[KeyValue]:
    """As OTLP has attributes."""
    return [
        KeyValue(key=key, value=AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value))
        for key, value in attributes.items()
    ]


def record(uid: str, event_name: str = "", **attributes: str) -> LogRecord:
    """A log record."""
    now = time.time_ns()
    return LogRecord(
        time_unix_nano=now, observed_time_unix_nano=now, event_name=event_name,
        attributes=pairs({"log.record.uid": uid, **attributes}),
    )  # fmt: skip


def span(trace: int, number: int, name: str = "a", *, error: bool = False, s: float = 0.1, **attributes: int) -> Span:
    """A span that lasted ``s`` seconds; keyword ``round`` is the rendezvous' round."""
    now = time.time_ns()
    known = {"torchelastic.rendezvous.round" if key == "round" else key: value for key, value in attributes.items()}
    return Span(
        trace_id=trace_id(trace), span_id=(trace * 100_000 + number).to_bytes(8, "big"), name=name,
        start_time_unix_nano=now - int(s * 1e9), end_time_unix_nano=now, attributes=pairs(known),
        status=Status(code=Status.STATUS_CODE_ERROR if error else Status.STATUS_CODE_UNSET),
    )  # fmt: skip


def trace_id(trace: int) -> bytes:
    """Sixteen bytes that tell traces apart, as evenly spread as real ones."""
    return (trace * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128)).to_bytes(16, "big")


def point(name: str, value: float) -> Metric:
    """A gauge with one point."""
    return Metric(name=name, gauge=Gauge(data_points=[NumberDataPoint(time_unix_nano=time.time_ns(), as_double=value)]))


def send_logs(endpoint: str, records: Iterable[str | LogRecord], resource: Mapping[str, str] | None = None) -> None:
    """One request of records, or of their ids."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.extend(pairs(resource or {}))
    group.scope_logs.add().log_records.extend(record(each) if isinstance(each, str) else each for each in records)
    _send(endpoint, LogsServiceStub, request)


def send_spans(endpoint: str, spans: Iterable[Span], resource: Mapping[str, str] | None = None) -> None:
    """One request of spans."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.extend(pairs(resource or {}))
    group.scope_spans.add().spans.extend(spans)
    _send(endpoint, TraceServiceStub, request)


def send_metrics(endpoint: str, metrics: Iterable[Metric], resource: Mapping[str, str] | None = None) -> None:
    """One request of metrics."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.extend(pairs(resource or {}))
    group.scope_metrics.add().metrics.extend(metrics)
    _send(endpoint, MetricsServiceStub, request)


def _send(endpoint: str, stub: Any, request: Any) -> None:
    with grpc.insecure_channel(endpoint.removeprefix("http://")) as channel:
        stub(channel).Export(request, timeout=TIMEOUT_S)
