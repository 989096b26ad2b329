"""An embedded OTLP receiver: gRPC and HTTP, every signal, on loopback, for the demo and for trying things out.

What always holds: it binds 127.0.0.1 on free ports and nothing else; what arrives is in ``records``, ``spans`` or
``metrics`` before its sender has the answer, in the order of arrival; a request that does not parse is refused (gRPC
INTERNAL, HTTP 400) and nothing of it is kept.

Not promised: that it is a collector. It keeps everything in memory and turns nobody away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from torchelastic_otel.demo.received import (
    Received,
    ReceivedMetric,
    ReceivedSpan,
    attributes_of,
    metric_of,
    record_of,
    span_of,
)
from torchelastic_otel.demo.receiver_http import MAX_BODY_BYTES, HttpFace, Take

__all__ = ["Received", "ReceivedMetric", "ReceivedSpan", "Receiver"]

logger = logging.getLogger("torchelastic_otel")


class Receiver:
    """The receiver; a context manager. ``start`` binds, ``stop`` (or the end of ``with``) frees the ports.

    Attributes:
        grpc_endpoint: ``http://127.0.0.1:PORT`` for OTLP/gRPC; empty before ``start``.
        http_endpoint: ``http://127.0.0.1:PORT`` for OTLP/HTTP, without ``/v1/logs``; empty before ``start``.
    """

    def __init__(self, on_record: Callable[[Received], None] | None = None) -> None:
        """Nothing is bound yet.

        Args:
            on_record: Called with each log record, one at a time, on a thread of the receiver, before its sender
                is answered. What it raises is logged and changes no answer.
        """
        self._on_record = on_record or (lambda record: None)
        self._arrived = threading.Condition(threading.RLock())
        self._records: list[Received] = []
        self._spans: list[ReceivedSpan] = []
        self._metrics: list[ReceivedMetric] = []
        self._grpc: Any = None
        self._http: HttpFace | None = None
        self.grpc_endpoint = ""
        self.http_endpoint = ""

    @property
    def records(self) -> list[Received]:
        """Every log record so far, in the order of arrival; a copy."""
        with self._arrived:
            return list(self._records)

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Every span so far, in the order of arrival; a copy."""
        with self._arrived:
            return list(self._spans)

    @property
    def metrics(self) -> list[ReceivedMetric]:
        """Every metric so far, each once for each request that had it, in the order of arrival; a copy."""
        with self._arrived:
            return list(self._metrics)

    def wait_until(self, predicate: Callable[[Sequence[Received]], bool], timeout_s: float) -> bool:
        """Wait until the predicate holds for the records so far; asked again at each arrival.

        Args:
            predicate: Told all log records; also asked when spans or metrics arrive.
            timeout_s: How long to wait, seconds.

        Returns:
            Whether it came to hold in time.
        """
        with self._arrived:
            return self._arrived.wait_for(lambda: predicate(self._records), timeout_s)

    def start(self) -> Receiver:
        """Bind both ports and serve.

        Raises:
            OSError: Nothing can be bound on 127.0.0.1.
        """
        signals: tuple[tuple[str, str, Callable[[], Any], Take], ...] = (
            ("/v1/logs", "logs.v1.LogsService", ExportLogsServiceRequest, self.take_logs),
            ("/v1/traces", "trace.v1.TraceService", ExportTraceServiceRequest, self.take_traces),
            ("/v1/metrics", "metrics.v1.MetricsService", ExportMetricsServiceRequest, self.take_metrics),
        )
        server = grpc.server(
            ThreadPoolExecutor(8, thread_name_prefix="otlp-receiver"),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_BODY_BYTES)],
        )
        server.add_generic_rpc_handlers(tuple(_service(name, empty, take) for _, name, empty, take in signals))
        try:
            port = server.add_insecure_port("127.0.0.1:0")
        except RuntimeError as error:
            raise OSError(f"cannot listen on 127.0.0.1: {error}") from error
        self._http = HttpFace({path: (empty, take) for path, _, empty, take in signals})
        server.start()
        self._grpc = server
        self.grpc_endpoint = f"http://127.0.0.1:{port}"
        self.http_endpoint = f"http://127.0.0.1:{self._http.port}"
        return self

    def stop(self) -> None:
        """Free the ports; what arrived stays readable. A second call does nothing."""
        server, self._grpc = self._grpc, None
        face, self._http = self._http, None
        if server is not None:
            server.stop(grace=None).wait()
        if face is not None:
            face.stop()

    def __enter__(self) -> Receiver:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def take_logs(self, request: ExportLogsServiceRequest, protocol: str) -> ExportLogsServiceResponse:
        """Keep the records of a request; the answer is complete success."""
        received = [
            record_of(record, resource, protocol)
            for of_resource in request.resource_logs
            for resource in [attributes_of(of_resource.resource.attributes)]
            for of_scope in of_resource.scope_logs
            for record in of_scope.log_records
        ]
        with self._arrived:
            self._records += received
            self._arrived.notify_all()
            for record in received:
                try:
                    self._on_record(record)
                except Exception:
                    logger.exception("on_record failed for %s", record.uid)
        return ExportLogsServiceResponse()

    def take_traces(self, request: ExportTraceServiceRequest, protocol: str) -> ExportTraceServiceResponse:
        """Keep the spans of a request; the answer is complete success."""
        received = [
            span_of(span, resource, protocol)
            for of_resource in request.resource_spans
            for resource in [attributes_of(of_resource.resource.attributes)]
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]
        with self._arrived:
            self._spans += received
            self._arrived.notify_all()
        return ExportTraceServiceResponse()

    def take_metrics(self, request: ExportMetricsServiceRequest, protocol: str) -> ExportMetricsServiceResponse:
        """Keep the metrics of a request; the answer is complete success."""
        received = [
            metric_of(metric, resource, protocol)
            for of_resource in request.resource_metrics
            for resource in [attributes_of(of_resource.resource.attributes)]
            for of_scope in of_resource.scope_metrics
            for metric in of_scope.metrics
        ]
        with self._arrived:
            self._metrics += received
            self._arrived.notify_all()
        return ExportMetricsServiceResponse()


def _service(name: str, empty: Callable[[], Any], take: Take) -> Any:
    # The three OTLP services differ in their messages only; one method each, of the same name.
    method = grpc.unary_unary_rpc_method_handler(
        lambda request, context: take(request, "grpc"),
        request_deserializer=lambda data: _parsed(empty(), data),
        response_serializer=lambda answer: answer.SerializeToString(),
    )
    return grpc.method_handlers_generic_handler(f"opentelemetry.proto.collector.{name}", {"Export": method})


def _parsed(message: Any, data: bytes) -> Any:
    message.ParseFromString(data)
    return message
