"""From a registry's exporter to its sender: the built-in ones, and all others by OpenTelemetry's entry points.

What always holds: only the exporter that is asked for is imported, on the thread that asks; a package's own never holds
up another exporter. The SDK's modules import each other in circles, which threads that import at once are refused
(``_DeadlockError``): they are loaded here, before any.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import opentelemetry.sdk._logs.export
import opentelemetry.sdk.metrics.export
import opentelemetry.sdk.trace.export  # noqa: F401 - see above

from torchelastic_otel.export.destinations import Exporter
from torchelastic_otel.export.otel import entry_points, environment, otlp
from torchelastic_otel.export.otel.sender import ProjectingSender
from torchelastic_otel.settings import Settings


def _console_line(exporter: Exporter, settings: Settings, folder: Path | None) -> Any:
    from torchelastic_otel.export.otel.console import ConsoleLineExporter

    return ConsoleLineExporter()


def _file(exporter: Exporter, settings: Settings, folder: Path | None) -> Any:
    from torchelastic_otel.export.otel import file

    if not settings.file_dir and folder is None:
        raise entry_points.ExporterError("file", "there is no folder for spools here; set TORCHELASTIC_OTEL_FILE_DIR")
    directory = Path(settings.file_dir) if settings.file_dir else Path(str(folder)) / "otlp"
    return file.EXPORTERS[exporter.signal](directory)


def _memory(exporter: Exporter, settings: Settings, folder: Path | None) -> Any:
    from torchelastic_otel.export.otel import memory

    return memory.EXPORTERS[exporter.signal]()


def _sdk(exporter: Exporter, settings: Settings, folder: Path | None) -> Any:
    from torchelastic_otel.export.otel.sdk_bridge import ApplicationLogs

    return ApplicationLogs()


_BUILT_IN: Final[Mapping[str, Callable[[Exporter, Settings, Path | None], Any]]] = {
    "console_line": _console_line,
    "file": _file,
    "memory": _memory,
    "sdk": _sdk,
}

_MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "console_line": ("console",),
    "file": ("file",),
    "memory": ("memory",),
    "sdk": ("application",),
    otlp.HTTP: ("http",),
    otlp.GRPC: ("grpc",),
}
"""What of this room an exporter needs beyond what all need."""


def load(wanted: Iterable[Exporter], environ: Mapping[str, str]) -> None:
    """Import what :func:`make` will need of OpenTelemetry's and ours; what cannot be had is said when it is made.

    Not what other packages bring: whatever they do when they are imported, no other exporter waits for it.
    """
    needed = {"logs", "spans", "metrics"}
    for exporter in wanted:
        name = exporter.name
        if name == "otlp":
            name = otlp.NAMES[environment.protocol(environ, lambda what: None, exporter.signal)]
        if exporter.instance is None and name in _MODULES:
            needed.update(_MODULES[name])
            if name in otlp.MAKERS:
                with contextlib.suppress(ImportError):
                    otlp.load(name, exporter.signal)
    for module in sorted(needed):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{__package__}.{module}")


def make(
    exporter: Exporter,
    settings: Settings,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    folder: Path | None,
) -> ProjectingSender:
    """The sender of a registry's exporter.

    Args:
        exporter: The exporter.
        settings: Our settings.
        environ: The environment.
        warn: Takes one line for each setting that is not allowed and was replaced.
        folder: The folder of this user's spools, as it was judged fit; ``None`` where there is none.

    Raises:
        exporters.ExporterError: It cannot be had; one line says why and what is allowed.
    """
    timeout_ns = environment.attempt_timeout_ns(environ, warn, exporter.signal)
    given = exporter.instance
    if given is None and exporter.name in _BUILT_IN:
        given = _BUILT_IN[exporter.name](exporter, settings, folder)
    if given is None:
        return entry_points.make_sender(
            exporter.name, attempt_timeout_ns=timeout_ns, environ=environ, warn=warn, signal=exporter.signal
        )
    return entry_points.sender_for(
        given,
        attempt_timeout_ns=timeout_ns,
        environ=environ,
        warn=warn,
        name=exporter.name,
        signal=exporter.signal,
    )
