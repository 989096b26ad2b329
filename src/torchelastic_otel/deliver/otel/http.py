"""OTLP over HTTP: the installed exporter, with every response seen.

What always holds:

- The exporter encodes, compresses, signs and sends; what became of the batch is read here, from the response
  itself, because the exporter calls a redirect and a partial success a SUCCESS and everything else a FAILURE.
- One attempt is one request: no redirect is followed, nothing is tried again, no random number is drawn.
- An attempt ends when its time is over, however slowly the server drips: its socket is shut down.

Not bounded: resolving the host name, and connecting to a host of several addresses takes the time for each.
"""

from __future__ import annotations

import contextlib
import logging
import math
import ssl
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk._logs import LogRecordLimits

from torchelastic_otel.deliver.otel.attempt import Answered, Lifeline, one_line
from torchelastic_otel.deliver.otel.http_connections import Adapter, Wire
from torchelastic_otel.deliver.otel.logs import log_record
from torchelastic_otel.deliver.outcome import Outcome, Verdict
from torchelastic_otel.model.event import Delivery

logger = logging.getLogger("torchelastic_otel")

LONGEST_BODY = 65536
"""Bytes read of a response; what is beyond is not of interest, and a server could send for ever."""

_REFUSED = frozenset({400, 413, 422})
_RETRY = frozenset({408, 425, 429})
# A 400 that says the port wants TLS is no verdict on the data: Go's and nginx's words.
_WRONG_PORT = (b"HTTP request to an HTTPS server", b"HTTP request was sent to HTTPS port")


