"""OTLP receivers of all signals for tests, on real loopback sockets, that misbehave on demand.

:class:`torchelastic_otel.testing.otlp_receiver.OtlpReceiver` is for tests that need no misbehaviour.

Guarantees, over HTTP and over gRPC alike:

- A request is parsed first, then judged by ``behaviour``; only what was answered as taken is in ``records()``,
  ``spans()`` or ``metrics()``.
- ``stop()`` cuts every live connection, as a collector that dies does; ``start(port)`` brings it back on that port,
  with what it had recorded.
- Nothing here sleeps: hanging answers wait for ``stop()`` or for the client to leave.

Use::

    with HttpCollector() as collector:
        collector.behaviour = UNAVAILABLE                       # every request, or
        collector.behaviour = lambda request: OK                # judged one by one
        ...
        assert collector.wait_for(3)
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.ports import free_port
from torchelastic_otel.testing.otlp_receiver import SIGNALS, items_of
from torchelastic_otel.testing.received import attributes_of

LONGEST_S = 60.0
"""Until then a test waits for what it says will come; none takes it where it does."""


@dataclass(frozen=True)
class Answer:
    """How one request is answered; each protocol reads its own face of it.

    Attributes:
        status: HTTP status.
        code: Name of the gRPC status code.
        details: gRPC status message.
        headers: HTTP response headers.
        body: HTTP response body; ``None`` is the response message of the signal.
        rejected: Items of the request said to be rejected (partial success); the first ones. For metrics, data points,
            of which nothing is left out.
        message: Text of the partial success.
        retry_after_s: ``Retry-After`` in seconds over HTTP, ``RetryInfo`` over gRPC.
        hang: Read the request and never answer.
        drip: Send one header byte now and then, for ever (HTTP only).
        reset: Cut the connection instead of answering (HTTP only).
        keep: Record what came although the answer is no (a lost answer); ``None``: as the answer says.
    """

    status: int = 200
    code: str = "OK"
    details: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    rejected: int = 0
    message: str = ""
    retry_after_s: float | None = None
    hang: bool = False
    drip: bool = False
    reset: bool = False
    keep: bool | None = None

    def but(self, **changes: Any) -> Answer:
        """This answer with some of it changed."""
        return replace(self, **changes)


OK = Answer()
HANG = Answer(hang=True, keep=False)
DRIP = Answer(drip=True, keep=False)
RESET = Answer(reset=True, keep=False)
BAD_REQUEST = Answer(400, "INVALID_ARGUMENT", "bad data")
UNAUTHORIZED = Answer(401, "UNAUTHENTICATED", "who are you")
FORBIDDEN = Answer(403, "PERMISSION_DENIED", "not you")
NOT_FOUND = Answer(404, "UNIMPLEMENTED", "nothing here")
TOO_LARGE = Answer(413, "RESOURCE_EXHAUSTED", "grpc: received message larger than max (5000000 vs. 4194304)")
THROTTLED = Answer(429, "RESOURCE_EXHAUSTED", "slow down")
UNAVAILABLE = Answer(503, "UNAVAILABLE", "not now")
REDIRECT = Answer(302, "UNKNOWN", headers={"Location": "http://127.0.0.1:9/v1/logs"})

Behaviour = Answer | Callable[[Any], Answer]
Request = Any
"""An OTLP export request of any signal."""


def signal_of(request: Any) -> str:
    """The signal of a request."""
    return next(name for name, signal in SIGNALS.items() if isinstance(request, signal.request))


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for loopback and its key, made by the openssl command."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return certificate, key


class Collector:
    """What both receivers share: what came, how to wait for it, how to answer.

    Attributes:
        behaviour: An :class:`Answer` for every request, or a function from the parsed request to one.
        port: The port it listens on; kept over ``stop()`` and ``start()``.
        headers: Headers (metadata) of each request, lower-case names.
        paths: Path of each HTTP request; empty over gRPC.
        sizes: Bytes of each request as it was on the wire (HTTP) or once decompressed (gRPC).
    """

    protocol = ""

    def __init__(self, *, certificate: tuple[Path, Path] | None = None) -> None:
        self.behaviour: Behaviour = OK
        self.certificate = certificate
        self.port = 0
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.sizes: list[int] = []
        self._changed = threading.Condition()
        self._taken: dict[str, list[tuple[dict[str, Any], Any]]] = {signal: [] for signal in SIGNALS}
        self._requests: list[Request] = []
        self._stopping = threading.Event()

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, port: int | None = None) -> None:
        """Listen, on ``port``, else on the port it had, else on any."""
        raise NotImplementedError

    def stop(self) -> None:
        """Cut all connections and stop listening; what was recorded stays."""
        raise NotImplementedError

    @property
    def endpoint(self) -> str:
        """The URL to give to an exporter for the logs signal."""
        raise NotImplementedError

    def endpoint_of(self, signal: str) -> str:
        """The URL to give to an exporter for a signal."""
        raise NotImplementedError

    def env(self, *signals: str) -> dict[str, str]:
        """The environment variables that make OTLP exporters send these signals here; only logs by default."""
        variables = {}
        for signal in signals or ("logs",):
            variables[f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"] = self.endpoint_of(signal)
            variables[f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"] = self.protocol
        if self.certificate is not None:
            variables["OTEL_EXPORTER_OTLP_CERTIFICATE"] = str(self.certificate[0])
        return variables

    @property
    def requests(self) -> int:
        """How many export requests came, taken or not."""
        with self._changed:
            return len(self._requests)

    def received(self) -> list[Any]:
        """Every request that came, taken or not."""
        with self._changed:
            return list(self._requests)

    def records(self) -> list[tuple[dict[str, Any], LogRecord]]:
        """The log records taken, in order of arrival, each with the attributes of its resource."""
        with self._changed:
            return list(self._taken["logs"])

    def spans(self) -> list[tuple[dict[str, Any], Span]]:
        """The spans taken, likewise."""
        with self._changed:
            return list(self._taken["traces"])

    def metrics(self) -> list[tuple[dict[str, Any], Metric]]:
        """The metrics taken, likewise; one that came in two snapshots is there twice."""
        with self._changed:
            return list(self._taken["metrics"])

    def uids(self) -> list[str]:
        """``log.record.uid`` of each record taken, in order of arrival, with what came twice twice."""
        return [str(attributes_of(record.attributes).get("log.record.uid")) for _, record in self.records()]

    def wait_for(self, n_records: int, timeout: float = LONGEST_S) -> bool:
        """Wait until so many different records (by uid) were taken; False when the time is over."""
        return self.wait_until(lambda: len(set(self.uids())) >= n_records, timeout)

    def wait_for_requests(self, count: int, timeout: float = LONGEST_S) -> bool:
        """Wait until so many requests came, taken or not; False when the time is over."""
        return self.wait_until(lambda: self.requests >= count, timeout)

    def wait_until(self, holds: Callable[[], bool], timeout: float = LONGEST_S) -> bool:
        """Wait until something about what came holds; looked at whenever a request comes."""
        with self._changed:
            return self._changed.wait_for(holds, timeout)

    def _judge(self, request: Any, headers: dict[str, str], path: str, size: int) -> Answer:
        behaviour = self.behaviour
        answer: Answer = behaviour(request) if callable(behaviour) else behaviour
        taken = answer.keep
        if taken is None:
            taken = 200 <= answer.status < 300 if self.protocol.startswith("http") else answer.code == "OK"
        signal = signal_of(request)
        with self._changed:
            self._requests.append(request)
            self.headers.append(headers)
            self.paths.append(path)
            self.sizes.append(size)
            if taken:
                self._taken[signal] += items_of(request)[0 if signal == "metrics" else answer.rejected :]
            self._changed.notify_all()
        return answer

    @staticmethod
    def _response(answer: Answer, request: Any) -> Any:
        signal = SIGNALS[signal_of(request)]
        response = signal.response()
        if answer.rejected or answer.message:
            setattr(response.partial_success, signal.rejected, answer.rejected)
            response.partial_success.error_message = answer.message
        return response


class HttpCollector(Collector):
    """OTLP over HTTP with protobuf bodies; ``path`` is that of logs, and any other than those of signals is a 404."""

    protocol = "http/protobuf"

    def __init__(self, *, certificate: tuple[Path, Path] | None = None, path: str = "/v1/logs") -> None:
        super().__init__(certificate=certificate)
        self._paths = {name: signal.path for name, signal in SIGNALS.items()} | {"logs": path}
        self._server: ThreadingHTTPServer | None = None
        self._sockets: set[socket.socket] = set()

    @property
    def endpoint(self) -> str:
        """See :class:`Collector`."""
        return self.endpoint_of("logs")

    def endpoint_of(self, signal: str) -> str:
        """See :class:`Collector`."""
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://127.0.0.1:{self.port}{self._paths[signal]}"

    def start(self, port: int | None = None) -> None:
        """See :class:`Collector`."""
        collector = self
        self._stopping = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An answer is two writes: without this, loopback waits 40 ms for each (Nagle meets delayed ACK).
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with collector._changed:
                    collector._sockets.add(self.connection)

            def finish(self) -> None:
                with collector._changed:
                    collector._sockets.discard(self.connection)
                with contextlib.suppress(OSError, ValueError):
                    super().finish()

            def do_POST(self) -> None:
                with contextlib.suppress(OSError):
                    collector._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", port or self.port), Handler)
        self.port = self._server.server_port
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """See :class:`Collector`."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping.set()
        server.shutdown()
        server.server_close()
        with self._changed:
            sockets, self._sockets = self._sockets, set()
        for live in sockets:
            with contextlib.suppress(OSError):
                live.shutdown(socket.SHUT_RDWR)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        stopping = self._stopping
        raw = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        signal = next((name for name, path in self._paths.items() if path == handler.path), None)
        if signal is None:
            self._reply(handler, NOT_FOUND, b"")
            return
        encoding = handler.headers.get("Content-Encoding")
        body = gzip.decompress(raw) if encoding == "gzip" else zlib.decompress(raw) if encoding == "deflate" else raw
        request = SIGNALS[signal].request.FromString(body)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        answer = self._judge(request, headers, handler.path, len(raw))
        if answer.hang:
            stopping.wait()
        elif answer.reset:
            handler.connection.shutdown(socket.SHUT_RDWR)
        elif answer.drip:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            while not stopping.wait(0.02):
                handler.wfile.write(b"x")
                handler.wfile.flush()
        else:
            body = self._response(answer, request).SerializeToString() if answer.status == 200 else b""
            self._reply(handler, answer, body)
            return
        handler.close_connection = True

    def _reply(self, handler: BaseHTTPRequestHandler, answer: Answer, usual: bytes) -> None:
        body = usual if answer.body is None else answer.body
        handler.send_response(answer.status)
        headers = {"Content-Type": "application/x-protobuf", "Content-Length": str(len(body)), **answer.headers}
        if answer.retry_after_s is not None:
            headers["Retry-After"] = f"{answer.retry_after_s:g}"
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


