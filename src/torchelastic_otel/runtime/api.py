"""What the ways in call: install, uninstall, flush, and the destinations of this process.

What always holds: there is one installation in a process, whoever asked for it first; a second request
changes nothing; after ``uninstall`` only a program can install again, not the environment.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from torchelastic_otel.errors import UnknownDestinationError
from torchelastic_otel.export.destinations import Exporter, Registry
from torchelastic_otel.guard import guard
from torchelastic_otel.runtime.activation import Activation, configured_exporters, decide
from torchelastic_otel.runtime.installation import Installation
from torchelastic_otel.settings import Settings, from_environment
from torchelastic_otel.units import NS_PER_S

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord  # noqa: TID251 - a type, never imported
    from opentelemetry.sdk.metrics.export import MetricsData  # noqa: TID251 - a type, never imported
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: TID251 - a type, never imported

    from torchelastic_otel.ingest.writer import Redact

logger = logging.getLogger("torchelastic_otel")

_current: Installation | None = None
_registered: dict[str, tuple[Any, ...]] = {}
_uninstalled = False
_MAX_READY_NS: Final = NS_PER_S
"""The longest that ``install()`` waits for its spool, nanoseconds; 50 to 100 ms where the disk answers."""
_MAX_LOAD_NS: Final = 2 * NS_PER_S
"""The longest that ``install()`` waits for OpenTelemetry's SDK to be imported, nanoseconds; about half a second."""


def current() -> Installation | None:
    """The installation of this process."""
    return _current


def install_from_environment(elastic: str | None = None) -> Installation | None:
    """Install what the environment asks for; ``None`` where it asks for nothing. Never raises for a bad setting.

    Args:
        elastic: The package whose agent is about to run; without: those that are loaded, else torch's own.
    """
    if _current is not None and elastic is not None:
        _current.watch(elastic)
    if _current is not None or _uninstalled:
        return _current
    settings, complaints = from_environment(os.environ)
    activation = decide(os.environ, settings)
    for complaint in () if activation.refused else complaints:
        logger.warning("%s", complaint)
    if not activation.active:
        logger.debug("not active: %s", activation.why)
        return None
    return _install(settings, activation, None, watch=(elastic,) if elastic is not None else _elastic_packages())


def _elastic_packages() -> tuple[str, ...]:
    """The packages whose agents may run here."""
    from torchelastic_otel.instrument.arming import TORCH_ELASTIC, loaded

    return loaded() or (TORCH_ELASTIC,)


def _install(
    settings: Settings, activation: Activation, redact: Redact | None, *, watch: tuple[str, ...]
) -> Installation:
    global _current
    registry = Registry()
    for name, exporters in _registered.items():
        registry.register(name, *exporters)
    registry.set_default_exporters(_exporters(registry, activation))
    _register_early_flush()
    atexit.register(_at_exit)
    _current = Installation(settings, registry, os.environ, why=activation.why, redact=redact, watch=watch)
    return _current


def _exporters(registry: Registry, activation: Activation) -> tuple[Exporter, ...]:
    """The configured exporters; an unknown name is a warning, never an error."""
    unknown: list[KeyError] = []
    exporters = configured_exporters(activation, registry, unknown.append)
    for error in unknown:
        logger.warning("%s", error)
    if not exporters and unknown:
        logger.warning("none of the configured exporters could be used; falling back to otlp")
        exporters = registry.exporters("otlp", tuple(activation.exporters) or activation.otlp_signals)
    return exporters


