"""OTLP over HTTP: the installed exporter, with every response seen.

What always holds:

- The exporter encodes, compresses, signs and sends; what became of the batch is read here, from the response
  itself, because the exporter calls a redirect and a partial success a SUCCESS and everything else a FAILURE.
- One attempt is one request: no redirect is followed, nothing is tried again, no random number is drawn.
- An attempt ends when its time is over, however slowly the server drips: its socket is shut down.

Not bounded: resolving the host name, and connecting to a host of several addresses takes the time for each.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import requests

from torchelastic_otel.export.otel.cancellation import Answered, CancellationScope, one_line
from torchelastic_otel.export.otel.http_connections import Adapter, SocketHandle
from torchelastic_otel.export.otel.http_responses import body_of, outcome_of_error, outcome_of_refusal, status_line
from torchelastic_otel.export.otel.projection import Projection
from torchelastic_otel.export.otel.sender import ProjectingSender, all_of, raised
from torchelastic_otel.export.result import Disposition, ExportResult

logger = logging.getLogger("torchelastic_otel")


class HttpSender(ProjectingSender):
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
        projection: Projection[Any],
        session: requests.Session,
        *,
        attempt_timeout_ns: int,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(exporter, projection)
        self._clock_ns = clock_ns
        self._lifeline = CancellationScope(attempt_timeout_ns)
        self._wire = SocketHandle(self._lifeline)
        self._delivered: list[ExportResult] = []
        self._observe(session)
        _without_backoff(exporter, self._lifeline)

    def _export(self, data: Any) -> ExportResult:
        """Export in one request and say what the server did with it."""
        self._delivered.clear()
        try:
            with self._lifeline.attempt():
                result = self.exporter.export(data)
        except Answered as answered:
            return answered.outcome
        except Exception as error:  # noqa: BLE001 - every fault of an exporter is an outcome
            return raised(error)
        finally:
            self._wire.release_if_closed()
        if self._delivered:
            return all_of(self._delivered)
        if result.name == "SUCCESS":
            return ExportResult(Disposition.DELIVERED)
        return self._unsent(data)

    def abort(self) -> None:
        """Shut the connection's socket down."""
        self._lifeline.abort()

    def close(self) -> None:
        """Shut the exporter down and close its connections."""
        super().close()
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
                body = body_of(response)
            # A cut in the middle of the headers looks like their end to http.client: a 200 that nobody has said.
            if cut := self._lifeline.cut_outcome():
                raise Answered(cut)
            refusal = outcome_of_refusal(response, body, self.projection.signal, now_ns=self._clock_ns())
            if refusal is not None:
                raise Answered(refusal)
            self._delivered.append(self._accepted(response, body))
            return response

        # On the instance, so that a credential provider's own kind of session stays what it is.
        setattr(session, "request", request)  # noqa: B010 - a method cannot be assigned to

    def _accepted(self, response: requests.Response, body: bytes | None) -> ExportResult:
        reason = status_line(response)
        answer = self.projection.response()
        try:
            answer.ParseFromString((body or b"") if response.status_code == 200 else b"")
        except Exception:  # noqa: BLE001 - protobuf's parsers raise several kinds
            return ExportResult(Disposition.DELIVERED, f"{reason}, with a body that is no {type(answer).__name__}")
        return self.delivered(reason, answer)

    def _unsent(self, data: Any) -> ExportResult:
        """Why the exporter failed without a request: its data cannot be encoded, or it went a way we do not see."""
        try:
            self.projection.encoded(data)
        except Exception as error:  # noqa: BLE001 - whatever the encoder raises, the data is at fault
            return ExportResult(
                Disposition.REFUSED, f"cannot be encoded: {type(error).__name__}: {one_line(str(error))}"
            )
        return ExportResult(Disposition.RETRY, "the exporter failed and no response was seen")


def _without_backoff(exporter: Any, lifeline: CancellationScope) -> None:
    """Keep the exporter from drawing a backoff out of the global ``random`` before its first attempt."""
    client = getattr(exporter, "_client", None)
    compute = getattr(client, "_compute_backoff", None)
    if client is None or compute is None:
        logger.debug("the HTTP exporter has no _client._compute_backoff: it may draw from the global random module")
        return
    client._compute_backoff = lambda retry: 0.0 if lifeline.is_mine() else compute(retry)
