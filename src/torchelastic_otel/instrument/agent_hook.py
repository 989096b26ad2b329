"""Hooks in torch's agents: which methods are wrapped, and what each call reports to the observer.

Guarantees:

- A wrapper does not change what torch does (:mod:`~torchelastic_otel.instrument.patching`).
- A method that a project overrides (NVRx overrides ``_monitor_workers``, ``_start_workers``, ``_stop_workers``) is
  wrapped where it is overridden; its call of torch's own method is not observed a second time.

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
from torchelastic_otel.agent.processes import Worker
from torchelastic_otel.environment_variables import EVIDENCE_FILE, TRACEPARENT, TRAINING_FILE
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.guard import guard
from torchelastic_otel.instrument.arming import Patches
from torchelastic_otel.instrument.patching import AroundFunction, IdentityMap, MethodPatcher, nothing
from torchelastic_otel.instrument.rendezvous_hook import StateBeforeSync, TorchRendezvous, wrap_sanitize
from torchelastic_otel.model.cause import MEMBERSHIP_CHANGE, WORKER_FAILURE
from torchelastic_otel.model.inferred_event import InferredEvent
from torchelastic_otel.model.job_environment import configured_host_name
from torchelastic_otel.model.text import bounded
from torchelastic_otel_evidence import EntryPoint

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
"""Where an agent is observed (torch 2.2 to 2.15): purpose, module, class, name. A missing one is left out."""


@dataclass(eq=False)  # without slots: it is referenced weakly
class _ObservedAgent:
    """One agent under observation."""

    observer: AgentObserver
    job: JobCoordinator
    rendezvous: TorchRendezvous
    inside: set[str] = field(default_factory=set)


class AgentHooks:
    """The hooks in all agents of this process.

    Args:
        patches: Records the replaced attributes.
        emit: Takes the events.
        store_is_safe: Whether this torch's store can be used beside other threads.
        hosts_store: Whether this process hosts the store of the dynamic rendezvous.
        set_traceparent: Whether workers get the context of their span.
        set_evidence: Whether workers note their exceptions and stacks.
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
        set_evidence: bool,
        at_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._at_end = at_end
        self._set_traceparent = set_traceparent
        self._set_evidence = set_evidence
        self._patches = patches
        self._methods = MethodPatcher(patches)
        self._emit = emit
        self._store_is_safe = store_is_safe
        self._hosts_store = hosts_store
        self._thread = EventLoopThread()
        self._with_environment: set[Any] = set()
        self._starting_agent: _ObservedAgent | None = None
        # by identity: an agent's class may define its own equality
        self._watched: weakref.WeakValueDictionary[int, _ObservedAgent] = weakref.WeakValueDictionary()
        self._agents: weakref.WeakKeyDictionary[Any, _ObservedAgent] = weakref.WeakKeyDictionary()
        self._contexts: weakref.WeakKeyDictionary[Any, _ObservedAgent] = weakref.WeakKeyDictionary()

    def stop(self) -> None:
        """Observe no agent any more."""
        self._thread.stop()

    def on_agent_created(self, agent: Any, spec: Any) -> None:
        """Observe an agent of any class."""
        handler = spec.rdzv_handler
        rendezvous = TorchRendezvous(handler)
        nodes_min, nodes_max = rendezvous.nodes()
        config = AgentConfig(
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
            lambda: observer.id,
            bounded(configured_host_name(os.environ) or socket.gethostname()),
            self._emit,
            self._thread,
            shared_rounds=holder is not None,
        )
        observer = AgentObserver(config, self._emit, self._thread, job, rendezvous.view)
        observed = _ObservedAgent(observer, job, rendezvous)
        self._agents[agent] = observed
        self._watched[id(handler)] = observed
        if holder is not None:
            self._watched[id(holder)] = observed
            self._methods.wrap(type(holder), "_sanitize", lambda original: wrap_sanitize(original, self._on_sanitize))
        around = self._methods.around
        hooks = {
            **_AROUND,
            "run": (nothing, self._after_run),
            "_rendezvous": (self._before_rendezvous, nothing),
            "_start_workers": (self._before_start, self._after_start),
        }
        for name, (before, after) in hooks.items():
            around(type(agent), name, self._agents, before, after)
        self._hook_environment(type(agent))
        around(type(handler), "next_rendezvous", IdentityMap(self._watched), nothing, self._after_next_rendezvous)

    # --- around methods, with the state of all hooks

    def _after_next_rendezvous(
        self, observed: _ObservedAgent, handler: Any, args: Any, info: Any, error: BaseException | None
    ) -> None:
        if error is None and info is not None:
            self._connect_store(observed)
            is_tuple = isinstance(info, tuple) and len(info) == 3
            _, rank, world_size = info if is_tuple else (None, info.rank, info.world_size)
            observed.observer.on_rendezvous_end(int(rank), int(world_size))

    def _connect_store(self, observed: _ObservedAgent) -> None:
        observed.rendezvous.connect_store(observed.job, is_safe=self._store_is_safe, hosts_store=self._hosts_store)

    def _after_run(self, observed: _ObservedAgent, agent: Any, args: Any, result: Any, error: Any) -> None:
        if error is not None:
            signal = getattr(error, "sigval", None)
            observed.observer.on_exit("terminated" if signal is not None else "error", type(error).__name__)
        elif result is None:
            observed.observer.on_exit("left", "RendezvousGracefulExitError")
        else:
            # a worker that hangs for good leaves the group unhealthy, which is no failure for torch (2.13 to 2.15)
            failed = result.is_failed() or result.state.name == "UNHEALTHY"
            observed.observer.on_exit("failed" if failed else "succeeded", None)
        self._at_end()

    def _before_rendezvous(self, observed: _ObservedAgent, agent: Any, args: Any, result: Any, error: Any) -> None:
        self._connect_store(observed)
        observed.observer.on_rendezvous_begin()

    def _before_start(self, observed: _ObservedAgent, agent: Any, args: Any, result: Any, error: Any) -> None:
        self._starting_agent = observed
        observed.observer.on_start_begin()

    def _after_start(self, observed: _ObservedAgent, agent: Any, args: Any, pids: Any, error: Any) -> None:
        self._starting_agent = None
        if error is not None or not pids:
            return
        # torch makes a new context for each start
        context = getattr(agent, "_pcontext", None)
        # by local rank; standard error's is the empty string where torchrun does not redirect it (torch 2.2 to 2.15)
        files, stderrs = getattr(context, "error_files", {}), getattr(context, "stderrs", {})
        ranks = {worker.local_rank: worker.global_rank for worker in agent._worker_group.workers}
        observed.observer.on_start_end(
            Worker(
                int(local),
                ranks.get(local),
                int(pid),
                files.get(local),
                stderrs.get(local) or None,
                observed.observer.training.evidence_path(local) if self._set_evidence else None,
            )
            for local, pid in sorted(pids.items())
        )
        if context is not None:
            self._contexts[context] = observed
            self._methods.around(type(context), "close", self._contexts, _before_close, _after_close)

    def _on_sanitize(self, holder: Any, before: StateBeforeSync) -> None:
        observed = self._watched.get(id(holder))
        if observed is not None:
            observed.job.on_silent(observed.rendezvous.silent_nodes(holder, before))

    # --- the environment of workers

    def _hook_environment(self, kind: type) -> None:
        """Wrap ``start_processes``, to which the agent's ``_start_workers`` passes the workers' environment."""
        # a method that overrides another one may call it
        for base in kind.__mro__:
            module = sys.modules.get(base.__module__) if "_start_workers" in vars(base) else None
            if module not in self._with_environment and callable(getattr(module, "start_processes", None)):
                self._with_environment.add(module)
                self._wrap_start_processes(module)

    def _wrap_start_processes(self, module: Any) -> None:
        original = module.start_processes

        def start_processes(*args: Any, **kwargs: Any) -> Any:
            observed = self._starting_agent
            if observed is not None:
                with guard:
                    self._extend(kwargs.get("envs") or {}, observed.observer)
                    if self._set_evidence and callable(kwargs.get("entrypoint")):
                        kwargs["entrypoint"] = EntryPoint(kwargs["entrypoint"])
            return original(*args, **kwargs)

        start_processes.__wrapped__ = original  # type: ignore[attr-defined]
        self._patches.put(module, "start_processes", start_processes)

    def _extend(self, environments: Mapping[int, dict[str, str]], observer: AgentObserver) -> None:
        traceparent = observer.traceparent() if self._set_traceparent else None
        for rank, environment in environments.items():
            environment.setdefault(TRAINING_FILE, observer.training.path(rank))
            if self._set_evidence:
                environment[EVIDENCE_FILE] = f"{os.getpid()}:{observer.training.evidence_path(rank)}"
            if traceparent is not None:
                environment.setdefault(TRACEPARENT, traceparent)


