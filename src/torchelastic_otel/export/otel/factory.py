"""Senders of the configured exporters: built-in ones, OpenTelemetry's entry points, and instances.

Guarantees:

- Importing this module loads no exporter (nor grpc, nor requests): an exporter is imported when its sender is made, on
  the thread that makes it, and the import of one never delays another.
- An exporter that cannot be used is an :class:`ExporterError` of one line with the reason and what is allowed.
- Settings that OpenTelemetry Python's exporters raise on, or misread, are replaced by explicit arguments
  (:mod:`~.environment`); everything else they read from the process environment themselves.

Modules of the SDK import each other in circles, which fails when threads import them at the same time
(``_DeadlockError``): they are imported here, before any thread starts.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import opentelemetry.sdk._logs.export
import opentelemetry.sdk.metrics.export
import opentelemetry.sdk.trace.export  # noqa: F401 - see above
from opentelemetry.util._importlib_metadata import entry_points

from torchelastic_otel.errors import ExporterError
from torchelastic_otel.export.config import make_sampler
from torchelastic_otel.export.destinations import BUILT_IN_EXPORTERS, EXPORTER_GROUPS, Exporter, signal_of
from torchelastic_otel.export.otel import environment, otlp
from torchelastic_otel.export.otel.generic import GenericSender
from torchelastic_otel.export.otel.limits import log_limits, span_limits
from torchelastic_otel.export.otel.projection import Projection, load_codecs
from torchelastic_otel.export.otel.sender import ProjectingSender
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.settings import Settings

logger = logging.getLogger("torchelastic_otel")


def known_exporters(signal: Signal = Signal.LOGS) -> list[str]:
    """The names of the installed exporters of a signal, sorted; none is imported."""
    return sorted({point.name for point in entry_points(group=EXPORTER_GROUPS[signal])})


def preload(exporters: Iterable[Exporter], environ: Mapping[str, str]) -> None:
    """Import the modules of OpenTelemetry and of this package that :func:`make_sender` needs; never raises.

    Modules of other packages are not imported here: a slow import must not delay another exporter.
    """
    modules = {"logs", "spans", "metrics"}
    for exporter in exporters:
        name = otlp.resolve_name(exporter.name, environ, lambda what: None, exporter.signal)
        built_in = BUILT_IN_EXPORTERS.get(name)
        if exporter.instance is None and built_in is not None:
            modules.add(built_in.module)
            if name == "file" or name in otlp.EXPORTERS:
                with contextlib.suppress(Exception):  # an incompatible protobuf raises TypeError
                    load_codecs(exporter.signal)
            if name in otlp.EXPORTERS:
                with contextlib.suppress(Exception):
                    otlp.load(name, exporter.signal)
    for module in sorted(modules):
        with contextlib.suppress(Exception):
            importlib.import_module(f"{__package__}.{module}")


def make_sender(
    exporter: Exporter,
    environ: Mapping[str, str],
    warn: Callable[[str], None] = logger.warning,
    *,
    settings: Settings | None = None,
    folder: Path | None = None,
) -> ProjectingSender:
    """The sender of an exporter; OpenTelemetry's own OTLP exporters are observed, also those given as instances.

    Args:
        exporter: The exporter. ``otlp`` takes its protocol from ``OTEL_EXPORTER_OTLP_<SIGNAL>_PROTOCOL`` or
            ``..._PROTOCOL``; without one it is gRPC, as in OpenTelemetry Python.
        environ: The process environment; the exporters themselves read ``os.environ``.
        warn: Receives one line for each setting that is not allowed and was replaced.
        settings: This package's settings.
        folder: The user's spool folder; ``None`` if there is none.

    Raises:
        ExporterError: The exporter is not known, is of another signal, or its constructor failed.
    """
    signal, instance = exporter.signal, exporter.instance
    timeout_ns = environment.attempt_timeout_ns(environ, warn, signal)
    name = otlp.resolve_name(exporter.name, environ, warn, signal)
    try:
        if instance is None:
            if name in otlp.EXPORTERS:
                instance = otlp.EXPORTERS[name](signal, timeout_ns, environ, warn)
            elif name in BUILT_IN_EXPORTERS:
                instance = _built_in(name, signal, settings or Settings(), folder)
            else:
                instance = _from_entry_point(name, signal)
        return _sender(name, instance, signal, timeout_ns, environ, warn)
    except ExporterError:
        raise
    except ImportError as error:
        raise ExporterError(name, f"cannot be imported: {_one_line(error)}") from error
    except Exception as error:
        raise ExporterError(name, f"its constructor failed: {type(error).__name__}: {_one_line(error)}") from error


def _built_in(name: str, signal: Signal, settings: Settings, folder: Path | None) -> Any:
    kind = importlib.import_module(f"{__package__}.{BUILT_IN_EXPORTERS[name].module}").EXPORTERS[signal]
    if name != "file":
        return kind()
    if not settings.file_dir and folder is None:
        raise ExporterError(name, "there is no spool directory here; set TORCHELASTIC_OTEL_FILE_DIR")
    return kind(Path(settings.file_dir) if settings.file_dir else Path(str(folder)) / "otlp")


def _from_entry_point(name: str, signal: Signal) -> Any:
    points = list(entry_points(group=EXPORTER_GROUPS[signal], name=name))
    if not points:
        known = ", ".join(known_exporters(signal))
        for other, group in EXPORTER_GROUPS.items():
            if other is not signal and list(entry_points(group=group, name=name)):
                raise ExporterError(name, f"is of {group}, not for {signal.value}; known: {known}")
        raise ExporterError(name, f"is not installed; known: {known}")
    kind = points[0].load()
    if _is_reader(kind):
        # not constructed: this reader opens a port
        raise ExporterError(name, "is a metric reader, which is pulled from; give a push exporter, for example otlp")
    return kind()


def _sender(
    name: str,
    exporter: Any,
    signal: Signal,
    timeout_ns: int,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
) -> ProjectingSender:
    if isinstance(exporter, type) or not callable(getattr(exporter, "export", None)):
        raise ExporterError(name, f"has no export(); give a push exporter of {signal.value}, not a class or a reader")
    if _is_reader(type(exporter)) or signal_of(exporter) is not signal:
        raise ExporterError(name, f"exports {signal_of(exporter).value}; give an exporter of {signal.value}")
    projection = _projection(exporter, signal, environ, warn)
    http, grpc = (otlp.is_exporter(exporter, each, signal) for each in (otlp.HTTP, otlp.GRPC))
    client = getattr(exporter, "_client", None)
    if http:
        from torchelastic_otel.export.otel.http import HttpSender

        session = getattr(getattr(client, "_transport", exporter), "_session", None)
        if session is not None:
            return HttpSender(exporter, projection, session, attempt_timeout_ns=timeout_ns)
    if grpc and hasattr(client, "Export"):
        from torchelastic_otel.export.otel.grpc import GrpcSender

        return GrpcSender(exporter, projection, attempt_timeout_ns=timeout_ns)
    if http or grpc:
        logger.debug("%s is of a version whose responses cannot be observed: its own result is used", name)
    return GenericSender(exporter, projection)


def _projection(exporter: Any, signal: Signal, environ: Mapping[str, str], warn: Callable[[str], None]) -> Projection:
    sampler = make_sampler(environ, lambda what: None)  # export_config() has warned
    if signal is Signal.TRACES:
        from torchelastic_otel.export.otel.spans import readable_span

        of_spans = span_limits(environ, warn)
        return Projection(signal, lambda batch: [readable_span(each, of_spans) for each in batch])
    if signal is Signal.METRICS:
        from torchelastic_otel.export.otel.metrics import delta_kinds, empty_metrics, exemplar_sampler, metrics_data

        kinds, exemplars = delta_kinds(exporter), exemplar_sampler(environ, warn, sampler)
        return Projection(signal, lambda batch: metrics_data(batch, kinds, exemplars), empty_metrics(), kinds)
    from torchelastic_otel.export.otel.logs import log_record

    of_logs = log_limits(environ, warn)
    return Projection(signal, lambda batch: [log_record(each, of_logs, sampler) for each in batch])


def _is_reader(kind: Any) -> bool:
    return isinstance(kind, type) and any(base.__name__ == "MetricReader" for base in kind.__mro__)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
