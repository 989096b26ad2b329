"""The results of HTTP responses and errors.

Guarantees: each has a result, with a reason of one line without secrets.
"""

from __future__ import annotations

import contextlib
import math
import ssl
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import requests

from torchelastic_otel.export.otel.cancellation import one_line
from torchelastic_otel.export.result import Disposition, ExportResult
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.units import NS_PER_S

MAX_BODY_BYTES: Final = 65536
"""The limit of a response's body: a server could send without end."""

_REJECTED: Final = frozenset({400, 413, 422})
_RETRY: Final = frozenset({408, 425, 429})
# a 400 of a TLS port is not about the data; texts of Go and nginx
_WRONG_PORT: Final = (b"HTTP request to an HTTPS server", b"HTTP request was sent to HTTPS port")


def failure_result(
    response: requests.Response, body: bytes | None, signal: Signal, *, now_ns: int
) -> ExportResult | None:
    """The result of a response that does not accept the batch; ``None`` for one that does.

    OTLP specification, "OTLP/HTTP Response". Of the statuses that it does not list, those of the 4xx about access or
    address block: no data is at fault, and dropping is final.

    Args:
        response: The response.
        body: Its body; ``None`` if it could not be read.
        signal: The signal that was sent.
        now_ns: Wall clock, nanoseconds since the epoch.
    """
    status = response.status_code
    if 200 <= status < 300:
        return None
    reason = status_line(response)
    retry_after_ns = parse_retry_after(response.headers.get("Retry-After"), now_ns)
    if message := _error_message(response, body):
        reason = f"{reason}: {message}"
    if status == 404:
        reason += f"; OTEL_EXPORTER_OTLP_{signal.name}_ENDPOINT is used unchanged, with its path (/v1/{signal.value})"
    if 300 <= status < 400:
        return ExportResult(
            Disposition.BLOCKED, f"{reason}: redirects are not followed; set the endpoint to its target"
        )
    if status in _REJECTED:
        if any(words in (body or b"") for words in _WRONG_PORT):
            return ExportResult(Disposition.BLOCKED, f"{reason}: use an https:// endpoint")
        return ExportResult(Disposition.REJECTED, reason)
    if status in _RETRY or not 400 <= status < 500:
        return ExportResult(Disposition.RETRY, reason, retry_after_ns=retry_after_ns)
    return ExportResult(Disposition.BLOCKED, reason, retry_after_ns=retry_after_ns)


def error_result(error: Exception) -> ExportResult:
    """The result of a request without a response. The reason does not contain the URL, which may contain a key."""
    root = _root(error)
    named = getattr(root, "strerror", None) or (str(root) if type(root) is OSError else "")
    reason = f"{type(root).__name__}: {one_line(named)}" if named else type(root).__name__
    if type(root).__name__ == "BadStatusLine":
        reason += ": the port does not speak HTTP; gRPC's is usually 4317 and HTTP's 4318"
    if isinstance(error, requests.Timeout):
        return ExportResult(Disposition.RETRY, f"no response in time ({reason})")
    # a bad URL or header is a ValueError, a missing certificate file a bare OSError
    bad_setting = isinstance(error, ValueError) or not isinstance(error, requests.RequestException)
    if isinstance(root, ssl.SSLCertVerificationError) or (bad_setting and isinstance(error, (ValueError, OSError))):
        return ExportResult(Disposition.BLOCKED, f"{reason}: check the endpoint, headers and certificates")
    return ExportResult(Disposition.RETRY, reason)


def parse_retry_after(value: str | None, now_ns: int) -> int | None:
    """``Retry-After`` in nanoseconds from now: seconds or an HTTP date (RFC 9110, 10.2.3); ``None`` if neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            return max(0, int(parsedate_to_datetime(value).timestamp()) * NS_PER_S - now_ns)
        except (TypeError, ValueError, OverflowError):
            return None
    return int(max(0.0, seconds) * NS_PER_S) if math.isfinite(seconds) else None


def status_line(response: requests.Response) -> str:
    """``HTTP 200 OK``; with the standard phrase if the server sends none."""
    return f"HTTP {response.status_code} {response.reason or _phrase(response.status_code)}".rstrip()


def read_body(response: requests.Response) -> bytes | None:
    """The beginning of the body; ``None`` if it cannot be read."""
    try:
        body: bytes = response.raw.read(MAX_BODY_BYTES, decode_content=True)
    except Exception:  # noqa: BLE001 - the status is known; only the text is lost
        return None
    return body


def _error_message(response: requests.Response, body: bytes | None) -> str:
    """The server's message: ``google.rpc.Status``, as OTLP requires, or plain text."""
    kind = response.headers.get("Content-Type", "")
    if body and kind.startswith("application/x-protobuf"):
        from google.rpc.status_pb2 import Status

        with contextlib.suppress(Exception):
            return one_line(Status.FromString(body).message)
    if body and kind.startswith("text/plain"):
        return one_line(body.decode("utf-8", "replace"))
    return ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _root(error: BaseException) -> BaseException:
    """The innermost cause; requests and urllib3 carry it as an argument, an attribute or a cause."""
    for _ in range(10):
        inner = [getattr(error, "reason", None), error.__cause__, *error.args, error.__context__]
        found = next((item for item in inner if isinstance(item, BaseException)), None)
        if found is None:
            break
        error = found
    return error
