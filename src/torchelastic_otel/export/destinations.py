"""The registry: which exporters a destination's events go to, after torch's ``get_logging_handler(destination)``.

What always holds: a name resolves to exporters or to one error that lists what is known; torch's own names
(``null``, ``dynamic_rendezvous``, ``console``) always reach the default exporters, since agents that know
nothing of us record there; an exporter that several destinations share is one exporter with one cursor.

An exporter is of one signal. It is named by its OpenTelemetry entry point (groups ``opentelemetry_logs_exporter``,
``..._traces_...``, ``..._metrics_...``) or by one of :data:`BUILT_IN_EXPORTERS`, or it is given as an instance. A name
gives an exporter for each signal that it is known for. Other packages bring destinations by an entry point in group
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
"""What rows of spans are kept under in a spool: no destination may have this name."""
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
    """An exporter by name.

    Attributes:
        name: What it is called; exporters of several signals may share a name.
        instance: The exporter itself where it was given as an object.
        signal: What it exports.
    """

    name: str
    instance: Any = None
    signal: Signal = Signal.LOGS

    @property
    def cursor(self) -> str:
        """The name of its cursor in every spool, by which it is told from all others."""
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
    """The signal of an exporter object, told by the names of its bases; logs where none of them tells."""
    found = (_SIGNAL_OF_BASE[base.__name__] for base in type(instance).__mro__ if base.__name__ in _SIGNAL_OF_BASE)
    return next(found, Signal.LOGS)


_instances: list[tuple[Any, str]] = []


def _name_of(instance: Any) -> str:
    """The name of an exporter object: its class, with a number where others of that class came before it."""
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
    """See the header of this file.

    Args:
        entry_points: Gives the entry points of a group.
    """

    def __init__(self, entry_points: EntryPoints = installed) -> None:
        self._entry_points = entry_points
        self._registered: dict[str, tuple[Exporter, ...]] = {}
        self._generations: dict[str, int] = {}
        self._defaults: tuple[Exporter, ...] = ()

    def register(self, name: str, *exporters: str | Any) -> None:
        """Make a destination known, or say anew where a known one leads.

        Args:
            name: The destination's name: ``record(event, destination=name)``, ``torchrun --event-log-handler name``.
            exporters: Names of exporters, or exporter objects with an ``export`` method.

        Raises:
            UnknownDestinationError: An exporter's name is not known.
            TypeError: An exporter is neither a name nor has an ``export`` method.
            ValueError: No exporter is named, or the destination's name is taken.
        """
        if name == RESERVED_NAME:
            raise ValueError(f"destination {name!r}: this name is taken; give another")
        if not exporters:
            known = ", ".join(BUILT_IN_EXPORTERS)
            raise ValueError(f"destination {name!r} needs an exporter: an object, or one of {known}")
        self._registered[name] = self._all(exporters)
        self._generations[name] = (
            self._generations.get(name, 0 if name in (*BUILT_IN_DESTINATIONS, *TORCH_DESTINATIONS) else -1) + 1
        )

    def unregister(self, name: str) -> None:
        """Forget a registered destination.

        Raises:
            UnknownDestinationError: It was never registered.
        """
        if name not in self._registered:
            raise UnknownDestinationError(name, self._registered, "registered destination")
        del self._registered[name]
        self._generations[name] += 1

    def storage_key(self, name: str) -> str:
        """What rows of a destination are kept under: another name each time that it leads elsewhere.

        So rows from before still go where they were to go. :meth:`exporters_of` takes keys too.
        """
        generation = self._generations.get(name, 0)
        return f"{name}{GENERATION_SEPARATOR}{generation}" if generation else name

    def names(self) -> tuple[str, ...]:
        """The names of all destinations: built in, registered, brought by packages."""
        names = [
            *BUILT_IN_DESTINATIONS,
            "dynamic_rendezvous",
            *self._registered,
            *self._entry_points(ENTRY_POINT_GROUP),
        ]
        return tuple(name for name in dict.fromkeys(names) if name != RESERVED_NAME)

    def local_names(self) -> tuple[str, ...]:
        """The names that torch's registry is given without looking at installed packages."""
        return tuple(dict.fromkeys([*BUILT_IN_DESTINATIONS, "dynamic_rendezvous", *self._registered]))

    def exporters_of(self, name: str) -> tuple[Exporter, ...]:
        """The exporters that a destination's events go to.

        Raises:
            UnknownDestinationError: There is no destination of that name.
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
        """The exporters that a name stands for, one for each signal that it can tell, or the object itself.

        Args:
            exporter: The name, or an object with an ``export`` method.
            signals: The signals that are asked for.

        Raises:
            UnknownDestinationError: The name is not known for any of the signals.
            TypeError: The object has no ``export`` method.
        """
        if isinstance(exporter, Exporter):
            return (exporter,)
        if not isinstance(exporter, str):
            if isinstance(exporter, type) or not callable(getattr(exporter, "export", None)):
                raise TypeError(
                    f"{exporter!r} is no exporter: give an object (not a class) with an export method, or one of"
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
        """Let torch's own destinations reach these exporters."""
        self._defaults = tuple(dict.fromkeys(exporters))

    def _installed(self, name: str) -> tuple[Exporter, ...]:
        brought = self._entry_points(ENTRY_POINT_GROUP)
        if name in brought and name != RESERVED_NAME:
            exporters = brought[name].load()()
            if isinstance(exporters, str) or callable(getattr(exporters, "export", None)):
                exporters = (exporters,)
            return self._all(exporters)
        if name != RESERVED_NAME and any(name in self._entry_points(group) for group in EXPORTER_GROUPS.values()):
            return self._all((name,))
        raise UnknownDestinationError(name, self.names())
