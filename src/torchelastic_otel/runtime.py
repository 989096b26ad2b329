"""Puts the rooms together: what is started, flushed and stopped, and when.

What always holds: there is one installation in a process, whoever asked for it first; a second request is
told apart and changes nothing; ``uninstall`` leaves torch as found; an exit is held up no longer than the
flush timeout; a forked child starts anew with a spool of its own, and only if it records something.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torchelastic_otel.activation import Activation, decide
from torchelastic_otel.capture.handler import SpoolHandler
from torchelastic_otel.capture.inlet import Inlet, Redact
from torchelastic_otel.capture.torch_hooks import HookReport, TorchHooks
from torchelastic_otel.deliver.destinations import Exporter, Registry
from torchelastic_otel.deliver.outcome import Sender
from torchelastic_otel.deliver.pipeline import Pipeline
from torchelastic_otel.deliver.route import NS_PER_S, Pace, RouteState
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import AttributeValue, Origin
from torchelastic_otel.model.origin_variables import JOB_VARIABLES
from torchelastic_otel.settings import Settings, from_environment
from torchelastic_otel.spool import adoption, store
from torchelastic_otel.spool.directory import SpoolUnavailableError, folder, prepare

logger = logging.getLogger("torchelastic_otel")

_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Status:
    """What an installation is at, for ``doctor`` and tests.

    Attributes:
        why: What activated it.
        destinations: Where torch's events go.
        spool: The file that events wait in; ``None`` for memory or "not yet".
        hooks: The hooks against this torch; empty where torch is not watched.
        routes: The exporters.
        waiting: Events handed over and not yet in the spool.
        lost: Events that could not be kept.
    """

    why: str
    destinations: tuple[str, ...]
    spool: Path | None
    hooks: tuple[HookReport, ...]
    routes: tuple[RouteState, ...]
    waiting: int
    lost: int


class Runtime:
    """One installation: an inlet, a pipeline, the hooks. Implements the inlet's ``Outlet``."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        environ: Mapping[str, str],
        *,
        why: str = "installed by the program",
        redact: Redact | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.why = why
        self._environ = dict(environ)
        self._inlet = Inlet(self, redact=redact)
        self._hooks: TorchHooks | None = None
        self._pid = os.getpid()
        self._pipeline: Pipeline | None = None
        self._owned: adoption.Owned | None = None
        self._inherited: list[object] = []

    # --- the inlet's outlet; on its writer thread

    def open_spool(self) -> store.Spool:
        """This process's spool, with its cursors, and the pipeline that reads it."""
        if self._pid != os.getpid():
            # never closed: a connection that came through a fork is its parent's
            self._inherited.append((self._pipeline, self._owned))
            self._pipeline = self._owned = None
            self._pid = os.getpid()
        origin = self._origin()
        directory = self._directory()
        spool: store.Spool | None = None
        if directory is not None:
            try:
                self._owned = adoption.create(directory, origin.id, self.settings.spool_max_bytes)
                spool = self._owned.spool
            except store.SpoolError as error:
                _memory_only(error)
        if spool is None:
            spool = store.create_in_memory(self.settings.spool_max_bytes)
        pipeline = Pipeline(
            self._make_sender,
            self.registry.exporters_of,
            pace=pace_of(self._environ),
            detect=self._detect,
            directory=directory,
            max_bytes=self.settings.spool_max_bytes,
        )
        pipeline.see(("null", "dynamic_rendezvous"))
        pipeline.add(spool, origin)
        pipeline.start()
        self._pipeline = pipeline
        return spool

    def open_memory(self, first_sequence: int) -> store.Spool:
        """Where events go on when the spool's disk fails."""
        spool = store.create_in_memory(self.settings.spool_max_bytes, first_sequence)
        assert self._pipeline is not None
        self._pipeline.add(spool, self._origin())
        return spool

    def seen(self, destinations: Iterable[str]) -> None:
        """Events for these destinations are about to be kept."""
        assert self._pipeline is not None
        self._pipeline.see(destinations)

    def committed(self) -> None:
        """Events were kept."""
        if self._pipeline is not None:
            self._pipeline.wake()

    # --- torch, and the drop-in events package

    def watch_torch(self) -> None:
        """Put the hooks in place and start, without waiting for anything."""
        self._hooks = TorchHooks(self._inlet, self.registry.bound(), self._check_destination)
        self._hooks.install()
        self.start()

    def start(self) -> None:
        """Bind the drop-in events package, and have the writer and the exporters load on threads of their own."""
        from torchelastic_otel.events import handlers

        for destination in self.registry.bound():
            handlers.bind(destination, SpoolHandler(destination, self._inlet))
        self._inlet.start()

    def bind(self, destination: str) -> None:
        """Make a destination known to torch and to the drop-in."""
        from torchelastic_otel.events import handlers

        if self._pipeline is not None:
            self._pipeline.forget(destination)
        handlers.bind(destination, SpoolHandler(destination, self._inlet))
        if self._hooks is not None:
            self._hooks.bind(destination)

    def unbind(self, destination: str) -> None:
        """Make a destination unknown again."""
        from torchelastic_otel.events import handlers

        handlers.unbind(destination)
        if self._hooks is not None:
            self._hooks.unbind(destination)

    def record(self, destination: str, text: str) -> bool:
        """Hand over one text, as a handler would; whether it is in the spool."""
        return self._inlet.put(destination, text)

    def _check_destination(self, name: str) -> None:
        self.registry.exporters_of(name)
        if name not in self.registry.bound():
            self.bind(name)

    # --- the end

    def flush(self, timeout_ns: int) -> bool:
        """Deliver what there is; whether nothing is left. Waits at most ``timeout_ns``."""
        until = time.monotonic_ns() + timeout_ns
        if self._pid != os.getpid() or not self._inlet.drain(timeout_ns / NS_PER_S) or self._pipeline is None:
            return False
        return self._pipeline.flush(max(0, until - time.monotonic_ns()))

    def close(self, timeout_ns: int | None = None) -> bool:
        """Flush, stop every thread that stops in time, and leave the spool to the next agent where need be."""
        timeout_ns = self.settings.flush_timeout_ns if timeout_ns is None else timeout_ns
        if self._pid != os.getpid():
            return True  # the spool is our parent's
        until = time.monotonic_ns() + timeout_ns
        drained = self.flush(timeout_ns)
        pipeline, counts = self._pipeline, self._inlet.counts
        if counts.lost or counts.waiting:
            logger.warning("%d events could not be kept and are lost", counts.lost + counts.waiting)
        if pipeline is None:
            return drained
        left = max(until - time.monotonic_ns(), 50 * _NS_PER_MS if drained else 0)
        if pipeline.stop(left) and drained and self._owned is not None:
            with guard:
                self._owned.let_go()
        return drained

    def uninstall(self) -> None:
        """Leave torch and the drop-in as they were found; deliver what there is."""
        from torchelastic_otel.events import handlers

        if self._hooks is not None:
            self._hooks.uninstall()
            self._hooks = None
        for destination in self.registry.bound():
            handlers.unbind(destination)
        self.close()

    # --- looking at it

    @property
    def status(self) -> Status:
        """What it is at."""
        counts = self._inlet.counts
        return Status(
            self.why,
            tuple(exporter.name for exporter in self.registry.exporters_of("null")),
            self._owned.path if self._owned is not None else None,
            tuple(self._hooks.reports) if self._hooks is not None else (),
            tuple(self._pipeline.states) if self._pipeline is not None else (),
            counts.waiting,
            counts.lost,
        )

    # --- inside

    def _origin(self) -> Origin:
        return Origin(
            id=uuid.uuid4().hex,
            host_name=socket.gethostname(),
            pid=os.getpid(),
            started_ns=time.time_ns(),
            environment={name: self._environ[name] for name in JOB_VARIABLES if name in self._environ},
        )

    def _directory(self) -> Path | None:
        return spool_directory(self.settings, logger.warning)

    def _detect(self) -> dict[str, AttributeValue]:
        from torchelastic_otel.deliver.otel.resource import detect

        return detect(self._environ)

    def _make_sender(self, exporter: Exporter) -> Sender:
        from torchelastic_otel.deliver.otel.senders import make

        return make(exporter, self.settings, self._environ, logger.warning)


