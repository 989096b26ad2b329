"""One of three agents, each a process of its own, around the first one's store: the second one's worker fails once."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

from torchelastic_otel import semconv
from torchelastic_otel.instrument.agent_hook import AgentHooks
from torchelastic_otel.instrument.arming import Patches
from torchelastic_otel.model.inferred_event import InferredEvent

port, number, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
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


store = TCPStore("127.0.0.1", port, is_master=number == 0, wait_for_workers=False)
parameters = RendezvousParameters("c10d", "", "three", 3, 3, local_addr="127.0.0.1", last_call_timeout="1")
handler = create_handler(store, C10dRendezvousBackend(store, "three"), parameters)
mark = folder / f"started-{number}"
spec = WorkerSpec(
    role="trainer",
    local_world_size=1,
    rdzv_handler=handler,
    entrypoint="/bin/sh",
    # in the first round the second node fails and the others wait to be stopped; in the next one all are done
    args=("-c", f"if [ -e {mark} ]; then exit 0; fi; touch {mark}; [ {number} = 1 ] && exit 3; exec sleep 60"),
    max_restarts=1,
    monitor_interval=0.1,
)
agent = LocalElasticAgent(spec, logs_specs=DefaultLogsSpecs(log_dir=str(folder)))
hooks = AgentHooks(
    Patches(), say, store_is_safe=True, hosts_store=lambda: number == 0, set_traceparent=False, set_evidence=True
)
hooks.on_agent_created(agent, spec)
failed = agent.run().is_failed()
wanted = [(semconv.RESTART_CAUSE_AGREED, 1), (semconv.ROUND_STARTED, 2 if number == 0 else 0)]
with changed:
    changed.wait_for(lambda: all(len(of(name)) >= count for name, count in wanted), 20)
for each in of(semconv.RUN_IDENTIFIED):
    print("identified", each[semconv.RUN_NONCE])
for each in of(semconv.RESTART_CAUSE_AGREED):
    keys = sorted(key for key in each if key.startswith(semconv.CAUSE) or key == semconv.RESTART_REASON)
    print("agreed", [(key, each[key]) for key in keys])
for each in of(semconv.ROUND_STARTED):
    print("started", each[semconv.RENDEZVOUS_ROUND])
for each in of(semconv.WORKER_FAILED):
    print("failed", each[semconv.WORKER_RANK])
sys.stdout.flush()
# the store must outlive the others, and its host ends last
if number == 0:
    for other in (1, 2):
        store.get(f"done {other}")
else:
    store.set(f"done {number}", "1")
sys.exit(int(failed))
