"""Hooks on the torch that is there, and small real agents for them to watch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.observers import EventCollector
from tests.support.ports import free_port
from torchelastic_otel import semconv
from torchelastic_otel.instrument.agent_hook import AgentHooks
from torchelastic_otel.instrument.arming import Patches


@dataclass
class HookedTorch:
    """Hooks on the torch that is there, and agents of any class."""

    folder: Path
    events: EventCollector = field(default_factory=EventCollector)
    patches: Patches = field(default_factory=Patches)
    hosts: bool = False
    hands_context_on: bool = False

    def __post_init__(self) -> None:
        self.hooks = AgentHooks(
            self.patches,
            lambda event: self.events(event),
            store_is_safe=True,
            hosts_store=lambda: self.hosts,
            set_traceparent=self.hands_context_on,
            set_evidence=True,
        )

    def agent(self, kind: Any, code: str, *, workers: int = 1, restarts: int = 0, handler: Any = None) -> Any:
        """A watched agent whose workers run a line of shell."""
        from torch.distributed.elastic.agent.server.api import WorkerSpec
        from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

        spec = WorkerSpec(
            role="trainer",
            local_world_size=workers,
            rdzv_handler=handler or StaticTCPRendezvous("127.0.0.1", free_port(), 0, 1, "run", 60),
            entrypoint="/bin/sh",
            args=("-c", code),
            max_restarts=restarts,
            monitor_interval=0.02,
        )
        made = kind(spec, **self._logs())
        self.hooks.on_agent_created(made, spec)
        return made

    def _logs(self) -> dict[str, Any]:
        from torch.distributed.elastic.multiprocessing import api

        kind = getattr(api, "DefaultLogsSpecs", None)
        return {"log_dir": str(self.folder)} if kind is None else {"logs_specs": kind(log_dir=str(self.folder))}

    def phases(self) -> list[str]:
        """The phases that the agents went through."""
        return [event.attributes[semconv.PHASE] for event in self.events.of(semconv.AGENT_PHASE_ENTERED)]

    def last(self, name: str) -> Any:
        """The attributes of what was last said under a name."""
        return self.events.of(name)[-1].attributes


def local_agent() -> Any:
    """Torch's own."""
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    return LocalElasticAgent


def dynamic(store: Any, run_id: str = "dyn", *, nodes: int = 1, local: str = "node") -> Any:
    """A dynamic rendezvous handler on a store of the test's."""
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

    parameters = RendezvousParameters(
        "c10d", "127.0.0.1", run_id, nodes, nodes, local_addr=local, last_call_timeout="1", join_timeout="60"
    )
    return create_handler(store, C10dRendezvousBackend(store, run_id), parameters)


def tcp_store() -> Any:
    """A store that this process hosts."""
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
