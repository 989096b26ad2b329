"""From the name of an exporter, or an exporter, to its sender.

What always holds:

- Importing this module, and asking which exporters are known, loads none of them (nor grpc, nor requests).
- An exporter that cannot be had is an :class:`ExporterError` of one line that says why and what is allowed.
- Settings that OpenTelemetry Python's exporters raise on, or misread, are repaired here by explicit arguments
  (:mod:`~.environment`); everything else they read from the process environment themselves.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Final

from opentelemetry.util._importlib_metadata import entry_points

from torchelastic_otel.deliver.otel import environment
from torchelastic_otel.deliver.otel.logs import limits_of
from torchelastic_otel.deliver.otel.plain import PlainSender
from torchelastic_otel.deliver.outcome import Sender

logger = logging.getLogger("torchelastic_otel")

GROUP: Final = "opentelemetry_logs_exporter"
_HTTP: Final = "otlp_proto_http"
_GRPC: Final = "otlp_proto_grpc"
_HTTP_MODULE: Final = "opentelemetry.exporter.otlp.proto.http._log_exporter"
_GRPC_MODULE: Final = "opentelemetry.exporter.otlp.proto.grpc._log_exporter"
_OTHER_SIGNALS: Final = ("opentelemetry_metrics_exporter", "opentelemetry_traces_exporter")
_NOT_FOR_LOGS: Final = frozenset({"SpanExporter", "MetricExporter", "MetricReader"})


class ExporterError(Exception):
    """An exporter that cannot be used.

    Attributes:
        name: Its name, as it was given.
        why: What is wrong and what is allowed, one line.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"exporter {name!r}: {why}")
        self.name = name
        self.why = why


