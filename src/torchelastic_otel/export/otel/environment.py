"""OTLP settings that OpenTelemetry Python's exporters raise on or misread, read once, with a word to the user.

What always holds: a value that is not allowed is named together with its variable and what is allowed, and
replaced by the default; nothing here raises. A variable that is set to nothing is not set (specification,
"Environment Variable Specification").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from torchelastic_otel.model.signals import Signal
from torchelastic_otel.units import NS_PER_S

Warn = Callable[[str], None]

_OTLP: Final = "OTEL_EXPORTER_OTLP_"
_ATTEMPT_TIMEOUTS: Final = {
    Signal.LOGS: "OTEL_BLRP_EXPORT_TIMEOUT",
    Signal.TRACES: "OTEL_BSP_EXPORT_TIMEOUT",
    Signal.METRICS: "OTEL_METRIC_EXPORT_TIMEOUT",
}


def variables(signal: Signal, what: str) -> tuple[str, str]:
    """The two variables of a setting: the signal's own, which goes first, and the general one."""
    return f"{_OTLP}{signal.name}_{what}", f"{_OTLP}{what}"


def credential_provider(environ: Mapping[str, str], signal: Signal) -> str | None:
    """The name of the credential provider for OTLP over HTTP."""
    prefix = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_"
    # OpenTelemetry Python asks the general one first.
    return first_set(environ, f"{prefix}CREDENTIAL_PROVIDER", f"{prefix}{signal.name}_CREDENTIAL_PROVIDER")


DEFAULT_TIMEOUT_S: Final = 10.0
MAX_TIMEOUT_S: Final = 600.0
COMPRESSIONS: Final = ("none", "gzip", "deflate")


def first_set(environ: Mapping[str, str], *names: str) -> str | None:
    """The value of the first of the variables that is set to something."""
    return next((value for _, value in _set(environ, names)), None)


def _set(environ: Mapping[str, str], names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, environ[name].strip()) for name in names if environ.get(name, "").strip()]


def protocol(environ: Mapping[str, str], warn: Warn, signal: Signal = Signal.LOGS) -> str:
    """``grpc`` or ``http/protobuf``: what ``otlp`` stands for; gRPC by default, as in OpenTelemetry Python."""
    for name, value in _set(environ, variables(signal, "PROTOCOL")):
        kind = value.lower()
        if kind in ("grpc", "http/protobuf"):
            return kind
        used = "http/protobuf" if kind.startswith("http") else "grpc"
        warn(f"{name}={value!r} is not allowed: give grpc or http/protobuf; {used} is used")
        return used
    return "grpc"


def timeout_ns(environ: Mapping[str, str], warn: Warn, signal: Signal = Signal.LOGS) -> int:
    """The OTLP timeout in nanoseconds; the variables are in seconds in OpenTelemetry Python, and users rely on it."""
    for name, value in _set(environ, variables(signal, "TIMEOUT")):
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not seconds > 0 or math.isinf(seconds):
            warn(f"{name}={value!r} is not allowed: give seconds above 0, as 10; {DEFAULT_TIMEOUT_S:g} is used")
            seconds = DEFAULT_TIMEOUT_S
        elif seconds > MAX_TIMEOUT_S:
            warn(
                f"{name}={value!r} is in seconds in OpenTelemetry Python; did you mean milliseconds? "
                f"At most {MAX_TIMEOUT_S:g} is allowed, and used"
            )
            seconds = MAX_TIMEOUT_S
        return int(seconds * NS_PER_S)
    return int(DEFAULT_TIMEOUT_S * NS_PER_S)


def compression(environ: Mapping[str, str], warn: Warn, signal: Signal = Signal.LOGS) -> str:
    """``none`` (the default), ``gzip`` or ``deflate``."""
    for name, value in _set(environ, variables(signal, "COMPRESSION")):
        if value.lower() in COMPRESSIONS:
            return value.lower()
        warn(f"{name}={value!r} is not allowed: give {', '.join(COMPRESSIONS)}; none is used")
        return "none"
    return "none"


def without_timeouts(environ: Mapping[str, str], signal: Signal) -> dict[str, str]:
    """The environment without the timeout variables."""
    return {name: value for name, value in environ.items() if name not in variables(signal, "TIMEOUT")}


def attempt_timeout_ns(environ: Mapping[str, str], warn: Warn, signal: Signal = Signal.LOGS) -> int:
    """What one attempt may take, nanoseconds: ``OTEL_BLRP_EXPORT_TIMEOUT``, ``OTEL_BSP_...``, ``OTEL_METRIC_...``.

    They are in milliseconds, 30000 by default.
    """
    for name, value in _set(environ, (_ATTEMPT_TIMEOUTS[signal],)):
        if value.isascii() and value.isdigit() and int(value) > 0:
            return int(value) * 1_000_000
        warn(f"{name}={value!r} is not allowed: give whole milliseconds above 0; 30000 is used")
    return 30_000 * 1_000_000


def with_attempt_timeout(environ: Mapping[str, str], timeout_s: float) -> dict[str, str]:
    """The environment with this limit, seconds, on every attempt."""
    milliseconds = str(max(1, int(timeout_s * 1_000)))
    return {**environ, **dict.fromkeys(_ATTEMPT_TIMEOUTS.values(), milliseconds)}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a signal goes by OTLP.

    Attributes:
        url: As the environment names it, or the default.
        protocol: ``grpc`` or ``http/protobuf``.
        named: The variable that names it; ``None`` for the default.
    """

    url: str
    protocol: str
    variable: str | None


def resolve_endpoint(signal: Signal, protocol: str, environ: Mapping[str, str]) -> Endpoint:
    """Where the environment sends a signal by OTLP over this protocol.

    OpenTelemetry specification, "OpenTelemetry Protocol Exporter": the path is added to the general endpoint only.
    """
    own, general = variables(signal, "ENDPOINT")
    path = "" if protocol == "grpc" else f"/v1/{signal.value}"
    for name, value in _set(environ, (own, general)):
        return Endpoint(value if name == own else f"{value.rstrip('/')}{path}" if path else value, protocol, name)
    return Endpoint(f"http://localhost:{4317 if protocol == 'grpc' else 4318}{path}", protocol, None)