def spool_directory(settings: Settings, warn: Callable[[str], object]) -> Path | None:
    """The folder of this user's spools; ``None``, with a warning, where there can be none."""
    temporary = Path(tempfile.gettempdir())
    asked = Path(settings.spool_dir) if settings.spool_dir else temporary
    for base in dict.fromkeys((asked, temporary)):
        try:
            return prepare(base, os.geteuid())
        except SpoolUnavailableError as error:
            trouble = error
            if base != temporary:
                warn(f"{error}; trying {folder(temporary, os.geteuid())}")
    _memory_only(trouble)
    return None


def _memory_only(why: Exception) -> None:
    logger.warning("no spool on disk: %s; events are kept in memory and are lost if the agent is killed", why)


def pace_of(environ: Mapping[str, str]) -> Pace:
    """How routes go about it, from ``OTEL_BLRP_*`` (specification, "Batch LogRecord Processor").

    A bad value is named, and the default used.
    """

    def number(name: str, default: int) -> int:
        text = environ.get(name, "").strip()
        if not text:
            return default
        if text.isascii() and text.isdigit() and int(text) > 0:
            return int(text)
        logger.warning("%s=%r is not allowed; allowed: a whole number above 0; using %d", name, text, default)
        return default

    return Pace(
        max_rows=min(number("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", 512), 512),
        delay_ns=number("OTEL_BLRP_SCHEDULE_DELAY", 1_000) * _NS_PER_MS,
    )


