"""The HTTP face of the embedded receiver: OTLP/HTTP on one loopback port.

What always holds (OTLP specification 1.x, "OTLP/HTTP"): POST only; a body is protobuf or JSON, plain, gzip or
deflate; the answer has the form of the question; every answer has a length, so that a connection can be used again.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

from torchelastic_otel.errors import BadRequestError
from torchelastic_otel.export.otel.otlp_json import from_json, to_json_line

MAX_BODY_BYTES = 64 * 1024 * 1024
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_PROTOCOLS = {_PROTOBUF: "http/protobuf", _JSON: "http/json"}
# zlib's window argument: with a gzip header, and with a zlib header (what HTTP calls deflate).
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

Take = Callable[[Any, str], Any]
"""Told a request and its protocol; returns the answer."""
Routes = Mapping[str, tuple[Callable[[], Any], Take]]
"""Path to (who makes an empty request, who takes it)."""


class HttpFace:
    """Serve the routes on ``127.0.0.1:port`` until stopped."""

    def __init__(self, routes: Routes) -> None:
        """Bind a free port and serve on threads of its own.

        Raises:
            OSError: Nothing can be bound on 127.0.0.1.
        """
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.routes = routes
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="otlp-receiver-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Serve no more and free the port; a connection that is idle is left to its client."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    routes: Routes

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away in the middle is its own affair, and no traceback on the demo's screen.
        return


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        try:
            content, answer = self._taken()
        except BadRequestError as refused:
            # The body may be unread: what follows it on this connection could not be told from it.
            self.close_connection = True
            self._answer(refused.status, "text/plain; charset=utf-8", f"{refused}\n".encode())
            return
        self._answer(200, content, answer)

    def do_GET(self) -> None:
        self.close_connection = True
        self._answer(405, "text/plain; charset=utf-8", b"OTLP/HTTP takes POST only\n", ("Allow", "POST"))

    do_HEAD = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _taken(self) -> tuple[str, bytes]:
        path = self.path.partition("?")[0]
        route = self.server.routes.get(path)
        if route is None:
            raise BadRequestError(404, f"no such path: {path}; known: {', '.join(sorted(self.server.routes))}")
        content = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content not in _PROTOCOLS:
            raise BadRequestError(415, f"content type {content!r}; known: {', '.join(_PROTOCOLS)}")
        body = self._body()
        empty, take = route
        message = empty()
        try:
            if content == _JSON:
                from_json(body, message)
            else:
                message.ParseFromString(body)
        except (DecodeError, ValueError) as error:
            raise BadRequestError(400, f"not an OTLP request: {error}") from error
        answer = take(message, _PROTOCOLS[content])
        return content, to_json_line(answer) if content == _JSON else answer.SerializeToString()

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise BadRequestError(411, "a Content-Length is needed")
        if int(length) > MAX_BODY_BYTES:
            raise BadRequestError(413, f"{length} bytes; at most {MAX_BODY_BYTES} are taken")
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
            plain = inflate.decompress(body, MAX_BODY_BYTES)
        except zlib.error as error:
            raise BadRequestError(400, f"not {encoding}: {error}") from error
        if not inflate.eof:
            bomb = bool(inflate.unconsumed_tail)
            raise BadRequestError(413 if bomb else 400, f"{encoding} body " + ("too large" if bomb else "cut short"))
        return plain

    def _answer(self, status: int, content: str, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
