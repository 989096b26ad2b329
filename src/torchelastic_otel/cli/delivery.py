"""A pipeline for a command: which exporters the environment asks for, made before anything begins.

What always holds: what cannot be delivered to is an error of one line at the start, not a wait.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from torchelastic_otel.cli.command import PROGRAM
from torchelastic_otel.environment_variables import PREFIX
from torchelastic_otel.errors import CommandError
from torchelastic_otel.export.config import export_config
from torchelastic_otel.export.destinations import Exporter, Registry
from torchelastic_otel.export.pipeline import Pipeline
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.runtime.activation import configured_exporters, decide
from torchelastic_otel.settings import Mode, Settings, from_environment
from torchelastic_otel.units import NS_PER_S

RETRY_S = 1.0
"""How long a command waits before it tries again what failed."""


def settings_in_force(command: str) -> Settings:
    """The settings; what could not be used is said on stderr."""
    settings, complaints = from_environment(os.environ)
    for complaint in complaints:
        print(f"{PROGRAM} {command}: {complaint}", file=sys.stderr)
    return settings


def exporters_asked_for(
    environ: Mapping[str, str], settings: Settings, destinations: Sequence[str] = ()
) -> tuple[Exporter, ...]:
    """Where to deliver: to the destinations named, else to what the environment says.

    Raises:
        CommandError: Nothing is named, or what is named is not known.
    """
    if destinations:
        # asked for by hand, they are taken also where the environment would say no to all of it
        settings = replace(settings, mode=Mode.ON, destinations=tuple(destinations))
        environ = {name: value for name, value in environ.items() if name.startswith("OTEL_EXPORTER_OTLP_")}
    activation = decide(environ, settings)
    if not activation.active:
        if activation.why in (f"{PREFIX}=off", "OTEL_SDK_DISABLED=true"):
            raise CommandError(f"nothing to deliver to: {activation.why} switches it off; unset it here")
        raise CommandError(
            f"nothing to deliver to ({activation.why}); set OTEL_EXPORTER_OTLP_ENDPOINT=http://HOST:4317,"
            f" OTEL_LOGS_EXPORTER or {PREFIX}_DESTINATIONS"
        )
    exporters = configured_exporters(activation, Registry(), _raise_unknown)
    if not exporters:
        raise CommandError(
            f"destination {', '.join(activation.destinations)} leads to no exporter;"
            f" name another in {PREFIX}_DESTINATIONS"
        )
    return exporters


def _raise_unknown(error: KeyError) -> NoReturn:
    # a command can use installed exporters only, not register others
    raise CommandError(str(error).partition("; add one with")[0])


def make_pipeline(
    exporters: Sequence[Exporter], settings: Settings, folder: Path | None, *, adopts: bool = False
) -> Pipeline:
    """A pipeline in which every destination leads to these exporters, and which adopts, from ``folder``, when told.

    Raises:
        CommandError: An exporter cannot be made.
    """
    from torchelastic_otel.errors import ExporterError
    from torchelastic_otel.export.otel.factory import make_sender

    made = {}
    for exporter in exporters:
        try:
            made[exporter.cursor] = make_sender(exporter, os.environ, _say, settings=settings, folder=folder)
        except ExporterError as error:
            if exporter.signal is Signal.METRICS:
                _say(str(error))  # a state that nobody is told costs no event its delivery
                continue
            raise CommandError(str(error)) from None
    pipeline = Pipeline(
        lambda exporter: made[exporter.cursor],
        lambda destination: tuple(exporter for exporter in exporters if exporter.cursor in made),
        config=export_config(os.environ, settings, _say),
        directory=folder if adopts else None,
        max_bytes=settings.spool_max_bytes,
        adoption_interval_s=None,
    )
    pipeline.subscribe(("null", "dynamic_rendezvous"))
    pipeline.start()
    return pipeline


def try_until(attempt: Callable[[int], bool], timeout_s: float, pause: Callable[[float], object] = time.sleep) -> bool:
    """Call an attempt until it says that nothing is left, or the time is over.

    Args:
        attempt: Gets the time that is left, nanoseconds; whether nothing is left to do.
        timeout_s: The longest to go on, seconds; one attempt is made in any case.
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


def _say(what: str) -> None:
    print(f"{PROGRAM}: {what}", file=sys.stderr)
