"""An agent built on torch's, as NVRx and HyperPod build theirs: it records events of its own and names no destination.

Arguments: a port.
"""

from __future__ import annotations

import sys
from typing import Any

from torch.distributed.elastic import events
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler


class WatchingAgent(LocalElasticAgent):
    """Checks the health of its node once its workers run."""

    def _start_workers(self, worker_group: Any) -> Any:
        started = super()._start_workers(worker_group)
        events.record(
            events.Event(name="health_check.passed", source=events.EventSource.AGENT, metadata={"checked": 3})
        )
        return started


def main() -> None:
    """One node, one worker."""
    handler = get_rendezvous_handler(RendezvousParameters("c10d", f"127.0.0.1:{sys.argv[1]}", "subclassed", 1, 1))
    spec = WorkerSpec(
        role="default",
        local_world_size=1,
        entrypoint=sys.executable,
        args=("-c", "pass"),
        rdzv_handler=handler,
        max_restarts=0,
        monitor_interval=0.1,
    )
    agent = WatchingAgent(spec, DefaultLogsSpecs())
    assert not agent.run().is_failed()
    events.record(agent.get_event_succeeded())
    handler.shutdown()


if __name__ == "__main__":
    main()
