"""One static agent whose second worker fails once, on whatever torch runs this; says what was seen of it."""

from __future__ import annotations

import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import api as processes
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from torchelastic_otel import semconv
from torchelastic_otel.instrument.agent_hook import AgentHooks
from torchelastic_otel.instrument.arming import Patches
from torchelastic_otel.instrument.events_hook import store_needs_idle_threads
from torchelastic_otel.model.inferred_event import InferredEvent

told: list[InferredEvent] = []
changed = threading.Condition()


def say(fact: InferredEvent) -> None:
    """Collect what is said."""
    with changed:
        told.append(fact)
        changed.notify_all()


def of(name: str) -> list[Any]:
    """The attributes of what was said under a name."""
    return [fact.attributes for fact in told if fact.name == name]


with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
folder = Path(tempfile.mkdtemp())
mark = folder / "failed"
spec = WorkerSpec(
    role="trainer",
    local_world_size=2,
    rdzv_handler=StaticTCPRendezvous("127.0.0.1", port, 0, 1, "run", 60),
    entrypoint="/bin/sh",
    args=("-c", f'if [ -e {mark} ]; then exit 0; fi; [ "$LOCAL_RANK" = 1 ] && touch {mark} && exit 3; exec sleep 60'),
    max_restarts=1,
    monitor_interval=0.05,
)
logs = getattr(processes, "DefaultLogsSpecs", None)
agent = LocalElasticAgent(
    spec, **({"log_dir": str(folder)} if logs is None else {"logs_specs": logs(log_dir=str(folder))})
)
hooks = AgentHooks(
    Patches(),
    say,
    store_is_safe=not store_needs_idle_threads(),
    hosts_store=lambda: False,
    set_traceparent=False,
    set_evidence=True,
)
hooks.on_agent_created(agent, spec)
assert not agent.run().is_failed()
with changed:
    changed.wait_for(lambda: len(of(semconv.WORKER_EXITED)) >= 4, 20)
print(
    *(each[semconv.PHASE] for each in of(semconv.AGENT_PHASE_ENTERED)),
    *(each[semconv.WORKER_RANK] for each in of(semconv.WORKER_FAILED)),
    len(of(semconv.RESTART_STARTED)),
    len(of(semconv.WORKER_EXITED)),
)
