"""What touches torch's agents: where they are watched, method by method, and what each method tells.

What always holds:

- A wrapper does torch no harm (:mod:`~torchelastic_otel.instrument.patching` says how).
- A method that a project overrode (NVRx overrides ``_monitor_workers``, ``_start_workers``, ``_stop_workers``) is
  wrapped where it is overridden; where it calls torch's own, that is not seen a second time.

Facts (torch 2.2 to 2.15): the hook points of ``SimpleElasticAgent`` and ``PContext.close`` kept their names;
``next_rendezvous`` returns a tuple in 2.2 and ``RendezvousInfo`` later; ``_stop_workers`` takes one more argument from
2.4 to 2.6.
"""

from __future__ import annotations

import os
import socket
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torchelastic_otel.agent.config import AgentConfig
from torchelastic_otel.agent.coordination.coordinator import JobCoordinator
from torchelastic_otel.agent.observer import AgentObserver
from torchelastic_otel.agent.workers import Worker
from torchelastic_otel.environment_variables import TRACEPARENT, TRAINING_FILE
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.guard import guard
from torchelastic_otel.instrument.arming import Patches
from torchelastic_otel.instrument.patching import AroundFunction, IdentityMap, MethodPatcher, nothing
from torchelastic_otel.instrument.rendezvous_hook import StateBeforeSync, TorchRendezvous, wrap_sanitize
from torchelastic_otel.model.failure import MEMBERSHIP_CHANGE, WORKER_FAILURE
from torchelastic_otel.model.inferred_event import InferredEvent
from torchelastic_otel.model.job_environment import configured_host_name
from torchelastic_otel.model.text import bounded

_API: Final = ".agent.server.api"
_LOCAL: Final = ".agent.server.local_elastic_agent"
HOOK_POINTS: Final = (
    ("agent: run", _API, "SimpleElasticAgent", "run"),
    ("agent: rendezvous", _API, "SimpleElasticAgent", "_rendezvous"),
    ("agent: start of workers", _LOCAL, "LocalElasticAgent", "_start_workers"),
    ("agent: result", _LOCAL, "LocalElasticAgent", "_monitor_workers"),
    ("agent: restart and its reason", _API, "SimpleElasticAgent", "_restart_workers"),
    ("agent: stop", _LOCAL, "LocalElasticAgent", "_stop_workers"),
    ("agent: exit barrier", _API, "SimpleElasticAgent", "_exit_barrier"),
    ("agent: shutdown", _LOCAL, "LocalElasticAgent", "_shutdown"),
    ("workers: failure seen, stopping", ".multiprocessing.api", "PContext", "close"),
    ("workers: environment", _LOCAL, None, "start_processes"),
    ("rendezvous: node death", ".rendezvous.dynamic_rendezvous", "_BackendRendezvousStateHolder", "_sanitize"),
)
"""Where an agent is watched (torch 2.2 to 2.15): what for, module, class, name. One that is missing is left out."""


@dataclass(eq=False)  # without slots: it is held weakly
class _ObservedAgent:
    """One agent under watch."""

    observer: AgentObserver
    job: JobCoordinator
    rendezvous: TorchRendezvous
    inside: set[str] = field(default_factory=set)


