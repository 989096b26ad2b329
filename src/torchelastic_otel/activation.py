"""Whether the bridge is active in this environment, why, and where torch's events go: a pure function.

OpenTelemetry's variables mean what its specification says ("Environment Variable Specification"): activation
is per signal, so an endpoint for traces alone sends no logs anywhere; ``none`` means no;
``OTEL_SDK_DISABLED=true`` means nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torchelastic_otel.settings import PREFIX, Mode, Settings

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Activation:
    """The decision.

    Attributes:
        active: Whether agents are watched.
        why: The variable that decided it, in a sentence.
        exporters: Names of exporters (OpenTelemetry's variables) that torch's events go to.
        destinations: Names of destinations (our variable) that they go to instead, where set.
        refused: Whether somebody said no, rather than nothing.
    """

    active: bool
    why: str
    exporters: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    refused: bool = False


def decide(environ: Mapping[str, str], settings: Settings) -> Activation:
    """Whether to be active, and where to deliver.

    Args:
        environ: The environment.
        settings: Our settings in it.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Activation(False, "OTEL_SDK_DISABLED=true", refused=True)
    if settings.mode is Mode.OFF:
        return Activation(False, f"{PREFIX}=off", refused=True)
    if settings.destinations:
        return Activation(True, f"{PREFIX}_DESTINATIONS is set", destinations=settings.destinations)
    if settings.mode is not Mode.ON and environ.get("OTEL_CONFIG_FILE", "").strip():
        return Activation(
            False, f"OTEL_CONFIG_FILE is set and is not read here; name {PREFIX}_DESTINATIONS to be active"
        )
    logs_exporter = environ.get("OTEL_LOGS_EXPORTER", "").strip()
    if logs_exporter:
        names = tuple(dict.fromkeys(name.strip() for name in logs_exporter.split(",") if name.strip()))
        if "none" in names:
            return Activation(False, "OTEL_LOGS_EXPORTER=none", refused=True)
        return Activation(True, "OTEL_LOGS_EXPORTER is set", exporters=names)
    for variable in _ENDPOINTS:
        if environ.get(variable, "").strip():
            return Activation(True, f"{variable} is set", exporters=("otlp",))
    if settings.mode is Mode.ON:
        return Activation(True, f"{PREFIX}=on", exporters=("otlp",))
    ours = sorted(name for name in environ if name.startswith(PREFIX) and environ[name].strip())
    if ours and ours != [PREFIX]:
        return Activation(True, f"{ours[0]} is set", exporters=("otlp",))
    return Activation(False, f"nothing asks for it: set OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_LOGS_EXPORTER or {PREFIX}=on")
