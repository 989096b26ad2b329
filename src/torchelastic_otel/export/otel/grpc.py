"""OTLP over gRPC: the installed exporter, with every response and every status seen.

What always holds:

- One attempt is one call: nothing is tried again, no random number is drawn, nobody sleeps.
- A call ends at its deadline, and at once when it is cut (but while the interpreter ends: see ``_call``).
- A collector that comes back is reached soon: channels made here wait at most a few seconds between connects
  (gRPC's own limit is two minutes).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.rpc.error_details_pb2 import RetryInfo

from torchelastic_otel.export.otel.cancellation import Answered, CancellationScope, one_line
from torchelastic_otel.export.otel.projection import Projection
from torchelastic_otel.export.otel.sender import ProjectingSender, all_of, raised
from torchelastic_otel.export.result import Disposition, ExportResult

logger = logging.getLogger("torchelastic_otel")

CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3000),
)
"""Our pipeline backs off itself; on top of it, gRPC's two minutes would keep a collector that is back waiting."""

_HOLD: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND"})
# Receivers answer INTERNAL to a message they cannot read (Go, C++, Python); it will not get better.
_UNREADABLE: Final = ("unmarshal", "deserializ", "exception serializing")


class GrpcSender(ProjectingSender):
    """A :class:`~torchelastic_otel.export.result.Sender` around an OTLP exporter of OpenTelemetry's over gRPC.

    Args:
        exporter: ``OTLPLogExporter``, ``OTLPSpanExporter`` or ``OTLPMetricExporter`` of
            ``opentelemetry.exporter.otlp.proto.grpc``.
        projection: Makes what it takes.
        attempt_timeout_ns: How long one attempt may take, nanoseconds.

    Raises:
        AttributeError: The exporter has no stub to observe: another version.
    """

    def __init__(self, exporter: Any, projection: Projection[Any], *, attempt_timeout_ns: int) -> None:
        super().__init__(exporter, projection)
        self._lifeline = CancellationScope(attempt_timeout_ns)
        self._stub = _ObservedStub(self.exporter._client, self._lifeline, self.delivered)
        self.exporter._client = self._stub

    def _export(self, data: Any) -> ExportResult:
        """Export in one call and say what the server did with it."""
        self._stub.delivered.clear()
        try:
            with self._lifeline.attempt():
                result = self.exporter.export(data)
        except Answered as answered:
            return answered.outcome
        except Exception as error:  # noqa: BLE001 - every fault of an exporter is an outcome
            return raised(error)
        if self._stub.delivered:
            return all_of(self._stub.delivered)
        if result.name == "SUCCESS":
            return ExportResult(Disposition.DELIVERED)
        return ExportResult(Disposition.RETRY, "the exporter failed and no status was seen")

    def abort(self) -> None:
        """Cancel the call."""
        self._lifeline.abort()


class _ObservedStub:
    """Stands where the exporter keeps the stub of its service."""

    def __init__(self, stub: Any, lifeline: CancellationScope, accepted: Callable[[str, Any], ExportResult]) -> None:
        self._export = stub.Export
        self._lifeline = lifeline
        self._accepted = accepted
        self._has_a_thread = True
        self.delivered: list[ExportResult] = []

    def Export(self, request: Any, metadata: Any = None, timeout: float | None = None) -> Any:
        """The stub's one method; raises :class:`Answered` for every answer but OK."""
        if not self._lifeline.is_mine():
            return self._export(request, metadata=metadata, timeout=timeout)
        try:
            response = self._call(request, metadata, timeout)
        except grpc.RpcError as error:
            raise Answered(self._lifeline.cut_outcome() or outcome_of_status(error)) from error
        except grpc.FutureCancelledError as error:
            raise Answered(self._lifeline.cut_outcome() or ExportResult(Disposition.RETRY, "gRPC CANCELLED")) from error
        except Exception as error:
            # Neither an answer nor about the data, which is encoded by now: what gRPC is called with.
            said = f"gRPC made no call: {type(error).__name__}: look at the headers"
            raise Answered(ExportResult(Disposition.HOLD, said)) from error
        self.delivered.append(self._accepted("gRPC OK", response))
        return response

    def _call(self, request: Any, metadata: Any, timeout: float | None) -> Any:
        # gRPC wants a thread for a call that can be cancelled; one that cannot ends at its deadline
        if self._lifeline.threads_can_be_had and self._has_a_thread:
            try:
                call = self._export.future(request, metadata=metadata, timeout=timeout)
            except RuntimeError as error:
                if "new thread" not in str(error):
                    raise  # nothing was begun that could be waited for
                # CPython 3.10 to 3.13 at the interpreter's end, or where the system refuses one
                self._has_a_thread = False
                self._end_what_was_begun()
            else:
                self._lifeline.hold(call.cancel)
                return call.result()
        return self._export(request, metadata=metadata, timeout=timeout)

    def _end_what_was_begun(self) -> None:
        """Do what the refused thread would have done (grpcio 1.85, ``_channel._run_channel_spin_thread``).

        The call is on its way by then, so that its batch may come twice; and gRPC takes its thread for started, asks
        for none again, and would wait for ever for this call when the channel is closed.
        """
        with contextlib.suppress(AttributeError):  # an interceptor holds the channel, or it is another gRPC
            channel = self._export._channel
            while True:
                event = channel.next_call_event()
                if event.tag is not None and event.tag(event):
                    return


def outcome_of_status(error: Any) -> ExportResult:
    """What a failed call means (OTLP specification, "Failures", and what receivers really answer)."""
    code, details = error.code().name, error.details() or ""
    reason = f"gRPC {code}: {one_line(details)}" if details else f"gRPC {code}"
    lower = details.lower()
    if "failed parsing http/2" in lower or "trying to connect an http1.x server" in lower:
        reason += "; the port does not speak gRPC: for OTLP over HTTP set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
    too_large = code == "RESOURCE_EXHAUSTED" and "larger than max" in lower
    unreadable = code == "INTERNAL" and any(word in lower for word in _UNREADABLE)
    if code == "INVALID_ARGUMENT" or too_large or unreadable:
        return ExportResult(Disposition.REFUSED, reason)
    hold = code in _HOLD or (code == "INTERNAL" and "invalid metadata" in lower)
    return ExportResult(Disposition.HOLD if hold else Disposition.RETRY, reason, retry_after_ns=_retry_info_ns(error))


def _retry_info_ns(error: Any) -> int | None:
    """The delay the server asks for, nanoseconds: ``RetryInfo`` on its own or among the status details."""
    from google.rpc.status_pb2 import Status

    trailing = dict(error.trailing_metadata() or ())
    info = RetryInfo()
    with contextlib.suppress(Exception):
        if raw := trailing.get("google.rpc.retryinfo-bin"):
            info.ParseFromString(raw)
            return max(0, int(info.retry_delay.ToNanoseconds()))
        for detail in Status.FromString(trailing.get("grpc-status-details-bin", b"")).details:
            if detail.Unpack(info):
                return max(0, int(info.retry_delay.ToNanoseconds()))
    return None
