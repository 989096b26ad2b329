"""From a registry's exporter to its sender: the built-in ones, and all others by OpenTelemetry's entry points.

What always holds: only the exporter that is asked for is imported, on the thread that asks.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from torchelastic_otel.deliver.destinations import Exporter
from torchelastic_otel.deliver.otel import environment, exporters
from torchelastic_otel.deliver.outcome import Sender
from torchelastic_otel.settings import Settings
from torchelastic_otel.spool.directory import folder


def _console_line(settings: Settings) -> Any:
    from torchelastic_otel.deliver.otel.console import ConsoleLineExporter

    return ConsoleLineExporter()


def _file(settings: Settings) -> Any:
    from torchelastic_otel.deliver.otel.file import OtlpJsonFileExporter

    if settings.file_dir:
        directory = Path(settings.file_dir)
    else:
        directory = folder(Path(settings.spool_dir or tempfile.gettempdir()), os.geteuid()) / "otlp"
    return OtlpJsonFileExporter(directory)


def _memory(settings: Settings) -> Any:
    from torchelastic_otel.deliver.otel.memory import MemoryExporter

    return MemoryExporter()


def _sdk(settings: Settings) -> Any:
    from torchelastic_otel.deliver.otel.application import ApplicationLogs

    return ApplicationLogs()


_BUILT_IN: Final[Mapping[str, Callable[[Settings], Any]]] = {
    "console_line": _console_line,
    "file": _file,
    "memory": _memory,
    "sdk": _sdk,
}


def make(exporter: Exporter, settings: Settings, environ: Mapping[str, str], warn: Callable[[str], None]) -> Sender:
    """The sender of a registry's exporter.

    Raises:
        exporters.ExporterError: It cannot be had; one line says why and what is allowed.
    """
    timeout_ns = environment.attempt_timeout_ns(environ, warn)
    given = exporter.instance
    if given is None and exporter.name in _BUILT_IN:
        given = _BUILT_IN[exporter.name](settings)
    if given is None:
        return exporters.make_sender(exporter.name, attempt_timeout_ns=timeout_ns, environ=environ, warn=warn)
    return exporters.sender_for(given, attempt_timeout_ns=timeout_ns, environ=environ, warn=warn, name=exporter.name)
