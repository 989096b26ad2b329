"""The registry of destinations and their exporters, after torch's ``get_logging_handler(destination)``.

Guarantees: a name resolves to exporters, or to one error that lists the known names; torch's own destinations
(``null``, ``dynamic_rendezvous``, ``console``) always include the default exporters, because unchanged agents record
there; an exporter of several destinations is one exporter with one cursor.

An exporter has one signal. It is named by its OpenTelemetry entry point (groups ``opentelemetry_logs_exporter``,
``..._traces_...``, ``..._metrics_...``) or by one of :data:`BUILT_IN_EXPORTERS`, or it is an instance. A name stands
for an exporter of each of its signals. Other packages add destinations by an entry point in group
``torchelastic_otel.destinations``: a callable without arguments that returns exporters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from torchelastic_otel.errors import UnknownDestinationError
from torchelastic_otel.model.signals import Signal

ENTRY_POINT_GROUP: Final = "torchelastic_otel.destinations"
EXPORTER_GROUPS: Final = {signal: f"opentelemetry_{signal.value}_exporter" for signal in Signal}
TORCH_DESTINATIONS: Final = ("null", "dynamic_rendezvous", "console")
RESERVED_NAME: Final = "spans"
"""The destination of span rows in a spool; no other destination may have this name."""
GENERATION_SEPARATOR: Final = " #"


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A built-in exporter.

    Attributes:
        module: Its module in :mod:`torchelastic_otel.export.otel`.
        signals: The signals that it exports.
        ephemeral: Whether it is of use only while the process lives: an orphaned spool is not delivered to it.
    """

    module: str
    signals: tuple[Signal, ...] = tuple(Signal)
    ephemeral: bool = False


