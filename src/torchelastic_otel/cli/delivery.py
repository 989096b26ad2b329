"""The export pipeline of a command: resolved from the environment and made before anything begins.

Guarantees: an exporter that cannot be used is an error of one line at the start, not a wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from torchelastic_otel.cli.command import Command
from torchelastic_otel.environment_variables import PREFIX
from torchelastic_otel.errors import CommandError, ExporterError
from torchelastic_otel.export.config import export_config
from torchelastic_otel.export.destinations import Exporter, Registry
from torchelastic_otel.export.pipeline import Pipeline
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.runtime.activation import configured_exporters, decide
from torchelastic_otel.settings import Mode, Settings, from_environment
from torchelastic_otel.units import NS_PER_S

RETRY_S = 1.0
"""The pause of a command between two attempts."""


def load_settings(command: Command) -> Settings:
    """The settings; one line on stderr for each that is not allowed."""
    settings, complaints = from_environment(os.environ)
    for complaint in complaints:
        command.warn(complaint)
    return settings


def resolve_exporters(
    environ: Mapping[str, str], settings: Settings, destinations: Sequence[str] = ()
) -> tuple[Exporter, ...]:
    """The exporters of these destinations, by default of the environment.

    Raises:
        CommandError: No exporter is configured, or a name is not known.
    """
    if destinations:
        # an explicit destination is used even if the environment disables everything
        settings = replace(settings, mode=Mode.ON, destinations=tuple(destinations))
        environ = {name: value for name, value in environ.items() if name.startswith("OTEL_EXPORTER_OTLP_")}
    activation = decide(environ, settings)
    if not activation.active:
        if activation.why in (f"{PREFIX}=off", "OTEL_SDK_DISABLED=true"):
            raise CommandError(f"export is disabled: {activation.why}; unset it here")
        raise CommandError(
            f"no exporter is configured ({activation.why}); set OTEL_EXPORTER_OTLP_ENDPOINT=http://HOST:4317,"
            f" OTEL_LOGS_EXPORTER or {PREFIX}_DESTINATIONS"
        )
    exporters = configured_exporters(activation, Registry(), _raise_unknown)
    if not exporters:
        names = ", ".join(activation.destinations)
        raise CommandError(f"destination {names} has no exporter; set another in {PREFIX}_DESTINATIONS")
    return exporters


def _raise_unknown(error: KeyError) -> NoReturn:
    # a command can use installed exporters only, not register others
    raise CommandError(str(error).partition("; add one with")[0])


def start_pipeline(
    command: Command,
    exporters: Sequence[Exporter],
    settings: Settings,
    folder: Path | None,
    *,
    adopts: bool = False,
) -> Pipeline:
    """A pipeline whose destinations all have these exporters; it adopts orphaned spools of ``folder`` on request.

    Raises:
        CommandError: An exporter cannot be made.
    """
    from torchelastic_otel.export.otel.factory import make_sender

    senders = {}
    for exporter in exporters:
        try:
            senders[exporter.cursor] = make_sender(exporter, os.environ, command.warn, settings=settings, folder=folder)
        except ExporterError as error:
            if exporter.signal is not Signal.METRICS:
                raise CommandError(str(error)) from None
            command.warn(str(error))  # events are delivered without metrics
    pipeline = Pipeline(
        lambda exporter: senders[exporter.cursor],
        lambda destination: tuple(exporter for exporter in exporters if exporter.cursor in senders),
        config=export_config(os.environ, settings, command.warn),
        directory=folder if adopts else None,
        max_bytes=settings.spool_max_bytes,
        adoption_interval_s=None,
    )
    pipeline.subscribe(("null", "dynamic_rendezvous"))
    pipeline.start()
    return pipeline


def retry_until(
    attempt: Callable[[int], bool], timeout_s: float, pause: Callable[[float], object] = time.sleep
) -> bool:
    """Call ``attempt`` until it succeeds or the time is over; once in any case.

    Args:
        attempt: Receives the remaining time, nanoseconds; whether nothing is left to do.
        timeout_s: The time limit, seconds.
        pause: Waits for so many seconds between two attempts.
    """
    until = time.monotonic_ns() + int(timeout_s * NS_PER_S)
    while True:
        if attempt(max(0, until - time.monotonic_ns())):
            return True
        left_s = (until - time.monotonic_ns()) / NS_PER_S
        if left_s <= 0:
            return False
        pause(min(RETRY_S, left_s))
