"""OTLP over gRPC: the installed exporter, with every response and status observed.

Guarantees:

- One attempt is one call: no retry, no random number, no sleep.
- A call ends at its deadline, and at once when it is cancelled (except while the interpreter exits: see ``_call``).
- A collector that restarts is reached soon: channels made here wait at most a few seconds between connects (gRPC's own
  limit is two minutes).
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import grpc
from google.rpc.error_details_pb2 import RetryInfo

from torchelastic_otel.export.otel.cancellation import AttemptFinished, one_line
from torchelastic_otel.export.otel.projection import Projection
from torchelastic_otel.export.otel.sender import ObservingSender
from torchelastic_otel.export.result import Disposition, ExportResult

CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3000),
)
"""The pipeline has its own backoff; gRPC's two minutes on top of it would delay the first batch after an outage."""

_BLOCKED: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND"})
# Receivers return INTERNAL for a message that they cannot parse (Go, C++, Python); a retry does not help.
_UNREADABLE: Final = ("unmarshal", "deserializ", "exception serializing")


class GrpcSender(ObservingSender):
    """A :class:`~torchelastic_otel.export.result.Sender` around an OTLP exporter of OpenTelemetry's over gRPC.

    Args:
        exporter: ``OTLPLogExporter``, ``OTLPSpanExporter`` or ``OTLPMetricExporter`` of
            ``opentelemetry.exporter.otlp.proto.grpc``.
        projection: Makes what it takes.
        attempt_timeout_ns: How long one attempt may take, nanoseconds.

    Raises:
        AttributeError: The exporter has no stub to observe, because it is of another version.
    """

    def __init__(self, exporter: Any, projection: Projection, *, attempt_timeout_ns: int) -> None:
        super().__init__(exporter, projection, attempt_timeout_ns)
        self.exporter._client = _ObservedStub(self.exporter._client, self)


class _ObservedStub:
    """Replaces the stub of the exporter's service."""

    def __init__(self, stub: Any, sender: GrpcSender) -> None:
        self._export = stub.Export
        self._sender = sender
        self._cancellation = sender.cancellation
        self._has_thread = True

    def Export(self, request: Any, metadata: Any = None, timeout: float | None = None) -> Any:
        """The stub's one method; raises :class:`AttemptFinished` for every status but OK."""
        if not self._cancellation.is_current_thread():
            return self._export(request, metadata=metadata, timeout=timeout)
        try:
            response = self._call(request, metadata, timeout)
        except Exception as error:
            raise AttemptFinished(self._cancellation.cancelled_result() or _error_result(error)) from error
        self._sender.accept("gRPC OK", response)
        return response

    def _call(self, request: Any, metadata: Any, timeout: float | None) -> Any:
        # gRPC needs a thread for a call that can be cancelled; one that cannot ends at its deadline
        if self._cancellation.can_start_threads and self._has_thread:
            try:
                call = self._export.future(request, metadata=metadata, timeout=timeout)
            except RuntimeError as error:
                if "new thread" not in str(error):
                    raise  # no call was begun that could be waited for
                # CPython 3.10 to 3.13 while the interpreter exits, or the system's thread limit
                self._has_thread = False
                self._finish_call()
            else:
                self._cancellation.on_cancel(call.cancel)
                return call.result()
        return self._export(request, metadata=metadata, timeout=timeout)

    def _finish_call(self) -> None:
        """Do the work of the thread that could not start (grpcio 1.85, ``_channel._run_channel_spin_thread``).

        The call has been sent by then, so that its batch may arrive twice; and gRPC assumes that its thread runs,
        starts no other, and would wait for this call for ever when the channel is closed.
        """
        with contextlib.suppress(AttributeError):  # an interceptor wraps the channel, or another version of gRPC
            channel = self._export._channel
            while True:
                event = channel.next_call_event()
                if event.tag is not None and event.tag(event):
                    return


def _error_result(error: Exception) -> ExportResult:
    if isinstance(error, grpc.RpcError):
        return status_result(error)
    if isinstance(error, grpc.FutureCancelledError):
        return ExportResult(Disposition.RETRY, "gRPC CANCELLED")
    # neither a status nor about the data, which is encoded by now: the call's arguments
    return ExportResult(Disposition.BLOCKED, f"gRPC made no call: {type(error).__name__}: check the headers")


def status_result(error: Any) -> ExportResult:
    """The result of a failed call (OTLP specification, "Failures", and what receivers return in practice)."""
    code, details = error.code().name, error.details() or ""
    reason = f"gRPC {code}: {one_line(details)}" if details else f"gRPC {code}"
    lower = details.lower()
    if "failed parsing http/2" in lower or "trying to connect an http1.x server" in lower:
        reason += "; the port does not speak gRPC: for OTLP over HTTP set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
    too_large = code == "RESOURCE_EXHAUSTED" and "larger than max" in lower
    unreadable = code == "INTERNAL" and any(word in lower for word in _UNREADABLE)
    if code == "INVALID_ARGUMENT" or too_large or unreadable:
        return ExportResult(Disposition.REJECTED, reason)
    blocked = code in _BLOCKED or (code == "INTERNAL" and "invalid metadata" in lower)
    return ExportResult(
        Disposition.BLOCKED if blocked else Disposition.RETRY, reason, retry_after_ns=_retry_info_ns(error)
    )


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