BUILT_IN_EXPORTERS: Final[Mapping[str, BuiltIn]] = {
    "otlp": BuiltIn("otlp"),
    "otlp_proto_grpc": BuiltIn("grpc"),
    "otlp_proto_http": BuiltIn("http"),
    "console_line": BuiltIn("console", (Signal.LOGS,), ephemeral=True),
    "file": BuiltIn("file"),
    "memory": BuiltIn("memory", ephemeral=True),
    "sdk": BuiltIn("sdk_bridge", (Signal.LOGS,), ephemeral=True),
}
BUILT_IN_DESTINATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "null": (),
    "console": ("console_line",),
    **{name: (name,) for name in BUILT_IN_EXPORTERS if name != "console_line"},
}
"""The built-in destinations and their exporters."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """An exporter of one signal.

    Attributes:
        name: Its name; exporters of several signals may have the same.
        instance: The exporter itself, if it was given as an object.
        signal: Its signal.
    """

    name: str
    instance: Any = None
    signal: Signal = Signal.LOGS

    @property
    def cursor(self) -> str:
        """The name of its cursor in every spool, which is unique."""
        return self.name if self.signal is Signal.LOGS else f"{self.name} {self.signal.value}"


EPHEMERAL_EXPORTERS: Final = frozenset(
    Exporter(name, signal=signal).cursor
    for name, exporter in BUILT_IN_EXPORTERS.items()
    if exporter.ephemeral
    for signal in exporter.signals
)
"""The cursors of ephemeral exporters."""

_SIGNAL_OF_BASE: Final = {"SpanExporter": Signal.TRACES, "MetricExporter": Signal.METRICS}


def signal_of(instance: Any) -> Signal:
    """The signal of an exporter object, by the names of its base classes; logs by default."""
    found = (_SIGNAL_OF_BASE[base.__name__] for base in type(instance).__mro__ if base.__name__ in _SIGNAL_OF_BASE)
    return next(found, Signal.LOGS)


_instances: list[tuple[Any, str]] = []


def _name_of(instance: Any) -> str:
    """The name of an exporter object: its class, with a number from the second one of that class on."""
    for known, name in _instances:
        if known is instance:
            return name
    kind = type(instance).__name__
    before = sum(type(known).__name__ == kind for known, _ in _instances)
    _instances.append((instance, f"{kind}-{before + 1}" if before else kind))
    return _instances[-1][1]


EntryPoints = Callable[[str], Mapping[str, metadata.EntryPoint]]


def installed(group: str) -> Mapping[str, metadata.EntryPoint]:
    """The entry points of a group by name; nothing is imported."""
    return {point.name: point for point in metadata.entry_points(group=group)}


class Registry:
    """See the module's docstring.

    Args:
        entry_points: Returns the entry points of a group.
    """

    def __init__(self, entry_points: EntryPoints = installed) -> None:
        self._entry_points = entry_points
        self._registered: dict[str, tuple[Exporter, ...]] = {}
        self._generations: dict[str, int] = {}
        self._defaults: tuple[Exporter, ...] = ()

    def register(self, name: str, *exporters: str | Any) -> None:
        """Add a destination, or replace the exporters of a known one.

        Args:
            name: The destination's name: ``record(event, destination=name)``, ``torchrun --event-log-handler name``.
            exporters: Names of exporters, or exporter objects with an ``export`` method.

        Raises:
            UnknownDestinationError: An exporter's name is not known.
            TypeError: An exporter is neither a name nor has an ``export`` method.
            ValueError: There is no exporter, or the destination's name is reserved.
        """
        if name == RESERVED_NAME:
            raise ValueError(f"destination {name!r}: this name is reserved; give another")
        if not exporters:
            known = ", ".join(BUILT_IN_EXPORTERS)
            raise ValueError(f"destination {name!r} needs an exporter: an object, or one of {known}")
        self._registered[name] = self._all(exporters)
        first = 1 if name in (*BUILT_IN_DESTINATIONS, *TORCH_DESTINATIONS) else 0
        self._generations[name] = self._generations.get(name, first - 1) + 1

    def unregister(self, name: str) -> None:
        """Remove a registered destination.

        Raises:
            UnknownDestinationError: It was never registered.
        """
        if name not in self._registered:
            raise UnknownDestinationError(name, self._registered, "registered destination")
        del self._registered[name]
        self._generations[name] += 1

    def storage_key(self, name: str) -> str:
        """The key of a destination's rows in a spool, which changes with its exporters.

        So older rows go to the older exporters. :meth:`exporters_of` accepts keys, too.
        """
        generation = self._generations.get(name, 0)
        return f"{name}{GENERATION_SEPARATOR}{generation}" if generation else name

    def names(self) -> tuple[str, ...]:
        """The names of all destinations: built in, registered, of other packages."""
        names = dict.fromkeys([*self.local_names(), *self._entry_points(ENTRY_POINT_GROUP)])
        return tuple(name for name in names if name != RESERVED_NAME)

    def local_names(self) -> tuple[str, ...]:
        """The names of the built-in and registered destinations, without a look at installed packages."""
        return tuple(dict.fromkeys([*BUILT_IN_DESTINATIONS, "dynamic_rendezvous", *self._registered]))

    def exporters_of(self, name: str) -> tuple[Exporter, ...]:
        """The exporters of a destination.

        Raises:
            UnknownDestinationError: The destination is not known.
        """
        name = name.partition(GENERATION_SEPARATOR)[0]
        if name in self._registered:
            exporters = self._registered[name]
        elif name == "dynamic_rendezvous":
            exporters = ()
        elif name in BUILT_IN_DESTINATIONS:
            exporters = self._all(BUILT_IN_DESTINATIONS[name])
        else:
            exporters = self._installed(name)
        if name in TORCH_DESTINATIONS:
            exporters = tuple(dict.fromkeys((*exporters, *self._defaults)))
        return exporters

    def exporters(self, exporter: str | Any, signals: Iterable[Signal] = Signal) -> tuple[Exporter, ...]:
        """The exporters of a name, one for each of its signals, or the object itself.

        Args:
            exporter: The name, or an object with an ``export`` method.
            signals: The signals that are wanted.

        Raises:
            UnknownDestinationError: The name is not known for any of the signals.
            TypeError: The object has no ``export`` method.
        """
        if isinstance(exporter, Exporter):
            return (exporter,)
        if not isinstance(exporter, str):
            if isinstance(exporter, type) or not callable(getattr(exporter, "export", None)):
                raise TypeError(
                    f"{exporter!r} is not an exporter: give an object (not a class) with an export method, or one of"
                    f" {', '.join(BUILT_IN_EXPORTERS)}"
                )
            return (Exporter(_name_of(exporter), exporter, signal_of(exporter)),)
        signals = tuple(signals)
        found = tuple(Exporter(exporter, signal=signal) for signal in signals if self._knows(exporter, signal))
        if not found:
            others = [name for signal in signals for name in self._entry_points(EXPORTER_GROUPS[signal])]
            raise UnknownDestinationError(exporter, {*BUILT_IN_EXPORTERS, *others}, "exporter")
        return found

    def _all(self, exporters: Iterable[str | Any]) -> tuple[Exporter, ...]:
        return tuple(dict.fromkeys(each for exporter in exporters for each in self.exporters(exporter)))

    def _knows(self, name: str, signal: Signal) -> bool:
        if name in BUILT_IN_EXPORTERS:
            return signal in BUILT_IN_EXPORTERS[name].signals
        return name in self._entry_points(EXPORTER_GROUPS[signal])

    def set_default_exporters(self, exporters: Iterable[Exporter]) -> None:
        """Add these exporters to torch's own destinations."""
        self._defaults = tuple(dict.fromkeys(exporters))

    def _installed(self, name: str) -> tuple[Exporter, ...]:
        installed = self._entry_points(ENTRY_POINT_GROUP)
        if name in installed and name != RESERVED_NAME:
            exporters = installed[name].load()()
            if isinstance(exporters, str) or callable(getattr(exporters, "export", None)):
                exporters = (exporters,)
            return self._all(exporters)
        if name != RESERVED_NAME and any(name in self._entry_points(group) for group in EXPORTER_GROUPS.values()):
            return self._all((name,))
        raise UnknownDestinationError(name, self.names())
