"""OTLP settings that OpenTelemetry Python's exporters raise on or misread, read once, with a word to the user.

What always holds: a value that is not allowed is named together with its variable and what is allowed, and
replaced by the default; nothing here raises. A variable that is set to nothing is not set (specification,
"Environment Variable Specification").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

Warn = Callable[[str], None]

_OTLP: Final = "OTEL_EXPORTER_OTLP_"
ENDPOINTS: Final = (f"{_OTLP}LOGS_ENDPOINT", f"{_OTLP}ENDPOINT")
TIMEOUTS: Final = (f"{_OTLP}LOGS_TIMEOUT", f"{_OTLP}TIMEOUT")
COMPRESSIONS: Final = (f"{_OTLP}LOGS_COMPRESSION", f"{_OTLP}COMPRESSION")
PROTOCOLS: Final = (f"{_OTLP}LOGS_PROTOCOL", f"{_OTLP}PROTOCOL")
CREDENTIAL_PROVIDERS: Final = (
    # OpenTelemetry Python asks the general one first.
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_LOGS_CREDENTIAL_PROVIDER",
)

DEFAULT_TIMEOUT_S: Final = 10.0
LONGEST_TIMEOUT_S: Final = 600.0
KINDS_OF_COMPRESSION: Final = ("none", "gzip", "deflate")


def first_set(environ: Mapping[str, str], *names: str) -> str | None:
    """The value of the first of the variables that is set to something."""
    return next((value for _, value in _set(environ, names)), None)


def _set(environ: Mapping[str, str], names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, environ[name].strip()) for name in names if environ.get(name, "").strip()]


def protocol(environ: Mapping[str, str], warn: Warn) -> str:
    """``grpc`` or ``http/protobuf``: what ``otlp`` stands for; gRPC by default, as in OpenTelemetry Python."""
    for name, value in _set(environ, PROTOCOLS):
        kind = value.lower()
        if kind in ("grpc", "http/protobuf"):
            return kind
        used = "http/protobuf" if kind.startswith("http") else "grpc"
        warn(f"{name}={value!r} is not allowed: give grpc or http/protobuf; {used} is used")
        return used
    return "grpc"


def timeout_ns(environ: Mapping[str, str], warn: Warn) -> int:
    """The OTLP timeout in nanoseconds; the variables are in seconds in OpenTelemetry Python, and users rely on it."""
    for name, value in _set(environ, TIMEOUTS):
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not seconds > 0 or math.isinf(seconds):
            warn(f"{name}={value!r} is not allowed: give seconds above 0, as 10; {DEFAULT_TIMEOUT_S:g} is used")
            seconds = DEFAULT_TIMEOUT_S
        elif seconds > LONGEST_TIMEOUT_S:
            warn(
                f"{name}={value!r} is in seconds in OpenTelemetry Python; did you mean milliseconds? "
                f"At most {LONGEST_TIMEOUT_S:g} is allowed, and used"
            )
            seconds = LONGEST_TIMEOUT_S
        return int(seconds * 1_000_000_000)
    return int(DEFAULT_TIMEOUT_S * 1_000_000_000)


def compression(environ: Mapping[str, str], warn: Warn) -> str:
    """``none`` (the default), ``gzip`` or ``deflate``."""
    for name, value in _set(environ, COMPRESSIONS):
        if value.lower() in KINDS_OF_COMPRESSION:
            return value.lower()
        warn(f"{name}={value!r} is not allowed: give {', '.join(KINDS_OF_COMPRESSION)}; none is used")
        return "none"
    return "none"


def without_timeouts(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without the timeout variables."""
    return {name: value for name, value in environ.items() if name not in TIMEOUTS}


def attempt_timeout_ns(environ: Mapping[str, str], warn: Warn) -> int:
    """``OTEL_BLRP_EXPORT_TIMEOUT`` (milliseconds, 30000 by default): what one attempt may take, nanoseconds."""
    for name, value in _set(environ, ("OTEL_BLRP_EXPORT_TIMEOUT",)):
        if value.isascii() and value.isdigit() and int(value) > 0:
            return int(value) * 1_000_000
        warn(f"{name}={value!r} is not allowed: give whole milliseconds above 0; 30000 is used")
    return 30_000 * 1_000_000
