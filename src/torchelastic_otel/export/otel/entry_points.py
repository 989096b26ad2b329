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
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.util._importlib_metadata import entry_points

from torchelastic_otel.export.destinations import EXPORTER_GROUPS, signal_of
from torchelastic_otel.export.otel import environment, otlp
from torchelastic_otel.export.otel.generic import GenericSender
from torchelastic_otel.export.otel.limits import limits_of, span_limits_of
from torchelastic_otel.export.otel.projection import Projection
from torchelastic_otel.export.otel.sender import ProjectingSender
from torchelastic_otel.export.sampling import sampler_of
from torchelastic_otel.model.signals import Signal

logger = logging.getLogger("torchelastic_otel")


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


def known_exporters(signal: Signal = Signal.LOGS) -> list[str]:
    """The names of the installed exporters of a signal, sorted; none is imported."""
    return sorted({point.name for point in entry_points(group=EXPORTER_GROUPS[signal])})


def make_sender(
    name: str,
    *,
    attempt_timeout_ns: int,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    signal: Signal = Signal.LOGS,
) -> ProjectingSender:
    """The sender of the exporter of that name: ``otlp``, or any entry point of ``opentelemetry_<signal>_exporter``.

    Args:
        name: ``otlp`` takes its protocol from ``OTEL_EXPORTER_OTLP_<SIGNAL>_PROTOCOL`` or ``..._PROTOCOL``; without
            one it is gRPC, which is what ``otlp`` means in OpenTelemetry Python.
        attempt_timeout_ns: How long one attempt may take, nanoseconds; a shorter OTLP timeout setting wins.
        environ: The process environment; the exporters themselves read ``os.environ``.
        warn: Takes one line for each setting that is not allowed and was replaced.
        signal: What it is to export.

    Raises:
        ExporterError: Not known, not for this signal, or its constructor failed.
    """
    if name == "otlp":
        name = otlp.NAMES[environment.protocol(environ, warn, signal)]
    try:
        if name in otlp.MAKERS:
            exporter = otlp.MAKERS[name](signal, attempt_timeout_ns, environ, warn)
            return sender_for(
                exporter,
                attempt_timeout_ns=attempt_timeout_ns,
                environ=environ,
                warn=warn,
                name=name,
                signal=signal,
            )
        return sender_for(
            _load(name, signal),
            attempt_timeout_ns=attempt_timeout_ns,
            environ=environ,
            warn=warn,
            name=name,
            signal=signal,
        )
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
    signal: Signal = Signal.LOGS,
) -> ProjectingSender:
    """The sender of an exporter that somebody has made; OpenTelemetry's own OTLP exporters are observed.

    Args:
        exporter: A push exporter of this signal, or anything with such an ``export(batch)``.
        attempt_timeout_ns: How long one attempt may take, nanoseconds (OTLP exporters only).
        environ: Where limits, sampler and exemplar filter are read.
        warn: Takes one line for each setting that is not allowed.
        name: What to call it in an error; its class by default.
        signal: What it is to export.

    Raises:
        ExporterError: It has no ``export``, or one for another signal.
    """
    name = name or type(exporter).__name__
    if isinstance(exporter, type) or not callable(getattr(exporter, "export", None)):
        raise ExporterError(name, f"has no export(); give a push exporter of {signal.value}, not a class or a reader")
    if _is_reader(type(exporter)) or signal_of(exporter) is not signal:
        raise ExporterError(name, f"exports {signal_of(exporter).value}; give an exporter of {signal.value}")
    projection = _projection(exporter, signal, environ, warn)
    http, grpc = (otlp.is_one(exporter, each, signal) for each in (otlp.HTTP, otlp.GRPC))
    if http:
        from torchelastic_otel.export.otel.http import HttpSender

        transport = getattr(getattr(exporter, "_client", None), "_transport", exporter)
        session = getattr(transport, "_session", None)
        if session is not None:
            return HttpSender(exporter, projection, session, attempt_timeout_ns=attempt_timeout_ns)
    if grpc and hasattr(getattr(exporter, "_client", None), "Export"):
        from torchelastic_otel.export.otel.grpc import GrpcSender

        return GrpcSender(exporter, projection, attempt_timeout_ns=attempt_timeout_ns)
    if http or grpc:
        logger.debug("%s is of a version whose responses cannot be seen: its own result is believed", name)
    return GenericSender(exporter, projection)


def _projection(
    exporter: Any, signal: Signal, environ: Mapping[str, str], warn: Callable[[str], None]
) -> Projection[Any]:
    if signal is Signal.TRACES:
        from torchelastic_otel.export.otel.spans import SpanProjection

        return SpanProjection(span_limits_of(environ, warn))
    keeps = sampler_of(environ, lambda what: None)  # the terms of delivery have said it
    if signal is Signal.METRICS:
        from torchelastic_otel.export.otel.metrics import MetricProjection, deltas_of, exemplars_of

        return MetricProjection(deltas_of(exporter), exemplars_of(environ, warn, keeps))
    from torchelastic_otel.export.otel.logs import LogProjection

    return LogProjection(limits_of(environ, warn), keeps)


def _is_reader(kind: Any) -> bool:
    return isinstance(kind, type) and any(base.__name__ == "MetricReader" for base in kind.__mro__)


def _load(name: str, signal: Signal) -> Any:
    points = list(entry_points(group=EXPORTER_GROUPS[signal], name=name))
    if not points:
        known = ", ".join(known_exporters(signal))
        for other, group in EXPORTER_GROUPS.items():
            if other is not signal and list(entry_points(group=group, name=name)):
                raise ExporterError(name, f"is of {group}, not for {signal.value}; known: {known}")
        raise ExporterError(name, f"is not installed; known: {known}")
    kind = points[0].load()
    if _is_reader(kind):
        # not even made: a reader of this kind opens a port
        raise ExporterError(name, "is a metric reader, which waits to be asked; give a push exporter, as otlp")
    return kind()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
