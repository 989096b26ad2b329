"""Whether the bridge is active in this environment, why, and the exporters of each signal: a pure function.

OpenTelemetry's variables have the meaning of its specification ("Environment Variable Specification"): activation is
per signal, so that an endpoint for traces alone exports no logs or metrics; ``none`` disables its signal;
``OTEL_SDK_DISABLED=true`` disables everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from torchelastic_otel.environment_variables import PREFIX, SET_FOR_WORKERS
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.settings import Mode, Settings

if TYPE_CHECKING:
    from torchelastic_otel.export.destinations import Exporter, Registry

OTLP: Final = ("otlp", "otlp_proto_grpc", "otlp_proto_http")
_GENERAL_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


@dataclass(frozen=True, slots=True)
class Activation:
    """The decision.

    Attributes:
        active: Whether agents are observed.
        why: The variable that decided it.
        exporters: Names of the exporters of each signal, by OpenTelemetry's variables.
        destinations: Names of destinations in their place, by ``TORCHELASTIC_OTEL_DESTINATIONS``.
        refused: Whether a variable disables the bridge, in contrast to none that enables it.
        signals: The signals that are not disabled.
        otlp_signals: Those of them for which an OTLP exporter has an endpoint: if one is configured for another signal
            alone, there is no default for this one.
    """

    active: bool
    why: str
    exporters: Mapping[Signal, tuple[str, ...]] = field(default_factory=dict)
    destinations: tuple[str, ...] = ()
    refused: bool = False
    signals: tuple[Signal, ...] = ()
    otlp_signals: tuple[Signal, ...] = ()

    def accepts(self, exporter: str, signal: Signal) -> bool:
        """Whether an exporter of a destination gets this signal."""
        return signal in (self.otlp_signals if exporter in OTLP else self.signals)


def decide(environ: Mapping[str, str], settings: Settings) -> Activation:
    """Whether to be active, and with which exporters.

    Args:
        environ: The environment.
        settings: The settings in it.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Activation(False, "OTEL_SDK_DISABLED=true", refused=True)
    if settings.mode is Mode.OFF:
        return Activation(False, f"{PREFIX}=off", refused=True)
    named = {signal: _names(environ, signal) for signal in Signal}
    refusals = [f"{_exporter_variable(signal)}=none" for signal, names in named.items() if "none" in names]
    signals = tuple(signal for signal, names in named.items() if "none" not in names)
    reached = tuple(signal for signal in signals if _endpoint_variable(environ, signal))
    decided = Activation(True, "", signals=signals, otlp_signals=reached or signals)
    if not signals:
        return replace(decided, active=False, why=", ".join(refusals), refused=True)
    if settings.destinations:
        return replace(decided, why=f"{PREFIX}_DESTINATIONS is set", destinations=settings.destinations)
    if settings.mode is not Mode.ON and environ.get("OTEL_CONFIG_FILE", "").strip():
        why = f"OTEL_CONFIG_FILE is set, and is not supported; set {PREFIX}_DESTINATIONS to activate"
        return replace(decided, active=False, why=why)
    exporters = {signal: named[signal] or (("otlp",) if signal in reached else ()) for signal in signals}
    exporters = {signal: names for signal, names in exporters.items() if names}
    if exporters:
        first = next(iter(exporters))
        variable = _exporter_variable(first) if named[first] else _endpoint_variable(environ, first)
        return replace(decided, why=f"{variable} is set", exporters=exporters)
    own = sorted(
        name for name in environ if name.startswith(PREFIX) and name not in SET_FOR_WORKERS and environ[name].strip()
    )
    everything = replace(decided, exporters=dict.fromkeys(decided.otlp_signals, ("otlp",)))
    if settings.mode is Mode.ON:
        return replace(everything, why=f"{PREFIX}=on")
    if own and own != [PREFIX]:
        return replace(everything, why=f"{own[0]} is set")
    if refusals:
        return replace(decided, active=False, why=", ".join(refusals), refused=True)
    return replace(
        decided,
        active=False,
        why=f"nothing is configured: set {_GENERAL_ENDPOINT}, OTEL_LOGS_EXPORTER or {PREFIX}=on",
    )


def configured_exporters(
    activation: Activation, registry: Registry, on_unknown: Callable[[KeyError], object]
) -> tuple[Exporter, ...]:
    """The exporters that an active environment names.

    Args:
        activation: The decision.
        registry: Resolves the names.
        on_unknown: Called with the error of each name that is not known.
    """
    exporters: list[Exporter] = []
    names: list[tuple[str, Signal | None]] = [(name, None) for name in activation.destinations]
    names += [(name, signal) for signal, of_signal in activation.exporters.items() for name in of_signal]
    for name, signal in names:
        try:
            if signal is not None:
                exporters += registry.exporters(name, (signal,))
            else:
                exporters += [
                    each for each in registry.exporters_of(name) if activation.accepts(each.name, each.signal)
                ]
        except KeyError as error:
            on_unknown(error)
    return tuple(dict.fromkeys(exporters))


def _exporter_variable(signal: Signal) -> str:
    return f"OTEL_{signal.name}_EXPORTER"


def _names(environ: Mapping[str, str], signal: Signal) -> tuple[str, ...]:
    text = environ.get(_exporter_variable(signal), "")
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _endpoint_variable(environ: Mapping[str, str], signal: Signal) -> str | None:
    own = f"OTEL_EXPORTER_OTLP_{signal.name}_ENDPOINT"
    return next((name for name in (own, _GENERAL_ENDPOINT) if environ.get(name, "").strip()), None)
