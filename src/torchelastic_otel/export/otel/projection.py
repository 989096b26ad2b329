"""What differs between the signals on their way through an exporter; everything else is the same for all three.

Guarantees: a projection is pure; importing this module loads no protobuf, no exporter and no transport.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from torchelastic_otel import semconv
from torchelastic_otel.model.metric import Kind
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.version import __version__

SCOPE: Final = InstrumentationScope(semconv.SCOPE_NAME, __version__, semconv.SCHEMA_URL)

_ENCODERS: Final = {
    Signal.LOGS: ("_log_encoder", "encode_logs"),
    Signal.TRACES: ("trace_encoder", "encode_spans"),
    Signal.METRICS: ("metrics_encoder", "encode_metrics"),
}
_RESPONSES: Final = {
    Signal.LOGS: ("logs", "ExportLogsServiceResponse"),
    Signal.TRACES: ("trace", "ExportTraceServiceResponse"),
    Signal.METRICS: ("metrics", "ExportMetricsServiceResponse"),
}
_REJECTED: Final = {
    Signal.LOGS: "rejected_log_records",
    Signal.TRACES: "rejected_spans",
    Signal.METRICS: "rejected_data_points",
}
"""OTLP specification, "Partial Success"."""


def encode(signal: Signal, data: Any) -> Any:
    """The OTLP request of what ``export()`` takes; raises whatever OpenTelemetry's encoder raises."""
    module, function = _ENCODERS[signal]
    return getattr(import_module(f"opentelemetry.exporter.otlp.proto.common.{module}"), function)(data)


def load_codecs(signal: Signal) -> None:
    """Import what :func:`encode` and :func:`empty_response` need, before a program's threads import, too."""
    import_module(f"opentelemetry.exporter.otlp.proto.common.{_ENCODERS[signal][0]}")
    package = _RESPONSES[signal][0]
    import_module(f"opentelemetry.proto.collector.{package}.v1.{package}_service_pb2")


def empty_response(signal: Signal) -> Any:
    """An empty OTLP response (protobuf)."""
    package, kind = _RESPONSES[signal]
    return getattr(import_module(f"opentelemetry.proto.collector.{package}.v1.{package}_service_pb2"), kind)()


def rejected_count(signal: Signal, response: Any) -> int:
    """How many items the receiver rejected, by its OTLP response."""
    return max(0, int(getattr(response.partial_success, _REJECTED[signal])))


@dataclass(frozen=True, slots=True)
class Projection:
    """From what the pipeline sends to what an exporter of one signal takes.

    Attributes:
        signal: The signal.
        project: Makes of a batch what ``export()`` takes; raises ``ValueError`` for what OTLP cannot express.
        empty: An empty batch, as ``export()`` takes it.
        delta_kinds: Instruments that are sent as deltas; metrics only.
    """

    signal: Signal
    project: Callable[[Any], Any]
    empty: Any = ()
    delta_kinds: frozenset[Kind] = frozenset()


def fixed64(time_ns: int | None) -> int | None:
    """The time, if OTLP can express it; a replayed one may be anything."""
    return time_ns if time_ns is not None and 0 < time_ns < 1 << 64 else None


def encodable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes, with an integer beyond 64 bits as text: one such would make a receiver reject its whole batch."""
    return {
        key: str(value) if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63 else value
        for key, value in attributes.items()
    }