class AgentHooks:
    """The watch over all agents of this process.

    Args:
        patches: Where what is replaced is noted.
        say: Takes what there is to say.
        store_is_safe: Whether this torch's store can be used beside other threads.
        hosts_store: Whether this process hosts the store of the dynamic rendezvous.
        hands_context_on: Whether workers get the context of their span.
        at_end: Called when an agent's ``run`` is over.
    """

    def __init__(
        self,
        patches: Patches,
        emit: Callable[[InferredEvent], object],
        *,
        store_is_safe: bool,
        hosts_store: Callable[[], bool],
        set_traceparent: bool,
        at_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._at_end = at_end
        self._set_traceparent = set_traceparent
        self._patches = patches
        self._methods = MethodPatcher(patches)
        self._emit = emit
        self._store_is_safe = store_is_safe
        self._hosts_store = hosts_store
        self._thread = EventLoopThread()
        self._with_environment: set[Any] = set()
        self._starting_agent: _ObservedAgent | None = None
        # by identity: an agent's class may have its own idea of equality
        self._watched: weakref.WeakValueDictionary[int, _ObservedAgent] = weakref.WeakValueDictionary()
        self._agents: weakref.WeakKeyDictionary[Any, _ObservedAgent] = weakref.WeakKeyDictionary()
        self._contexts: weakref.WeakKeyDictionary[Any, _ObservedAgent] = weakref.WeakKeyDictionary()

    def stop(self) -> None:
        """No agent is watched any more."""
        self._thread.stop()

    def on_agent_created(self, agent: Any, spec: Any) -> None:
        """Watch an agent, whatever class it is of."""
        handler = spec.rdzv_handler
        rendezvous = TorchRendezvous(handler)
        nodes_min, nodes_max = rendezvous.nodes()
        described = AgentConfig(
            rendezvous.run_id,
            rendezvous.backend,
            str(spec.role),
            str(spec.get_entrypoint_name()),
            nodes_min,
            nodes_max,
            int(spec.local_world_size),
            int(spec.max_restarts),
        )
        holder = rendezvous.holder
        job = JobCoordinator(
            rendezvous.run_id,
            lambda: watch.id,
            bounded(configured_host_name(os.environ) or socket.gethostname()),
            self._emit,
            self._thread,
            shared_rounds=holder is not None,
        )
        watch = AgentObserver(described, self._emit, self._thread, job, rendezvous.view)
        watched = _ObservedAgent(watch, job, rendezvous)
        self._agents[agent] = watched
        self._watched[id(handler)] = watched
        if holder is not None:
            self._watched[id(holder)] = watched
            self._methods.wrap(type(holder), "_sanitize", lambda original: wrap_sanitize(original, self._sanitized))
        kind = type(agent)
        around = self._methods.around
        for name, (before, after) in _AROUND.items():
            around(kind, name, self._agents, before, after)
        around(kind, "run", self._agents, nothing, self._ran)
        around(kind, "_rendezvous", self._agents, self._rendezvous_begins, nothing)
        around(kind, "_start_workers", self._agents, self._starting, self._started)
        self._environment_hook(kind)
        around(type(handler), "next_rendezvous", IdentityMap(self._watched), nothing, self._joined)

    # --- what needs the hooks themselves

    def _joined(self, watched: _ObservedAgent, handler: Any, args: Any, info: Any, error: BaseException | None) -> None:
        if error is not None or info is None:
            return
        self._use_store(watched)
        _, rank, world_size = info if isinstance(info, tuple) and len(info) == 3 else (None, info.rank, info.world_size)
        watched.observer.on_rendezvous_end(int(rank), int(world_size))

    def _use_store(self, watched: _ObservedAgent) -> None:
        watched.rendezvous.connect_store(watched.job, is_safe=self._store_is_safe, hosts_store=self._hosts_store)

    def _ran(self, watched: _ObservedAgent, agent: Any, args: Any, result: Any, error: BaseException | None) -> None:
        if error is not None:
            signal = getattr(error, "sigval", None)
            watched.observer.on_exit("terminated" if signal is not None else "error", type(error).__name__)
        elif result is None:
            watched.observer.on_exit("left", "RendezvousGracefulExitError")
        else:
            # a worker that hangs for good leaves the group unhealthy, which torch does not call failed (2.13 to 2.15)
            failed = result.is_failed() or result.state.name == "UNHEALTHY"
            watched.observer.on_exit("failed" if failed else "succeeded", None)
        self._at_end()

    def _rendezvous_begins(self, watched: _ObservedAgent, agent: Any, args: Any, result: Any, error: Any) -> None:
        self._use_store(watched)
        watched.observer.on_rendezvous_begin()

    def _environment_hook(self, kind: type) -> None:
        """Add to the environment of workers, where the agent's ``_start_workers`` hands it to ``start_processes``."""
        # one that overrides it may call the one that it overrides
        for base in kind.__mro__:
            local = sys.modules.get(base.__module__) if "_start_workers" in vars(base) else None
            if local not in self._with_environment and callable(getattr(local, "start_processes", None)):
                self._with_environment.add(local)
                self._hook_environment_in(local)

    def _hook_environment_in(self, local: Any) -> None:
        original = local.start_processes

        def start_processes(*args: Any, **kwargs: Any) -> Any:
            watched = self._starting_agent
            if watched is not None:
                with guard:
                    self._add_to(kwargs.get("envs") or {}, watched.observer)
            return original(*args, **kwargs)

        start_processes.__wrapped__ = original  # type: ignore[attr-defined]
        self._patches.put(local, "start_processes", start_processes)

    def _add_to(self, environments: Mapping[int, dict[str, str]], watch: AgentObserver) -> None:
        traceparent = watch.traceparent() if self._set_traceparent else None
        for rank, environment in environments.items():
            environment.setdefault(TRAINING_FILE, watch.training.path(rank))
            if traceparent is not None:
                environment.setdefault(TRACEPARENT, traceparent)

    def _starting(self, watched: _ObservedAgent, agent: Any, args: Any, result: Any, error: Any) -> None:
        self._starting_agent = watched
        watched.observer.on_start_begin()

    def _started(self, watched: _ObservedAgent, agent: Any, args: Any, pids: Any, error: BaseException | None) -> None:
        self._starting_agent = None
        if error is not None or not pids:
            return
        # torch makes a new context for each start
        context = getattr(agent, "_pcontext", None)
        files = getattr(context, "error_files", {})
        ranks = {worker.local_rank: worker.global_rank for worker in agent._worker_group.workers}
        watched.observer.on_start_end(
            Worker(int(local), ranks.get(local), int(pid), files.get(local)) for local, pid in sorted(pids.items())
        )
        if context is not None:
            self._contexts[context] = watched
            self._methods.around(type(context), "close", self._contexts, _closing, _closed)

    def _sanitized(self, holder: Any, before: StateBeforeSync) -> None:
        watched = self._watched.get(id(holder))
        if watched is not None:
            watched.job.on_silent(watched.rendezvous.silent_nodes(holder, before))


def _codes(context: Any) -> dict[int, int | None]:
    """Exit codes by local rank, as torch knows them; nothing is polled."""
    handlers = getattr(context, "subprocess_handlers", None)
    if handlers is not None:
        return {int(rank): handler.proc.returncode for rank, handler in handlers.items()}
    processes = getattr(getattr(context, "_pc", None), "processes", ())
    return {rank: getattr(getattr(p, "_popen", None), "returncode", None) for rank, p in enumerate(processes)}


# --- around each method: watched, the object, its arguments, its result, what it raised


def _closing(watched: _ObservedAgent, context: Any, args: Any, result: Any, error: BaseException | None) -> None:
    watched.observer.on_close_begin(_codes(context))


def _closed(watched: _ObservedAgent, context: Any, args: Any, result: Any, error: BaseException | None) -> None:
    watched.observer.on_close_end(_codes(context))


def _monitored(watched: _ObservedAgent, agent: Any, args: Any, result: Any, error: BaseException | None) -> None:
    if error is not None or result is None:
        return
    if result.state.name in ("UNHEALTHY", "FAILED"):
        failed = {failure.pid: failure.exitcode for failure in result.failures.values()}
        hanging = () if failed else tuple(getattr(agent, "_uninterruptible_state_first_seen", ()))
        watched.observer.on_result(failed, hanging)
    watched.observer.on_poll()


def _restarting(watched: _ObservedAgent, agent: Any, args: Any, result: Any, error: BaseException | None) -> None:
    group = args[0] if args else agent._worker_group
    trigger = MEMBERSHIP_CHANGE if group.state.name == "HEALTHY" else WORKER_FAILURE
    watched.observer.on_restart(trigger, group.spec.max_restarts - agent._remaining_restarts)


def _stopping(watched: _ObservedAgent, agent: Any, args: Any, result: Any, error: BaseException | None) -> None:
    watched.observer.on_stop()


def _at_barrier(watched: _ObservedAgent, agent: Any, args: Any, result: Any, error: BaseException | None) -> None:
    watched.observer.on_exit_barrier()


def _shutting_down(watched: _ObservedAgent, agent: Any, args: Any, result: Any, error: BaseException | None) -> None:
    # torch calls it while it handles its own SignalException, and again, without one, at every other end
    signal = getattr(sys.exc_info()[1], "sigval", None)
    if signal is not None:
        watched.observer.on_leave(getattr(signal, "name", str(signal)))


_AROUND: Final[Mapping[str, tuple[AroundFunction[_ObservedAgent], AroundFunction[_ObservedAgent]]]] = {
    "_monitor_workers": (nothing, _monitored),
    "_restart_workers": (_restarting, nothing),
    "_stop_workers": (_stopping, nothing),
    "_exit_barrier": (_at_barrier, nothing),
    "_shutdown": (_shutting_down, nothing),
}
