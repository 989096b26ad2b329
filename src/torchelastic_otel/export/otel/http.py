"""OTLP over HTTP: the installed exporter, with every response observed.

Guarantees:

- The exporter encodes, compresses, signs and sends; the result is read here, from the response itself, because the
  exporter reports a redirect and a partial success as SUCCESS and everything else as FAILURE.
- One attempt is one request: no redirect, no retry, no random number.
- An attempt ends at its time limit, however slowly the server sends: its socket is shut down.

Not limited: resolving the host name, and connecting to a host of several addresses takes the time for each.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import requests

from torchelastic_otel.export.otel.cancellation import AttemptFinished, CancellationScope
from torchelastic_otel.export.otel.http_connections import Adapter, SocketHandle
from torchelastic_otel.export.otel.http_responses import error_result, failure_result, read_body, status_line
from torchelastic_otel.export.otel.projection import Projection, empty_response
from torchelastic_otel.export.otel.sender import ObservingSender
from torchelastic_otel.export.result import Disposition, ExportResult

logger = logging.getLogger("torchelastic_otel")


class HttpSender(ObservingSender):
    """A :class:`~torchelastic_otel.export.result.Sender` around an OTLP exporter of OpenTelemetry's over HTTP.

    Args:
        exporter: ``OTLPLogExporter``, ``OTLPSpanExporter`` or ``OTLPMetricExporter`` of
            ``opentelemetry.exporter.otlp.proto.http``.
        projection: Makes what it takes.
        session: The ``requests.Session`` that it was given; it is observed from now on.
        attempt_timeout_ns: How long one attempt may take, nanoseconds.
        clock_ns: Wall clock, nanoseconds since the epoch; for ``Retry-After`` dates.
    """

    def __init__(
        self,
        exporter: Any,
        projection: Projection,
        session: requests.Session,
        *,
        attempt_timeout_ns: int,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(exporter, projection, attempt_timeout_ns)
        self._clock_ns = clock_ns
        self._socket = SocketHandle(self.cancellation)
        self._observe(session)
        _disable_backoff(exporter, self.cancellation)

    def _export(self, data: Any) -> ExportResult:
        try:
            return super()._export(data)
        finally:
            self._socket.release_if_closed()

    def close(self) -> None:
        """Shut the exporter down and close its connections."""
        super().close()
        self._socket.release()

    def _observe(self, session: requests.Session) -> None:
        for prefix in ("http://", "https://"):
            # an adapter of the user's (of a credential provider, for example) has functions that this one lacks
            if type(session.get_adapter(prefix)) is requests.adapters.HTTPAdapter:
                session.mount(prefix, Adapter(self._socket))
        original = session.request

        def request(*args: Any, **kwargs: Any) -> Any:
            if not self.cancellation.is_current_thread():
                return original(*args, **kwargs)
            if kwargs.get("verify") is None and session.verify is not True:
                # requests prefers REQUESTS_CA_BUNDLE to the session's own certificate, which is the one of
                # OTEL_EXPORTER_OTLP_CERTIFICATE here; only an argument of the request has precedence over both.
                kwargs["verify"] = session.verify
            kwargs.update(allow_redirects=False, stream=True)
            try:
                response = original(*args, **kwargs)
            except Exception as error:
                raise AttemptFinished(self.cancellation.cancelled_result() or error_result(error)) from error
            with response:
                body = read_body(response)
            # A socket that is shut down amid the headers looks like their end to http.client: a 200 that was not sent.
            result = self.cancellation.cancelled_result() or failure_result(
                response, body, self.projection.signal, now_ns=self._clock_ns()
            )
            if result is not None:
                raise AttemptFinished(result)
            self._accept(response, body)
            return response

        # on the instance: a credential provider's own class of session is not changed
        setattr(session, "request", request)  # noqa: B010 - a method cannot be assigned to

    def _accept(self, response: requests.Response, body: bytes | None) -> None:
        reason = status_line(response)
        message = empty_response(self.projection.signal)
        try:
            message.ParseFromString((body or b"") if response.status_code == 200 else b"")
        except Exception:  # noqa: BLE001 - protobuf's parsers raise several kinds
            reason = f"{reason}, with a body that is not an {type(message).__name__}"
            self.accepted.append(ExportResult(Disposition.DELIVERED, reason))
        else:
            self.accept(reason, message)


def _disable_backoff(exporter: Any, cancellation: CancellationScope) -> None:
    """Keep the exporter from drawing a backoff out of the global ``random`` before its first attempt."""
    client = getattr(exporter, "_client", None)
    compute = getattr(client, "_compute_backoff", None)
    if client is None or compute is None:
        logger.debug("the HTTP exporter has no _client._compute_backoff: it may draw from the global random module")
        return
    client._compute_backoff = lambda retry: 0.0 if cancellation.is_current_thread() else compute(retry)
