"""An OTLP receiver in this process: gRPC and HTTP, all signals, on loopback.

Guarantees: it binds free ports of 127.0.0.1 only. What arrives is in ``requests``, and log records are in ``records``,
before the sender gets the response, in the order of arrival. A request that cannot be parsed is rejected (gRPC
INTERNAL, HTTP 400) and not recorded. HTTP is as in the OTLP specification 1.x, "OTLP/HTTP": POST only; protobuf or
JSON, plain, gzip or deflate; the response has the format of the request, and a length, so that the connection can be
reused.

Not guaranteed: what a collector does. Everything stays in memory, and no sender is refused.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from torchelastic_otel.errors import BadRequestError
from torchelastic_otel.export.otel.otlp_json import from_json, to_json_line
from torchelastic_otel.testing.received import ReceivedRecord, ReceivedRequest, attributes_of, record_from

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SIGNALS", "OtlpReceiver", "ReceivedRecord", "ReceivedRequest", "Signal", "items_of"]

logger = logging.getLogger("torchelastic_otel")

_MAX_BODY_BYTES: Final = 64 * 1024 * 1024
_PROTOBUF, _JSON, _TEXT = "application/x-protobuf", "application/json", "text/plain; charset=utf-8"
_PROTOCOLS: Final = {_PROTOBUF: "http/protobuf", _JSON: "http/json"}
# zlib's window argument: with a gzip header, and with a zlib header (HTTP's deflate)
_WINDOWS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True, slots=True)
class Signal:
    """How OTLP transports one signal.

    Attributes:
        path: The path of its HTTP requests.
        service: The name of its gRPC service.
        groups: The fields of a request that lead to its items.
        rejected: The field of a partial success with the number of rejected items.
    """

    path: str
    service: str
    request: Any
    response: Any
    groups: tuple[str, str, str]
    rejected: str


SIGNALS: Final = {
    "logs": Signal(
        "/v1/logs",
        "opentelemetry.proto.collector.logs.v1.LogsService",
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
        ("resource_logs", "scope_logs", "log_records"),
        "rejected_log_records",
    ),
    "traces": Signal(
        "/v1/traces",
        "opentelemetry.proto.collector.trace.v1.TraceService",
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
        ("resource_spans", "scope_spans", "spans"),
        "rejected_spans",
    ),
    "metrics": Signal(
        "/v1/metrics",
        "opentelemetry.proto.collector.metrics.v1.MetricsService",
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
        ("resource_metrics", "scope_metrics", "metrics"),
        "rejected_data_points",
    ),
}


def items_of(request: Any) -> list[tuple[dict[str, Any], Any]]:
    """The log records, spans or metrics of a request, each with the attributes of its resource."""
    resources, scopes, items = next(signal.groups for signal in SIGNALS.values() if isinstance(request, signal.request))
    return [
        (attributes, item)
        for of_resource in getattr(request, resources)
        for attributes in [attributes_of(of_resource.resource.attributes)]
        for of_scope in getattr(of_resource, scopes)
        for item in getattr(of_scope, items)
    ]


class OtlpReceiver:
    """The receiver; a context manager. ``start`` binds, ``stop`` (or the end of ``with``) frees the ports.

    Attributes:
        grpc_endpoint: ``http://127.0.0.1:PORT`` for OTLP/gRPC; empty before ``start``.
        http_endpoint: ``http://127.0.0.1:PORT`` for OTLP/HTTP, without ``/v1/logs``; empty before ``start``.
    """

    def __init__(self, on_record: Callable[[ReceivedRecord], None] | None = None) -> None:
        """Nothing is bound yet.

        Args:
            on_record: Called with each log record, one at a time, on a thread of the receiver, before its sender
                gets the response. Exceptions are logged and do not change the response.
        """
        self._on_record = on_record or (lambda record: None)
        self._changed = threading.Condition(threading.RLock())
        self._requests: list[ReceivedRequest] = []
        self._records: list[ReceivedRecord] = []
        self._grpc_server: Any = None
        self._http_server: _HttpServer | None = None
        self.grpc_endpoint = ""
        self.http_endpoint = ""

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request of any signal so far, in the order of arrival; a copy."""
        with self._changed:
            return list(self._requests)

    @property
    def records(self) -> list[ReceivedRecord]:
        """Every log record so far, in the order of arrival; a copy."""
        with self._changed:
            return list(self._records)

    def wait_until(self, predicate: Callable[[Sequence[ReceivedRecord]], bool], timeout_s: float) -> bool:
        """Wait until the predicate is true for the log records so far; evaluated at the arrival of any signal.

        Returns:
            Whether it was true within ``timeout_s`` seconds.
        """
        with self._changed:
            return self._changed.wait_for(lambda: predicate(self._records), timeout_s)

    def start(self) -> Self:
        """Bind both ports and serve.

        Raises:
            OSError: Nothing can be bound on 127.0.0.1.
        """
        server = grpc.server(
            ThreadPoolExecutor(8, thread_name_prefix="otlp-receiver"),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MAX_BODY_BYTES)],
        )
        server.add_generic_rpc_handlers(tuple(self._grpc_handler(signal) for signal in SIGNALS.values()))
        try:
            port = server.add_insecure_port("127.0.0.1:0")
        except RuntimeError as error:
            raise OSError(f"cannot listen on 127.0.0.1: {error}") from error
        self._http_server = _HttpServer(self._accept)
        server.start()
        self._grpc_server = server
        self.grpc_endpoint = f"http://127.0.0.1:{port}"
        self.http_endpoint = f"http://127.0.0.1:{self._http_server.server_address[1]}"
        return self

    def stop(self) -> None:
        """Free the ports; what arrived stays readable. A second call does nothing."""
        grpc_server, self._grpc_server = self._grpc_server, None
        http_server, self._http_server = self._http_server, None
        if grpc_server is not None:
            grpc_server.stop(grace=None).wait()
        if http_server is not None:
            http_server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _grpc_handler(self, signal: Signal) -> Any:
        method = grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._accept(signal, request, "grpc"),
            request_deserializer=signal.request.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
        return grpc.method_handlers_generic_handler(signal.service, {"Export": method})

    def _accept(self, signal: Signal, request: Any, protocol: str) -> Any:
        """Record a request; the response is complete success."""
        items = items_of(request) if signal is SIGNALS["logs"] else []
        records = [record_from(record, resource, protocol) for resource, record in items]
        with self._changed:
            self._requests.append(ReceivedRequest(protocol, request))
            self._records += records
            for record in records:
                try:
                    self._on_record(record)
                except Exception:
                    logger.exception("on_record failed for %s", record.uid)
            self._changed.notify_all()
        return signal.response()