def install(
    *destinations: str,
    redact: Redact | None = None,
    settings: Settings | None = None,
    watch_torch: bool | None = None,
) -> Installation:
    """Watch this process's agents, and let the drop-in ``torchelastic_otel.events`` reach its exporters.

    Waits until the spool is there and OpenTelemetry's SDK is imported: about half a second, at most three. An agent
    that is watched by the entry point waits for neither.

    Args:
        destinations: Where torch's events go: names of destinations. Without: what the environment says, else ``otlp``.
        redact: Called with every event before it is kept; returns the event to keep. Runs on a thread of ours;
            where it raises, all of the event's texts but its name are withheld.
        settings: In place of those of the environment.
        watch_torch: Whether to hook torch; without: if it is installed.

    Returns:
        The installation; a second call returns the first one's and changes nothing.

    Raises:
        UnknownDestinationError: A destination is not known.
    """
    if _current is not None:
        logger.warning("torchelastic_otel is installed already (%s); this call changes nothing", _current.why)
        return _current
    found, complaints = from_environment(os.environ)
    for complaint in complaints if settings is None else ():
        logger.warning("%s", complaint)
    settings = settings or found
    activation = decide(os.environ, settings)
    if destinations:
        registry = Registry()
        for name, exporters in _registered.items():
            registry.register(name, *exporters)
        for name in destinations:
            registry.exporters_of(name)
    if activation.refused and not (destinations and activation.signals):
        # whoever runs the program has the last word over whoever wrote it
        logger.warning("install() delivers nothing: %s", activation.why)
        activation, watch_torch = Activation(True, activation.why, destinations=("null",)), False
    elif destinations:
        why = "install() names destinations"
        activation = replace(activation, active=True, why=why, exporters={}, destinations=destinations)
    elif not activation.active:
        otlp = dict.fromkeys(activation.otlp_signals, ("otlp",))
        activation = replace(activation, active=True, why="install()", exporters=otlp)
    if watch_torch is None:
        import importlib.util

        watch_torch = "torch" in sys.modules or importlib.util.find_spec("torch") is not None
    installation = _install(settings, activation, redact, watch=_elastic_packages() if watch_torch else ())
    # a program that asks for it can wait until what it records next survives a kill
    installation.wait_until_ready(_MAX_READY_NS)
    # what it imports next may be what our threads import: of two that do so in a circle Python refuses one
    installation.wait_until_loaded(_MAX_LOAD_NS)
    return installation


def uninstall() -> None:
    """Leave torch as it was found, and deliver what there is within the flush timeout."""
    global _current, _uninstalled
    installation, _current, _uninstalled = _current, None, True
    if installation is not None:
        atexit.unregister(_at_exit)
        installation.uninstall()


def flush(timeout_s: float = 10.0) -> bool:
    """Deliver what there is now; whether nothing is left.

    Args:
        timeout_s: The longest to wait, seconds.
    """
    return _current is not None and _current.flush(int(timeout_s * NS_PER_S))


def finished_logs() -> list[ReadableLogRecord]:
    """What destination ``memory`` was told in this process, oldest first; for tests. Clear the list to start anew."""
    from torchelastic_otel.export.otel import memory

    return memory.finished


def finished_spans() -> list[ReadableSpan]:
    """The spans that destination ``memory`` was told in this process, oldest first; as :func:`finished_logs`."""
    from torchelastic_otel.export.otel import memory

    return memory.finished_spans


def finished_metrics() -> list[MetricsData]:
    """The metrics that destination ``memory`` was told in this process, one a snapshot; as :func:`finished_logs`."""
    from torchelastic_otel.export.otel import memory

    return memory.finished_metrics


def register_destination(name: str, *exporters: str | Any) -> None:
    """Make a destination known: for ``record(event, destination=name)`` and ``torchrun --event-log-handler name``.

    Args:
        name: The destination's name.
        exporters: Names of OpenTelemetry exporters (entry points), or exporter objects. More than one: all get
            everything, each at its own pace.

    Raises:
        UnknownDestinationError: An exporter's name is not known.
        TypeError: An exporter is neither a name nor has an ``export`` method.
    """
    Registry().register(name, *exporters)
    _registered[name] = exporters
    if _current is not None:
        _current.registry.register(name, *exporters)
        _current.bind(name)


def unregister_destination(name: str) -> None:
    """Forget a registered destination.

    Raises:
        UnknownDestinationError: It was never registered.
    """
    if name not in _registered:
        raise UnknownDestinationError(name, _registered, "registered destination")
    del _registered[name]
    if _current is not None:
        _current.registry.unregister(name)
        if name in _current.registry.local_names():
            _current.bind(name)  # a built-in one leads where it led before
        else:
            _current.unbind(name)


_early_flush_registered = False


def _register_early_flush() -> None:
    """Have a first flush before the interpreter shuts thread pools, which it does before ``atexit``.

    The SDK's import (OpenTelemetry Python 1.45: ``Resource.create``) needs one: an agent that ends before it is
    imported, since its rendezvous was refused, could deliver nothing any more.
    """
    global _early_flush_registered
    register = getattr(threading, "_register_atexit", None)
    if register is None or _early_flush_registered:
        return
    _early_flush_registered = True
    with guard:
        # the last one registered runs first, and a pool registers itself when it is imported
        import concurrent.futures.thread  # noqa: F401

        register(_at_main_thread_end)


def _at_main_thread_end() -> None:
    if _current is not None:
        with guard:
            _current.flush_at_end()


def _at_exit() -> None:
    # a signal that torch turns into an exception may come in the middle of this: it ends the wait, and the rest
    # stays in the spool for the next agent
    if _current is not None:
        with guard:
            _current.close()
