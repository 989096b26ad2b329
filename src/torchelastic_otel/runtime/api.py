"""The public functions: install, uninstall, flush, and the destinations of this process.

Guarantees: a process has one installation; a second request changes nothing; after ``uninstall`` only a program can
install again, not the environment.
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
"""The longest that ``install()`` waits for its spool, nanoseconds; 50 to 100 ms if the disk answers."""
_MAX_LOAD_NS: Final = 2 * NS_PER_S
"""The longest that ``install()`` waits for OpenTelemetry's SDK to be imported, nanoseconds; about half a second."""


def current() -> Installation | None:
    """The installation of this process."""
    return _current


def install_from_environment(elastic: str | None = None) -> Installation | None:
    """Install what the environment configures; ``None`` if it configures nothing. Never raises for a bad setting.

    Args:
        elastic: The package whose agent is about to run; by default those that are loaded, else torch's own.
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


def _registry() -> Registry:
    registry = Registry()
    for name, exporters in _registered.items():
        registry.register(name, *exporters)
    return registry


def _install(
    settings: Settings, activation: Activation, redact: Redact | None, *, watch: tuple[str, ...]
) -> Installation:
    global _current
    registry = _registry()
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
    """Observe this process's agents, and connect the drop-in ``torchelastic_otel.events`` with its exporters.

    Waits until the spool is open and OpenTelemetry's SDK is imported: about half a second, at most three. An agent that
    is observed through the entry point waits for neither.

    Args:
        destinations: Names of destinations for torch's events; by default those of the environment, else ``otlp``.
        redact: Called with every event before it is stored; returns the event to store. Runs on the writer thread. If
            it raises, the event is stored without its text fields.
        settings: In place of those of the environment.
        watch_torch: Whether to hook torch; by default if it is installed.

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
    for name in destinations:
        _registry().exporters_of(name)  # raises for an unknown name
    if activation.refused and not (destinations and activation.signals):
        # the environment takes precedence over the program
        logger.warning("install() exports nothing: %s", activation.why)
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
    # what the program records next survives a kill
    installation.wait_until_ready(_MAX_READY_NS)
    # the program may import next what the other threads import: Python rejects one of two circular imports
    installation.wait_until_loaded(_MAX_LOAD_NS)
    return installation


def uninstall() -> None:
    """Leave torch as it was found, and deliver what is stored, within the flush timeout."""
    global _current, _uninstalled
    installation, _current, _uninstalled = _current, None, True
    if installation is not None:
        atexit.unregister(_at_exit)
        installation.uninstall()


def flush(timeout_s: float = 10.0) -> bool:
    """Deliver what is stored now; returns whether nothing is left.

    Args:
        timeout_s: The longest to wait, seconds.
    """
    return _current is not None and _current.flush(int(timeout_s * NS_PER_S))


def finished_logs() -> list[ReadableLogRecord]:
    """The log records of destination ``memory`` in this process, oldest first, for tests; clear it to start anew."""
    from torchelastic_otel.export.otel import memory

    return memory.finished


def finished_spans() -> list[ReadableSpan]:
    """The spans of destination ``memory`` in this process, oldest first; as :func:`finished_logs`."""
    from torchelastic_otel.export.otel import memory

    return memory.finished_spans


def finished_metrics() -> list[MetricsData]:
    """The metrics of destination ``memory`` in this process, one item for each snapshot; as :func:`finished_logs`."""
    from torchelastic_otel.export.otel import memory

    return memory.finished_metrics


def register_destination(name: str, *exporters: str | Any) -> None:
    """Register a destination for ``record(event, destination=name)`` and ``torchrun --event-log-handler name``.

    Args:
        name: The destination's name.
        exporters: Names of OpenTelemetry exporters (entry points), or exporter objects. Each of them gets all events,
            independently of the others.

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
    """Remove a registered destination.

    Raises:
        UnknownDestinationError: It is not registered.
    """
    if name not in _registered:
        raise UnknownDestinationError(name, _registered, "registered destination")
    del _registered[name]
    if _current is not None:
        _current.registry.unregister(name)
        if name in _current.registry.local_names():
            _current.bind(name)  # a built-in one has its own exporters again
        else:
            _current.unbind(name)


_early_flush_registered = False


def _register_early_flush() -> None:
    """Flush once before the interpreter shuts down thread pools, which it does before ``atexit``.

    The SDK's import (OpenTelemetry Python 1.45: ``Resource.create``) needs one: an agent that ends before the import,
    because its rendezvous was refused, could deliver nothing any more.
    """
    global _early_flush_registered
    register = getattr(threading, "_register_atexit", None)
    if register is None or _early_flush_registered:
        return
    _early_flush_registered = True
    with guard:
        # the last one registered runs first, and the module of thread pools registers itself at its import
        import concurrent.futures.thread  # noqa: F401

        register(_at_main_thread_end)


def _at_main_thread_end() -> None:
    if _current is not None:
        with guard:
            _current.flush_at_end()


def _at_exit() -> None:
    # a signal that torch turns into an exception ends the wait; the rest stays in the spool for the next agent
    if _current is not None:
        with guard:
            _current.close()