# --- around methods: the observed agent, the object, its arguments, its result, what it raised


def _exit_codes(context: Any) -> dict[int, int | None]:
    """Exit codes by local rank, as torch knows them; nothing is polled."""
    handlers = getattr(context, "subprocess_handlers", None)
    if handlers is not None:
        return {int(rank): handler.proc.returncode for rank, handler in handlers.items()}
    processes = getattr(getattr(context, "_pc", None), "processes", ())
    return {rank: getattr(getattr(p, "_popen", None), "returncode", None) for rank, p in enumerate(processes)}


def _before_close(observed: _ObservedAgent, context: Any, *_: Any) -> None:
    observed.observer.on_close_begin(_exit_codes(context))


def _after_close(observed: _ObservedAgent, context: Any, *_: Any) -> None:
    observed.observer.on_close_end(_exit_codes(context))


def _after_monitor(observed: _ObservedAgent, agent: Any, args: Any, result: Any, error: BaseException | None) -> None:
    if error is not None or result is None:
        return
    if result.state.name in ("UNHEALTHY", "FAILED"):
        failed = {failure.pid: failure.exitcode for failure in result.failures.values()}
        hanging = () if failed else tuple(getattr(agent, "_uninterruptible_state_first_seen", ()))
        observed.observer.on_result(failed, hanging)
    observed.observer.on_poll()


def _before_restart(observed: _ObservedAgent, agent: Any, args: Any, result: Any, error: Any) -> None:
    group = args[0] if args else agent._worker_group
    trigger = MEMBERSHIP_CHANGE if group.state.name == "HEALTHY" else WORKER_FAILURE
    observed.observer.on_restart(trigger, group.spec.max_restarts - agent._remaining_restarts)


def _before_shutdown(observed: _ObservedAgent, *_: Any) -> None:
    # torch calls it while it handles its own SignalException, and again, without one, at every other end
    signal = getattr(sys.exc_info()[1], "sigval", None)
    if signal is not None:
        observed.observer.on_leave(getattr(signal, "name", str(signal)))


_AROUND: Final[Mapping[str, tuple[AroundFunction[_ObservedAgent], AroundFunction[_ObservedAgent]]]] = {
    "_monitor_workers": (nothing, _after_monitor),
    "_restart_workers": (_before_restart, nothing),
    "_stop_workers": (lambda observed, *_: observed.observer.on_stop(), nothing),
    "_exit_barrier": (lambda observed, *_: observed.observer.on_exit_barrier(), nothing),
    "_shutdown": (_before_shutdown, nothing),
}