def known_exporters() -> list[str]:
    """The names of the installed log exporters, sorted; none is imported."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def make_sender(
    name: str, *, attempt_timeout_ns: int, environ: Mapping[str, str], warn: Callable[[str], None]
) -> Sender:
    """The sender of the exporter of that name: ``otlp``, or any entry point of ``opentelemetry_logs_exporter``.

    Args:
        name: ``otlp`` takes its protocol from ``OTEL_EXPORTER_OTLP_LOGS_PROTOCOL`` or ``..._PROTOCOL``; without
            one it is gRPC, which is what ``otlp`` means in OpenTelemetry Python.
        attempt_timeout_ns: How long one attempt may take, nanoseconds; a shorter OTLP timeout setting wins.
        environ: The process environment; the exporters themselves read ``os.environ``.
        warn: Takes one line for each setting that is not allowed and was replaced.

    Raises:
        ExporterError: Not known, not for logs, or its constructor failed.
    """
    if name == "otlp":
        name = {"grpc": _GRPC, "http/protobuf": _HTTP}[environment.protocol(environ, warn)]
    try:
        if name == _HTTP:
            return _make_http(attempt_timeout_ns, environ, warn)
        if name == _GRPC:
            return _make_grpc(attempt_timeout_ns, environ, warn)
        return sender_for(_load(name), attempt_timeout_ns=attempt_timeout_ns, environ=environ, warn=warn, name=name)
    except ExporterError:
        raise
    except ImportError as error:
        raise ExporterError(name, f"cannot be imported: {_one_line(error)}") from error
    except Exception as error:
        raise ExporterError(name, f"its constructor failed: {type(error).__name__}: {_one_line(error)}") from error


def sender_for(
    exporter: Any,
    *,
    attempt_timeout_ns: int,
    environ: Mapping[str, str] = os.environ,
    warn: Callable[[str], None] = logger.warning,
    name: str | None = None,
) -> Sender:
    """The sender of an exporter that somebody has made; OpenTelemetry's own OTLP exporters are observed.

    Args:
        exporter: A push exporter of log records, or anything with such an ``export(records)``.
        attempt_timeout_ns: How long one attempt may take, nanoseconds (OTLP exporters only).
        environ: Where the attribute limits are read.
        warn: Takes one line for each setting that is not allowed.
        name: What to call it in an error; its class by default.

    Raises:
        ExporterError: It has no ``export``, or one for spans or metrics.
    """
    name = name or type(exporter).__name__
    if isinstance(exporter, type) or not callable(getattr(exporter, "export", None)):
        raise ExporterError(name, "has no export(); give a push exporter of log records, not a class or a reader")
    if any(base.__name__ in _NOT_FOR_LOGS for base in type(exporter).__mro__):
        raise ExporterError(name, "exports spans or metrics; give an exporter of log records")
    limits = limits_of(environ, warn)
    # Its class is loaded if it is one of these; asking this way loads neither.
    http, grpc = (getattr(sys.modules.get(module), "OTLPLogExporter", ()) for module in (_HTTP_MODULE, _GRPC_MODULE))
    if isinstance(exporter, http):
        from torchelastic_otel.deliver.otel.http import HttpSender

        transport = getattr(getattr(exporter, "_client", None), "_transport", exporter)
        session = getattr(transport, "_session", None)
        if session is not None:
            return HttpSender(exporter, session, attempt_timeout_ns=attempt_timeout_ns, limits=limits)
    if isinstance(exporter, grpc) and hasattr(getattr(exporter, "_client", None), "Export"):
        from torchelastic_otel.deliver.otel.grpc import GrpcSender

        return GrpcSender(exporter, attempt_timeout_ns=attempt_timeout_ns, limits=limits)
    if isinstance(exporter, (http, grpc)):
        logger.debug("%s is of a version whose responses cannot be seen: its own result is believed", name)
    return PlainSender(exporter, limits=limits)


def _load(name: str) -> Any:
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        for group in _OTHER_SIGNALS:
            if list(entry_points(group=group, name=name)):
                raise ExporterError(name, f"is of {group}, not for logs; known: {', '.join(known_exporters())}")
        raise ExporterError(name, f"is not installed; known: {', '.join(known_exporters())}")
    return points[0].load()()


def _make_http(attempt_timeout_ns: int, environ: Mapping[str, str], warn: Callable[[str], None]) -> Sender:
    import requests
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    from torchelastic_otel.deliver.otel.http import HttpSender

    timeout_ns = min(attempt_timeout_ns, environment.timeout_ns(environ, warn))
    provider = environment.first_set(environ, *environment.CREDENTIAL_PROVIDERS)
    session = _credentials(provider, requests.Session) if provider else requests.Session()
    exporter = OTLPLogExporter(
        session=session,
        timeout=timeout_ns / 1e9,
        compression=Compression(environment.compression(environ, warn)),
    )
    return HttpSender(exporter, session, attempt_timeout_ns=timeout_ns, limits=limits_of(environ, warn))


def _make_grpc(attempt_timeout_ns: int, environ: Mapping[str, str], warn: Callable[[str], None]) -> Sender:
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

    from torchelastic_otel.deliver.otel.grpc import CHANNEL_OPTIONS, GrpcSender

    timeout_ns = min(attempt_timeout_ns, environment.timeout_ns(environ, warn))
    kind = environment.compression(environ, warn)
    compression = {
        "none": grpc.Compression.NoCompression,
        "gzip": grpc.Compression.Gzip,
        "deflate": grpc.Compression.Deflate,
    }[kind]
    exporter = _reading(OTLPLogExporter, environment.without_timeouts(os.environ))(
        endpoint=environment.first_set(environ, *environment.ENDPOINTS) or "http://localhost:4317",
        timeout=timeout_ns / 1e9,
        compression=compression,
        channel_options=CHANNEL_OPTIONS,
    )
    return GrpcSender(exporter, attempt_timeout_ns=timeout_ns, limits=limits_of(environ, warn))


def _reading(exporter: Any, environ: Mapping[str, str]) -> Any:
    """The exporter's class, with a constructor that reads this environment in place of the process's own.

    OpenTelemetry Python 1.45's gRPC log exporter parses ``OTEL_EXPORTER_OTLP_LOGS_TIMEOUT`` before it looks at its
    own ``timeout`` argument, and raises on ``10s``; the process environment is not ours to change.
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
    """What the credential provider of that name makes (OpenTelemetry Python's own entry-point group)."""
    points = list(entry_points(group="opentelemetry_otlp_credential_provider", name=name))
    if not points:
        raise LookupError(f"credential provider {name!r} is not installed")
    made = points[0].load()()
    if not isinstance(made, kind):
        raise TypeError(f"credential provider {name!r} made a {type(made).__name__}, not a {kind.__name__}")
    return made


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
