"""Hooks in torch's events, and the installation of all hooks in one package.

Guarantees:

- Each hook is tried with the installed torch; one that does not fit stays off, one warning lists all of them, and the
  others work.
- A function is replaced everywhere torch has bound it, and restored everywhere.
- Nothing raises into torch except the error for an unknown event handler, before any rendezvous.

Facts (torch 1.13 to 2.15): callers bind ``record`` and ``construct_and_record_rdzv_event`` by name, so that
destinations are hooked below them, at the logging handler. ``construct_and_record_rdzv_event`` and
``dynamic_rendezvous.get_method_name`` walk the whole stack with ``inspect.stack()``, even with events off.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torchelastic_otel.errors import IncompatibleTorchError
from torchelastic_otel.events.caller import caller, method_name
from torchelastic_otel.events.handler_registry import HandlerRegistry
from torchelastic_otel.guard import guard
from torchelastic_otel.instrument.agent_hook import HOOK_POINTS, AgentHooks
from torchelastic_otel.instrument.arming import TORCH_ELASTIC, Patches, check_unless_torch_knows, module, of_type, takes
from torchelastic_otel.instrument.metrics_hook import TorchMetrics

if TYPE_CHECKING:
    from torchelastic_otel.ingest.queue import IngestQueue

logger = logging.getLogger("torchelastic_otel")


@dataclass(frozen=True, slots=True)
class HookReport:
    """One hook in the installed torch, for ``doctor``.

    Attributes:
        name: The hook's name.
        fits: The torch versions it is known to fit.
        trouble: Why it is off, or the empty string.
    """

    name: str
    fits: str
    trouble: str


class TorchHooks:
    """The hooks of one installation.

    Args:
        queue: Takes the events.
        destinations: The destinations to bind; torch gets to know the new ones among them.
        check_destination: Raises for an unknown destination.
        set_traceparent: Whether workers get the context of their span.
        set_evidence: Whether workers note their exceptions and stacks.
        elastic: The hooked package: torch's own, or a copy that a project brings.
        at_end: Called when an agent's ``run`` is over.
    """

    def __init__(
        self,
        queue: IngestQueue,
        destinations: Iterable[str],
        check_destination: Callable[[str], object],
        *,
        set_traceparent: bool = False,
        set_evidence: bool = True,
        elastic: str = TORCH_ELASTIC,
        at_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._at_end = at_end
        self._elastic = elastic
        self._dynamic = elastic + ".rendezvous.dynamic_rendezvous"
        self._set_traceparent = set_traceparent
        self._set_evidence = set_evidence
        self.torch_metrics = TorchMetrics(elastic)
        self._queue = queue
        self._destinations = tuple(destinations)
        self._check_destination = check_destination
        self._patches = Patches()
        self._registry: HandlerRegistry | None = None
        self._at_uninstall: Callable[[], None] = lambda: None
        self._hosts_store = False
        self._agents: AgentHooks | None = None
        self.reports: list[HookReport] = []

    def install(self) -> None:
        """Install every hook that fits; one warning lists the others."""
        hooks: list[tuple[str, str, Callable[[], object]]] = [
            ("destinations", "1.13 to 2.15", self._destinations_hook),
            ("construct_and_record_rdzv_event", "1.13 to 2.15", self._construct_hook),
            ("get_method_name", "1.13 to 2.15", self._method_name_hook),
            ("agents", "2.2 to 2.15", self._agent_hook),
            ("torch's metrics", "2.2 to 2.15", lambda: self.torch_metrics.install(self._patches)),
        ]
        # these are installed when an agent is created, on its class; whether they exist is checked now
        hooks += [(name, "2.2 to 2.15", partial(self._must_have, *where)) for name, *where in HOOK_POINTS]
        for name, fits, install in hooks:
            trouble = ""
            try:
                install()
            except (IncompatibleTorchError, ImportError, AttributeError, TypeError, ValueError) as error:
                trouble = f"{type(error).__name__}: {error}"
            self.reports.append(HookReport(name, fits, trouble))
        off = [f"{report.name} ({report.trouble})" for report in self.reports if report.trouble]
        if off:
            logger.warning("these hooks do not fit this torch and stay off, the others work: %s", "; ".join(off))

    def bind(self, destination: str) -> None:
        """Bind one more destination, or rebind one."""
        from torchelastic_otel.ingest.handler import SpoolHandler

        if self._registry is not None:
            self._registry.bind(destination, SpoolHandler(destination, self._queue))

    def unbind(self, destination: str) -> None:
        """Restore one destination."""
        if self._registry is not None:
            self._registry.unbind(destination)

    def uninstall(self) -> None:
        """Leave torch as it was found."""
        self._patches.undo()
        self._at_uninstall()
        if self._agents is not None:
            self._agents.stop()
        if self._registry is not None:
            for destination in self._registry.destinations:
                self._registry.unbind(destination)
            self._registry = None

    # --- the hooks

    def _must_have(self, where: str, kind: str | None, name: str) -> None:
        owner = module(self._elastic + where)
        if kind is not None:
            owner = of_type(owner, kind, type)
        if not callable(getattr(owner, name, None)):
            raise IncompatibleTorchError(f"{owner.__name__} has no {name}")

    def _destinations_hook(self) -> None:
        events = module(self._elastic + ".events")
        entries = of_type(module(self._elastic + ".events.handlers"), "_log_handlers", dict)
        of_type(events, "_events_loggers", dict)

        def logger_of(destination: str) -> logging.Logger:
            # torch's own name for it, so that a logger made later by torch is this one
            return logging.getLogger(f"torchelastic-events-{destination}")

        self._registry = HandlerRegistry(entries, lambda: events._events_loggers, logger_of)
        for destination in self._destinations:
            self.bind(destination)
        original, resolve = events.get_logging_handler, self._check_destination

        def get_logging_handler(destination: str = "null") -> logging.Handler:
            if destination not in entries:
                with guard:
                    try:
                        resolve(destination)  # a package may have brought it; then torch knows it from now on
                    except KeyError:
                        pass  # torch's own error follows
            handler: logging.Handler = original(destination)
            return handler

        self._patches.put(events, "get_logging_handler", get_logging_handler)

    def _construct_hook(self) -> None:
        events = module(self._elastic + ".events")
        original = events.construct_and_record_rdzv_event
        takes(original, "run_id", "message", "node_state", "name", "hostname", "pid", "master_endpoint", "local_id")
        takes(original, "rank")
        make, failed = events.RdzvEvent, events.NodeState.FAILED
        events.record_rdzv_event  # noqa: B018 - must be there; looked up at each call

        def construct_and_record_rdzv_event(
            run_id: str,
            message: str,
            node_state: Any,
            name: str = "",
            hostname: str = "",
            pid: int | None = None,
            master_endpoint: str = "",
            local_id: int | None = None,
            rank: int | None = None,
        ) -> None:
            with guard:
                file, function = caller(2)
                # recorded by the process that hosts the store, and by no other (torch 1.13 to 2.15)
                self._hosts_store = self._hosts_store or function == "_create_tcp_store"
                event = make(
                    name=f"{file}:{name or function}",
                    run_id=run_id,
                    message=message,
                    # torch queries the DNS here; the host's own name needs no query
                    hostname=hostname or socket.gethostname(),
                    pid=pid or os.getpid(),
                    node_state=node_state,
                    master_endpoint=master_endpoint,
                    rank=rank,
                    local_id=local_id,
                    error_trace=traceback.format_exc() if node_state == failed else "",
                )
                events.record_rdzv_event(event)

        construct_and_record_rdzv_event.__doc__ = original.__doc__
        self._rebind(original, construct_and_record_rdzv_event)
        # c10d_rendezvous_backend may be imported later and then binds the replacement: it is restored, too
        self._at_uninstall = lambda: self._rebind(construct_and_record_rdzv_event, original)

    def _rebind(self, before: object, after: object) -> None:
        module(self._dynamic)
        for each in (
            sys.modules[self._elastic + ".events"],
            sys.modules[self._dynamic],
            sys.modules.get(self._elastic + ".rendezvous.c10d_rendezvous_backend"),
        ):
            if each is not None and vars(each).get("construct_and_record_rdzv_event") is before:
                each.construct_and_record_rdzv_event = after  # type: ignore[attr-defined]

    def _method_name_hook(self) -> None:
        dynamic = module(self._dynamic)
        takes(dynamic.get_method_name, "depth")
        self._patches.put(dynamic, "get_method_name", method_name)

    def _agent_hook(self) -> None:
        agent = of_type(module(self._elastic + ".agent.server.api"), "SimpleElasticAgent", type)
        original = agent.__init__
        takes(original, "spec")
        check, elastic = self._check_destination, self._elastic
        hooks = self._agents = AgentHooks(
            self._patches,
            lambda event: self._queue.submit("null", event.to_text()),
            store_is_safe=not store_needs_idle_threads(),
            hosts_store=lambda: self._hosts_store,
            set_traceparent=self._set_traceparent,
            set_evidence=self._set_evidence,
            at_end=self._at_end,
        )

        def __init__(self: Any, spec: Any, *args: Any, **kwargs: Any) -> None:
            check_unless_torch_knows(getattr(spec, "event_log_handler", None), check, elastic)
            original(self, spec, *args, **kwargs)
            with guard:
                hooks.on_agent_created(self, spec)

        __init__.__wrapped__ = original  # type: ignore[attr-defined]
        self._patches.put(agent, "__init__", __init__)


def store_needs_idle_threads() -> bool:
    """Whether this torch's store may crash the process if other threads run Python during a ``compare_set``.

    Before torch 2.4 ``Store.compare_set`` creates its result, a Python object, without the interpreter's lock (pytorch
    pull request 128212): an import on another thread at that moment may end in a segmentation fault. The rendezvous
    begins with a ``compare_set``.
    """
    release = (torch_version() or "").split(".")[:2]
    return all(number.isdecimal() for number in release) and tuple(map(int, release)) < (2, 4)


def torch_version() -> str | None:
    """The version of the imported torch; ``None`` if none is imported."""
    return getattr(sys.modules.get("torch"), "__version__", None)
