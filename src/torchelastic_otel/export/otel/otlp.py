"""OpenTelemetry's OTLP exporters of every signal, over both transports; settings that they misread are corrected.

Guarantees: importing this module, and checking whether an object is such an exporter, loads none of them.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Final

from opentelemetry.util._importlib_metadata import entry_points

from torchelastic_otel.export.otel import environment
from torchelastic_otel.model.signals import Signal

HTTP: Final = "otlp_proto_http"
GRPC: Final = "otlp_proto_grpc"
NAMES: Final = {"grpc": GRPC, "http/protobuf": HTTP}
"""The exporter of each protocol."""
_PACKAGES: Final = {HTTP: "opentelemetry.exporter.otlp.proto.http", GRPC: "opentelemetry.exporter.otlp.proto.grpc"}
_CLASSES: Final = {
    Signal.LOGS: ("_log_exporter", "OTLPLogExporter"),
    Signal.TRACES: ("trace_exporter", "OTLPSpanExporter"),
    Signal.METRICS: ("metric_exporter", "OTLPMetricExporter"),
}
"""Module and class, in each of their packages."""

_import_lock = threading.Lock()  # signals have threads, and circular imports fail on several threads at once


def resolve_name(name: str, environ: Mapping[str, str], warn: Callable[[str], None], signal: Signal) -> str:
    """The exporter that a name stands for: ``otlp`` is the one of the configured protocol."""
    return NAMES[environment.protocol(environ, warn, signal)] if name == "otlp" else name


def is_exporter(exporter: Any, name: str, signal: Signal) -> bool:
    """Whether an object is OpenTelemetry's OTLP exporter of this name and signal."""
    module, kind = _CLASSES[signal]
    # if it is one, its class is loaded
    found = getattr(sys.modules.get(f"{_PACKAGES[name]}.{module}"), kind, None)
    return found is not None and isinstance(exporter, found)


def load(name: str, signal: Signal) -> Any:
    """The class of OpenTelemetry's OTLP exporter of this name and signal."""
    module, kind = _CLASSES[signal]
    with _import_lock:
        return getattr(importlib.import_module(f"{_PACKAGES[name]}.{module}"), kind)


def _make_http(signal: Signal, attempt_timeout_ns: int, environ: Mapping[str, str], warn: Callable[[str], None]) -> Any:
    import requests
    from opentelemetry.exporter.otlp.proto.http import Compression

    provider = environment.credential_provider(environ, signal)
    return load(HTTP, signal)(
        session=_credentials(provider, requests.Session) if provider else requests.Session(),
        timeout=min(attempt_timeout_ns, environment.timeout_ns(environ, warn, signal)) / 1e9,
        compression=Compression(environment.compression(environ, warn, signal)),
    )


def _make_grpc(signal: Signal, attempt_timeout_ns: int, environ: Mapping[str, str], warn: Callable[[str], None]) -> Any:
    import grpc

    from torchelastic_otel.export.otel.grpc import CHANNEL_OPTIONS

    compression = {
        "none": grpc.Compression.NoCompression,
        "gzip": grpc.Compression.Gzip,
        "deflate": grpc.Compression.Deflate,
    }[environment.compression(environ, warn, signal)]
    return _with_environ(load(GRPC, signal), environment.without_timeouts(os.environ, signal))(
        endpoint=environment.resolve_endpoint(signal, "grpc", environ).url,
        timeout=min(attempt_timeout_ns, environment.timeout_ns(environ, warn, signal)) / 1e9,
        compression=compression,
        channel_options=CHANNEL_OPTIONS,
    )


EXPORTERS: Final = {HTTP: _make_http, GRPC: _make_grpc}


def _with_environ(exporter: Any, environ: Mapping[str, str]) -> Any:
    """The exporter's class, with a constructor that reads this environment instead of the process's.

    OpenTelemetry Python 1.45's gRPC exporters parse ``OTEL_EXPORTER_OTLP_<SIGNAL>_TIMEOUT`` before they look at
    their own ``timeout`` argument, and raise on ``10s``; the process environment must not be changed.
    """
    init = exporter.__init__
    if not isinstance(init, FunctionType) or "environ" not in init.__globals__:
        return exporter
    own = FunctionType(
        init.__code__, {**init.__globals__, "environ": environ}, init.__name__, init.__defaults__, init.__closure__
    )
    own.__kwdefaults__ = init.__kwdefaults__
    return type(exporter.__name__, (exporter,), {"__init__": own})


def _credentials(name: str, kind: type) -> Any:
    """The credentials of a provider (OpenTelemetry Python's own entry-point group)."""
    points = list(entry_points(group="opentelemetry_otlp_credential_provider", name=name))
    if not points:
        raise LookupError(f"credential provider {name!r} is not installed")
    made = points[0].load()()
    if not isinstance(made, kind):
        raise TypeError(f"credential provider {name!r} made a {type(made).__name__}, not a {kind.__name__}")
    return made