Accept = Callable[[Signal, Any, str], Any]
"""Receives a signal, a request and its protocol; returns the response."""


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, accept: Accept) -> None:
        super().__init__(("127.0.0.1", 0), _HttpHandler)
        self.accept = accept
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="otlp-receiver-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Free the port; an idle connection is closed by its client."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that disconnects prints no traceback."""


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_POST(self) -> None:
        try:
            content_type, response = self._accepted()
        except BadRequestError as error:
            # an unread body could not be distinguished from the next request on this connection
            self.close_connection = True
            self._respond(error.status, _TEXT, f"{error}\n".encode())
            return
        self._respond(200, content_type, response)

    def do_GET(self) -> None:
        self.close_connection = True
        self._respond(405, _TEXT, b"OTLP/HTTP supports POST only\n", ("Allow", "POST"))

    do_HEAD = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _accepted(self) -> tuple[str, bytes]:
        path = self.path.partition("?")[0]
        signal = next((signal for signal in SIGNALS.values() if signal.path == path), None)
        if signal is None:
            raise BadRequestError(404, f"no such path: {path}; known: {', '.join(s.path for s in SIGNALS.values())}")
        content_type = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_type not in _PROTOCOLS:
            raise BadRequestError(415, f"content type {content_type!r}; known: {', '.join(_PROTOCOLS)}")
        body, request = self._body(), signal.request()
        try:
            if content_type == _JSON:
                from_json(body, request)
            else:
                request.ParseFromString(body)
        except (DecodeError, ValueError) as error:
            raise BadRequestError(400, f"not an OTLP request: {error}") from error
        response = self.server.accept(signal, request, _PROTOCOLS[content_type])
        return content_type, to_json_line(response) if content_type == _JSON else response.SerializeToString()

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise BadRequestError(411, "Content-Length is required")
        if int(length) > _MAX_BODY_BYTES:
            raise BadRequestError(413, f"{length} bytes; at most {_MAX_BODY_BYTES} are accepted")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise BadRequestError(400, f"{len(body)} of {length} bytes arrived")
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding in ("identity", ""):
            return body
        if encoding not in _WINDOWS:
            raise BadRequestError(415, f"content encoding {encoding!r}; known: {', '.join(_WINDOWS)}")
        inflate = zlib.decompressobj(_WINDOWS[encoding])
        try:
            plain = inflate.decompress(body, _MAX_BODY_BYTES)
        except zlib.error as error:
            raise BadRequestError(400, f"not {encoding}: {error}") from error
        if not inflate.eof:
            too_large = bool(inflate.unconsumed_tail)
            raise BadRequestError(
                413 if too_large else 400, f"{encoding} body {'too large' if too_large else 'cut off'}"
            )
        return plain

    def _respond(self, status: int, content_type: str, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
