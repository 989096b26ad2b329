"""From a registry's exporter to its sender: the built-in ones, and all others by OpenTelemetry's entry points.

What always holds: only the exporter that is asked for is imported, on the thread that asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from torchelastic_otel.deliver.destinations import Exporter
from torchelastic_otel.deliver.otel import environment, exporters
from torchelastic_otel.deliver.outcome import Sender
from torchelastic_otel.settings import Settings


def _console_line(settings: Settings, folder: Path | None) -> Any:
    from torchelastic_otel.deliver.otel.console import ConsoleLineExporter

    return ConsoleLineExporter()


def _file(settings: Settings, folder: Path | None) -> Any:
    from torchelastic_otel.deliver.otel.file import OtlpJsonFileExporter

    if settings.file_dir:
        return OtlpJsonFileExporter(Path(settings.file_dir))
    if folder is None:
        raise exporters.ExporterError("file", "there is no folder for spools here; set TORCHELASTIC_OTEL_FILE_DIR")
    return OtlpJsonFileExporter(folder / "otlp")


def _memory(settings: Settings, folder: Path | None) -> Any:
    from torchelastic_otel.deliver.otel.memory import MemoryExporter

    return MemoryExporter()


def _sdk(settings: Settings, folder: Path | None) -> Any:
    from torchelastic_otel.deliver.otel.application import ApplicationLogs

    return ApplicationLogs()


_BUILT_IN: Final[Mapping[str, Callable[[Settings, Path | None], Any]]] = {
    "console_line": _console_line,
    "file": _file,
    "memory": _memory,
    "sdk": _sdk,
}


def make(
    exporter: Exporter,
    settings: Settings,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    folder: Path | None,
) -> Sender:
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
    timeout_ns = environment.attempt_timeout_ns(environ, warn)
    given = exporter.instance
    if given is None and exporter.name in _BUILT_IN:
        given = _BUILT_IN[exporter.name](settings, folder)
    if given is None:
        return exporters.make_sender(exporter.name, attempt_timeout_ns=timeout_ns, environ=environ, warn=warn)
    return exporters.sender_for(given, attempt_timeout_ns=timeout_ns, environ=environ, warn=warn, name=exporter.name)
