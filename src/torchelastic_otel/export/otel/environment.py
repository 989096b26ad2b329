"""OTLP settings that OpenTelemetry Python's exporters raise on or misread, read once.

Guarantees: a value that is not allowed is a warning with its variable and what is allowed, and the default applies;
nothing here raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torchelastic_otel.export.config import Warn, one_of, positive, read_variable
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.units import NS_PER_MS, NS_PER_S

_OTLP: Final = "OTEL_EXPORTER_OTLP_"
_ATTEMPT_TIMEOUTS: Final = {
    Signal.LOGS: "OTEL_BLRP_EXPORT_TIMEOUT",
    Signal.TRACES: "OTEL_BSP_EXPORT_TIMEOUT",
    Signal.METRICS: "OTEL_METRIC_EXPORT_TIMEOUT",
}
DEFAULT_TIMEOUT_S: Final = 10.0
MAX_TIMEOUT_S: Final = 600.0
COMPRESSIONS: Final = ("none", "gzip", "deflate")


def variables(signal: Signal, setting: str) -> tuple[str, str]:
    """The two variables of a setting: the signal's own, which has precedence, and the general one."""
    return f"{_OTLP}{signal.name}_{setting}", f"{_OTLP}{setting}"


def credential_provider(environ: Mapping[str, str], signal: Signal) -> str | None:
    """The name of the credential provider for OTLP over HTTP."""
    prefix = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_"
    # OpenTelemetry Python prefers the general one
    names = (f"{prefix}CREDENTIAL_PROVIDER", f"{prefix}{signal.name}_CREDENTIAL_PROVIDER")
    return next((value for _, value in _set(environ, names)), None)


def _set(environ: Mapping[str, str], names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, environ[name].strip()) for name in names if environ.get(name, "").strip()]


def protocol(environ: Mapping[str, str], warn: Warn, signal: Signal = Signal.LOGS) -> str:
    """``grpc`` or ``http/protobuf``, for ``otlp``; gRPC by default, as in OpenTelemetry Python."""
    allowed, names = ("grpc", "http/protobuf"), variables(signal, "PROTOCOL")
    given = next((value for _, value in _set(environ, names)), "")
    default = "http/protobuf" if given.lower().startswith("http") else "grpc"
    return read_variable(environ, names, one_of(*allowed), " or ".join(allowed), default, warn)


def timeout_ns(environ: Mapping[str, str], warn: Warn, signal: Signal = Signal.LOGS) -> int:
    """The OTLP timeout in nanoseconds; the variables are in seconds in OpenTelemetry Python, and users rely on it."""

    def parse(text: str) -> float:
        if not float(text) > 0 or math.isinf(float(text)):
            raise ValueError(text)
        return float(text)

    names = variables(signal, "TIMEOUT")
    seconds = read_variable(environ, names, parse, "seconds above 0, for example 10", DEFAULT_TIMEOUT_S, warn)
    if seconds > MAX_TIMEOUT_S:
        name, value = _set(environ, names)[0]
        warn(
            f"{name}={value!r} is in seconds in OpenTelemetry Python; did you mean milliseconds?"
            f" allowed: at most {MAX_TIMEOUT_S:g}; using {MAX_TIMEOUT_S:g}"
        )
    return int(min(seconds, MAX_TIMEOUT_S) * NS_PER_S)


def compression(environ: Mapping[str, str], warn: Warn, signal: Signal = Signal.LOGS) -> str:
    """``none`` (the default), ``gzip`` or ``deflate``."""
    names = variables(signal, "COMPRESSION")
    return read_variable(environ, names, one_of(*COMPRESSIONS), ", ".join(COMPRESSIONS), "none", warn)


def without_timeouts(environ: Mapping[str, str], signal: Signal) -> dict[str, str]:
    """The environment without the timeout variables."""
    return {name: value for name, value in environ.items() if name not in variables(signal, "TIMEOUT")}


def attempt_timeout_ns(environ: Mapping[str, str], warn: Warn, signal: Signal = Signal.LOGS) -> int:
    """How long one attempt may take, nanoseconds: ``OTEL_BLRP_EXPORT_TIMEOUT``, ``OTEL_BSP_...``, ``OTEL_METRIC_...``.

    They are in milliseconds, 30000 by default.
    """
    names = (_ATTEMPT_TIMEOUTS[signal],)
    return read_variable(environ, names, positive, "whole milliseconds above 0", 30_000, warn) * NS_PER_MS


def with_attempt_timeout(environ: Mapping[str, str], timeout_s: float) -> dict[str, str]:
    """The environment with this limit, seconds, for every attempt."""
    milliseconds = str(max(1, int(timeout_s * 1_000)))
    return {**environ, **dict.fromkeys(_ATTEMPT_TIMEOUTS.values(), milliseconds)}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The OTLP endpoint of a signal.

    Attributes:
        url: The URL of the environment, or the default.
        protocol: ``grpc`` or ``http/protobuf``.
        variable: The variable that sets it; ``None`` for the default.
    """

    url: str
    protocol: str
    variable: str | None


def resolve_endpoint(signal: Signal, protocol: str, environ: Mapping[str, str]) -> Endpoint:
    """The endpoint of a signal over this protocol.

    OpenTelemetry specification, "OpenTelemetry Protocol Exporter": the path is added to the general endpoint only.
    """
    own, general = variables(signal, "ENDPOINT")
    path = "" if protocol == "grpc" else f"/v1/{signal.value}"
    for name, value in _set(environ, (own, general)):
        return Endpoint(value if name == own else f"{value.rstrip('/')}{path}" if path else value, protocol, name)
    return Endpoint(f"http://localhost:{4317 if protocol == 'grpc' else 4318}{path}", protocol, None)