_current: Runtime | None = None
_registered: dict[str, tuple[Any, ...]] = {}
_uninstalled = False


def current() -> Runtime | None:
    """The installation of this process."""
    return _current


def install_from_environment() -> Runtime | None:
    """Install what the environment asks for; ``None`` where it asks for nothing. Never raises for a bad setting."""
    if _current is not None or _uninstalled:
        return _current
    settings, complaints = from_environment(os.environ)
    activation = decide(os.environ, settings)
    if not activation.active:
        logger.debug("not active: %s", activation.why)
        return None
    for complaint in complaints:
        logger.warning("%s", complaint)
    return _install(settings, activation, None, watch_torch=True)


def _install(settings: Settings, activation: Activation, redact: Redact | None, *, watch_torch: bool) -> Runtime:
    global _current
    registry = Registry()
    for name, exporters in _registered.items():
        registry.register(name, *exporters)
    registry.lead_defaults_to(_exporters(registry, activation))
    runtime = Runtime(settings, registry, os.environ, why=activation.why, redact=redact)
    _current = runtime
    atexit.register(_at_exit)
    if watch_torch:
        runtime.watch_torch()
    else:
        runtime.start()
    return runtime


def _exporters(registry: Registry, activation: Activation) -> list[Exporter]:
    """What the environment names; a name that nobody knows is said, and costs no job anything."""
    exporters: list[Exporter] = []
    for name in activation.destinations or activation.exporters:
        try:
            exporters += registry.exporters_of(name) if activation.destinations else (registry.exporter(name),)
        except KeyError as error:
            logger.warning("%s", error)
    if not exporters and "null" not in activation.destinations:
        logger.warning("no exporter is left of what was named; using otlp")
        exporters.append(registry.exporter("otlp"))
    return exporters


def install(
    *destinations: str,
    redact: Redact | None = None,
    settings: Settings | None = None,
    watch_torch: bool | None = None,
) -> Runtime:
    """Watch this process's agents, and let the drop-in ``torchelastic_otel.events`` reach its exporters.

    Args:
        destinations: Where torch's events go: names of destinations. Without: what the environment says, else ``otlp``.
        redact: Called with every event before it is kept; returns the event to keep. Runs on a thread of ours;
            where it raises, the event's free text is withheld.
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
        activation = Activation(True, "install() names destinations", destinations=destinations)
    elif not activation.active:
        activation = Activation(True, "install()", exporters=("otlp",))
    if watch_torch is None:
        import importlib.util

        watch_torch = "torch" in sys.modules or importlib.util.find_spec("torch") is not None
    return _install(settings, activation, redact, watch_torch=watch_torch)


def uninstall() -> None:
    """Leave torch as it was found, and deliver what there is within the flush timeout."""
    global _current, _uninstalled
    runtime, _current, _uninstalled = _current, None, True
    if runtime is not None:
        atexit.unregister(_at_exit)
        runtime.uninstall()


def flush(timeout_s: float = 10.0) -> bool:
    """Deliver what there is now; whether nothing is left.

    Args:
        timeout_s: The longest to wait, seconds.
    """
    return _current is not None and _current.flush(int(timeout_s * NS_PER_S))


def register_destination(name: str, *exporters: str | Any) -> None:
    """Make a destination known: for ``record(event, destination=name)`` and ``torchrun --event-log-handler name``.

    Args:
        name: The destination's name.
        exporters: Names of OpenTelemetry log exporters (entry points), or exporter objects. More than one: all get
            every event, each at its own pace.

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
    _registered.pop(name, None)
    registry = _current.registry if _current is not None else Registry()
    registry.unregister(name)
    if _current is not None:
        _current.unbind(name)


def _at_exit() -> None:
    # a signal that torch turns into an exception may come in the middle of this: it ends the wait, and the rest
    # stays in the spool for the next agent
    if _current is not None:
        with guard:
            _current.close()
