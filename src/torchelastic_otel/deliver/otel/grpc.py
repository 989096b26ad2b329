"""OTLP over gRPC: the installed exporter, with every response and every status seen.

What always holds:

- One attempt is one call: nothing is tried again, no random number is drawn, nobody sleeps.
- A call ends at its deadline, and at once when it is cut.
- A collector that comes back is reached soon: channels made here wait at most a few seconds between connects
  (gRPC's own limit is two minutes).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Final

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.sdk._logs import LogRecordLimits

from torchelastic_otel.deliver.otel.attempt import Answered, Lifeline, one_line
from torchelastic_otel.deliver.otel.logs import log_record
from torchelastic_otel.deliver.outcome import Outcome, Verdict
from torchelastic_otel.model.event import Delivery

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


class GrpcSender:
    """A :class:`~torchelastic_otel.deliver.outcome.Sender` around OpenTelemetry's OTLP gRPC log exporter.

    Args:
        exporter: ``OTLPLogExporter`` of ``opentelemetry.exporter.otlp.proto.grpc``.
        attempt_timeout_ns: How long one attempt may take, nanoseconds.
        limits: Attribute limits of the records.

    Raises:
        AttributeError: The exporter has no stub to observe: another version.
    """

    def __init__(self, exporter: Any, *, attempt_timeout_ns: int, limits: LogRecordLimits) -> None:
        self.exporter = exporter
        self._limits = limits
        self._lifeline = Lifeline(attempt_timeout_ns)
        self._stub = _ObservedStub(self.exporter._client, self._lifeline)
        self.exporter._client = self._stub

    def send(self, batch: Sequence[Delivery]) -> Outcome:
        """Export the batch in one call and say what the server did with it."""
        self._stub.delivered.clear()
        try:
            records = [log_record(delivery, self._limits) for delivery in batch]
            with self._lifeline.attempt():
                result = self.exporter.export(records)
        except Answered as answered:
            return answered.outcome
        except Exception as error:  # noqa: BLE001 - every fault of an exporter is an outcome
            return Outcome(Verdict.REFUSED, f"the exporter raised {type(error).__name__}: {one_line(str(error))}")
        if self._stub.delivered:
            return self._stub.delivered[-1]
        if result.name == "SUCCESS":
            return Outcome(Verdict.DELIVERED)
        return Outcome(Verdict.RETRY, "the exporter failed and no status was seen")

    def abort(self) -> None:
        """Cancel the call."""
        self._lifeline.abort()

    def close(self) -> None:
        """Shut the exporter down and close its channel."""
        with contextlib.suppress(Exception):
            self.exporter.shutdown()


class _ObservedStub:
    """Stands where the exporter keeps its ``LogsServiceStub``."""

    def __init__(self, stub: Any, lifeline: Lifeline) -> None:
        self._export = stub.Export
        self._lifeline = lifeline
        self.delivered: list[Outcome] = []

    def Export(self, request: Any, metadata: Any = None, timeout: float | None = None) -> Any:
        """The stub's one method; raises :class:`Answered` for every answer but OK."""
        if not self._lifeline.is_mine():
            return self._export(request, metadata=metadata, timeout=timeout)
        try:
            call = self._export.future(request, metadata=metadata, timeout=timeout)
            self._lifeline.hold(call.cancel)
            response = call.result()
        except grpc.RpcError as error:
            raise Answered(self._lifeline.cut_outcome() or outcome_of_status(error)) from error
        except grpc.FutureCancelledError as error:
            raise Answered(self._lifeline.cut_outcome() or Outcome(Verdict.RETRY, "gRPC CANCELLED")) from error
        except Exception as error:
            # Neither an answer nor about the data, which is encoded by now: what gRPC is called with.
            said = f"gRPC made no call: {type(error).__name__}: look at the headers"
            raise Answered(Outcome(Verdict.HOLD, said)) from error
        partial = response.partial_success
        reason = "gRPC OK"
        if partial.rejected_log_records > 0:
            reason += f": {partial.rejected_log_records} rejected: {one_line(partial.error_message)}"
        elif partial.error_message:
            reason += f": warning: {one_line(partial.error_message)}"
        self.delivered.append(Outcome(Verdict.DELIVERED, reason, rejected=max(0, partial.rejected_log_records)))
        return response


def outcome_of_status(error: Any) -> Outcome:
    """What a failed call means (OTLP specification, "Failures", and what receivers really answer)."""
    code, details = error.code().name, error.details() or ""
    reason = f"gRPC {code}: {one_line(details)}" if details else f"gRPC {code}"
    lower = details.lower()
    if "failed parsing http/2" in lower or "trying to connect an http1.x server" in lower:
        reason += "; the port does not speak gRPC: for OTLP over HTTP set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
    too_large = code == "RESOURCE_EXHAUSTED" and "larger than max" in lower
    unreadable = code == "INTERNAL" and any(word in lower for word in _UNREADABLE)
    if code == "INVALID_ARGUMENT" or too_large or unreadable:
        return Outcome(Verdict.REFUSED, reason)
    hold = code in _HOLD or (code == "INTERNAL" and "invalid metadata" in lower)
    return Outcome(Verdict.HOLD if hold else Verdict.RETRY, reason, retry_after_ns=_retry_info_ns(error))


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