class HttpSender:
    """A :class:`~torchelastic_otel.deliver.outcome.Sender` around OpenTelemetry's OTLP HTTP log exporter.

    Args:
        exporter: ``OTLPLogExporter`` of ``opentelemetry.exporter.otlp.proto.http``.
        session: The ``requests.Session`` that it was given; it is observed from now on.
        attempt_timeout_ns: How long one attempt may take, nanoseconds.
        limits: Attribute limits of the records.
        clock_ns: Wall clock, nanoseconds since the epoch; for ``Retry-After`` dates.
    """

    def __init__(
        self,
        exporter: Any,
        session: requests.Session,
        *,
        attempt_timeout_ns: int,
        limits: LogRecordLimits,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.exporter = exporter
        self._limits = limits
        self._clock_ns = clock_ns
        self._lifeline = Lifeline(attempt_timeout_ns)
        self._wire = Wire(self._lifeline)
        self._delivered: list[Outcome] = []
        self._observe(session)
        _without_backoff(exporter, self._lifeline)

    def send(self, batch: Sequence[Delivery]) -> Outcome:
        """Export the batch in one request and say what the server did with it."""
        self._delivered.clear()
        records: list[Any] = []
        try:
            records = [log_record(delivery, self._limits) for delivery in batch]
            with self._lifeline.attempt():
                result = self.exporter.export(records)
        except Answered as answered:
            return answered.outcome
        except Exception as error:  # noqa: BLE001 - every fault of an exporter is an outcome
            return Outcome(Verdict.REFUSED, f"the exporter raised {type(error).__name__}: {one_line(str(error))}")
        finally:
            self._wire.release_if_closed()
        if self._delivered:
            return self._delivered[-1]
        if result.name == "SUCCESS":
            return Outcome(Verdict.DELIVERED)
        return _unsent(records)

    def abort(self) -> None:
        """Shut the connection's socket down."""
        self._lifeline.abort()

    def close(self) -> None:
        """Shut the exporter down and close its connections."""
        with contextlib.suppress(Exception):
            self.exporter.shutdown()
        self._wire.release()

    def _observe(self, session: requests.Session) -> None:
        for prefix in ("http://", "https://"):
            # A user's own adapter (a credential provider's) knows things that ours does not.
            if type(session.get_adapter(prefix)) is requests.adapters.HTTPAdapter:
                session.mount(prefix, Adapter(self._wire))
        original = session.request

        def request(*args: Any, **kwargs: Any) -> Any:
            if not self._lifeline.is_mine():
                return original(*args, **kwargs)
            if kwargs.get("verify") is None and session.verify is not True:
                # requests lets REQUESTS_CA_BUNDLE go before the session's own certificate, which here is the one
                # of OTEL_EXPORTER_OTLP_CERTIFICATE; only an argument of the request goes before both.
                kwargs["verify"] = session.verify
            kwargs.update(allow_redirects=False, stream=True)
            try:
                response = original(*args, **kwargs)
            except Exception as error:
                raise Answered(self._lifeline.cut_outcome() or outcome_of_error(error)) from error
            with response:
                body = _body(response)
            # A cut in the middle of the headers looks like their end to http.client: a 200 that nobody has said.
            if cut := self._lifeline.cut_outcome():
                raise Answered(cut)
            outcome = outcome_of_response(response, body, now_ns=self._clock_ns())
            if outcome.verdict is not Verdict.DELIVERED:
                raise Answered(outcome)
            self._delivered.append(outcome)
            return response

        # On the instance, so that a credential provider's own kind of session stays what it is.
        setattr(session, "request", request)  # noqa: B010 - a method cannot be assigned to


def outcome_of_response(response: requests.Response, body: bytes | None, *, now_ns: int) -> Outcome:
    """What a response means; ``body`` is ``None`` where it could not be read.

    OTLP specification, "OTLP/HTTP Response". Of the statuses it does not list, those of the 4xx that speak of
    access or address hold the queue: they are nobody's data's fault, and dropping is for ever.
    """
    status = response.status_code
    reason = f"HTTP {status} {response.reason or _phrase(status)}".rstrip()
    if 200 <= status < 300:
        return _delivered(reason, body if status == 200 else b"")
    retry_after_ns = parse_retry_after(response.headers.get("Retry-After"), now_ns)
    if said := _error_message(response, body):
        reason = f"{reason}: {said}"
    if status == 404:
        reason += "; OTEL_EXPORTER_OTLP_LOGS_ENDPOINT is used as it is, with its path (/v1/logs)"
    if 300 <= status < 400:
        return Outcome(Verdict.HOLD, f"{reason}: redirects are not followed; name the endpoint it redirects to")
    if status in _REFUSED:
        if any(words in (body or b"") for words in _WRONG_PORT):
            return Outcome(Verdict.HOLD, f"{reason}: use an https:// endpoint")
        return Outcome(Verdict.REFUSED, reason)
    if status in _RETRY or not 400 <= status < 500:
        return Outcome(Verdict.RETRY, reason, retry_after_ns=retry_after_ns)
    return Outcome(Verdict.HOLD, reason, retry_after_ns=retry_after_ns)


def _delivered(reason: str, body: bytes | None) -> Outcome:
    try:
        partial = ExportLogsServiceResponse.FromString(body or b"").partial_success
    except Exception:  # noqa: BLE001 - protobuf's parsers raise several kinds
        return Outcome(Verdict.DELIVERED, f"{reason}, with a body that is no ExportLogsServiceResponse")
    if partial.rejected_log_records > 0:
        reason = f"{reason}: {partial.rejected_log_records} rejected: {one_line(partial.error_message)}"
    elif partial.error_message:
        reason = f"{reason}: warning: {one_line(partial.error_message)}"
    return Outcome(Verdict.DELIVERED, reason, rejected=max(0, partial.rejected_log_records))


def outcome_of_error(error: Exception) -> Outcome:
    """What a request that got no response means. The URL is left out of the reason: it may carry a key."""
    root = _root(error)
    named = getattr(root, "strerror", None) or (str(root) if type(root) is OSError else "")
    reason = f"{type(root).__name__}: {one_line(named)}" if named else type(root).__name__
    if type(root).__name__ == "BadStatusLine":
        reason += ": the port does not speak HTTP; gRPC's is usually 4317 and HTTP's 4318"
    if isinstance(error, requests.Timeout):
        return Outcome(Verdict.RETRY, f"no answer in time ({reason})")
    # A bad URL or header is a ValueError, a certificate file that is not there a bare OSError.
    bad_setting = isinstance(error, ValueError) or not isinstance(error, requests.RequestException)
    if isinstance(root, ssl.SSLCertVerificationError) or (bad_setting and isinstance(error, (ValueError, OSError))):
        return Outcome(Verdict.HOLD, f"{reason}: look at the endpoint, headers and certificates")
    return Outcome(Verdict.RETRY, reason)


def parse_retry_after(value: str | None, now_ns: int) -> int | None:
    """``Retry-After`` in nanoseconds from now: seconds or an HTTP date (RFC 9110, 10.2.3); ``None`` if neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            return max(0, int(parsedate_to_datetime(value).timestamp()) * 1_000_000_000 - now_ns)
        except (TypeError, ValueError, OverflowError):
            return None
    return int(max(0.0, seconds) * 1_000_000_000) if math.isfinite(seconds) else None


def _body(response: requests.Response) -> bytes | None:
    try:
        body: bytes = response.raw.read(LONGEST_BODY, decode_content=True)
    except Exception:  # noqa: BLE001 - the status is known; only the words are lost
        return None
    return body


def _error_message(response: requests.Response, body: bytes | None) -> str:
    """What the server says about it: ``google.rpc.Status`` as OTLP asks for, or plain text."""
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


def _unsent(records: Sequence[Any]) -> Outcome:
    """Why the exporter failed without a request: its data cannot be encoded, or it went a way we do not see."""
    try:
        encode_logs(records)
    except Exception as error:  # noqa: BLE001 - whatever the encoder raises, the data is at fault
        return Outcome(Verdict.REFUSED, f"cannot be encoded: {type(error).__name__}: {one_line(str(error))}")
    return Outcome(Verdict.RETRY, "the exporter failed and no response was seen")


def _without_backoff(exporter: Any, lifeline: Lifeline) -> None:
    """Keep the exporter from drawing a backoff out of the global ``random`` before its first attempt."""
    client = getattr(exporter, "_client", None)
    compute = getattr(client, "_compute_backoff", None)
    if client is None or compute is None:
        logger.debug("the HTTP exporter has no _client._compute_backoff: it may draw from the global random module")
        return
    client._compute_backoff = lambda retry: 0.0 if lifeline.is_mine() else compute(retry)