class GrpcCollector(Collector):
    """OTLP over gRPC."""

    protocol = "grpc"

    def __init__(self, *, certificate: tuple[Path, Path] | None = None) -> None:
        super().__init__(certificate=certificate)
        self._server: Any = None
        self._hung: set[threading.Event] = set()

    @property
    def endpoint(self) -> str:
        """See :class:`Collector`."""
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def endpoint_of(self, signal: str) -> str:
        """See :class:`Collector`."""
        return self.endpoint

    def start(self, port: int | None = None) -> None:
        """See :class:`Collector`."""
        import grpc

        self._stopping = threading.Event()
        # Without so_reuseport two servers could share the port and a test would talk to the wrong one.
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        for signal in SIGNALS.values():
            export = grpc.unary_unary_rpc_method_handler(
                self._serve, signal.request.FromString, lambda response: response.SerializeToString()
            )
            handler = grpc.method_handlers_generic_handler(signal.service, {"Export": export})
            self._server.add_generic_rpc_handlers((handler,))
        address = f"127.0.0.1:{port or self.port}"
        if self.certificate is not None:
            certificate, key = (path.read_bytes() for path in self.certificate)
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
        else:
            self.port = self._server.add_insecure_port(address)
        self._server.start()

    def stop(self) -> None:
        """See :class:`Collector`."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping.set()
        with self._changed:
            for hung in self._hung:
                hung.set()
        server.stop(grace=None).wait(10)

    def _serve(self, request: Any, context: Any) -> Any:
        import grpc

        metadata = {key.lower(): value for key, value in context.invocation_metadata()}
        answer = self._judge(request, metadata, "", request.ByteSize())
        if answer.hang:
            left = threading.Event()
            with self._changed:
                self._hung.add(left)
            if context.add_callback(left.set) and not self._stopping.is_set():
                left.wait()
            context.abort(grpc.StatusCode.UNAVAILABLE, "hung until the end")
        if answer.retry_after_s is not None:
            context.set_trailing_metadata((("google.rpc.retryinfo-bin", _retry_info(answer.retry_after_s)),))
        if answer.code != "OK":
            context.abort(grpc.StatusCode[answer.code], answer.details)
        return self._response(answer, request)


def _retry_info(seconds: float) -> bytes:
    from google.rpc.error_details_pb2 import RetryInfo

    info = RetryInfo()
    info.retry_delay.FromNanoseconds(int(seconds * 1_000_000_000))
    return info.SerializeToString()


def refusing_port() -> int:
    """A loopback port that nobody listens on for as long as this process lives."""
    return free_port()


def wait_until(holds: Callable[[], bool], timeout: float = LONGEST_S) -> bool:
    """Wait for a state of another thread or process that has no event to wait for; looked at every 5 ms."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
