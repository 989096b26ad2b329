"""Installs, has an agent run, uninstalls, and tells what of torch is not as it was.

Arguments: a port; when torch's c10d backend is first imported (or ``instrumentor``); whether torch's events were used
before.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

from torch.distributed.elastic import events
from torch.distributed.elastic.agent.server.api import SimpleElasticAgent
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.events import handlers
from torch.distributed.elastic.rendezvous import dynamic_rendezvous
from torch.distributed.elastic.rendezvous.api import RendezvousHandlerRegistry
from torch.distributed.run import main as torchrun

C10D = "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend"
DESTINATIONS = ("null", "dynamic_rendezvous", "console", "file", "otlp", "mine")


def snapshot() -> dict[str, Any]:
    """Every attribute of what we touch, the loggers' state, and what is in torch's two dictionaries."""
    owners = {
        "events": events,
        "handlers": handlers,
        "dynamic": dynamic_rendezvous,
        "agent": SimpleElasticAgent,
        "local agent": LocalElasticAgent,
        "registry": RendezvousHandlerRegistry,
    }
    if C10D in sys.modules:
        owners["c10d"] = sys.modules[C10D]
    found = {f"{name}.{key}": value for name, owner in owners.items() for key, value in vars(owner).items()}
    found |= {f"handler of {name}": handler for name, handler in handlers._log_handlers.items()}
    found |= {f"cached logger of {name}": logger for name, logger in events._events_loggers.items()}
    for name in DESTINATIONS:
        logger = logging.getLogger(f"torchelastic-events-{name}")
        state = {"level": logger.level, "propagate": logger.propagate, "disabled": logger.disabled}
        found |= {f"{key} of {name}": value for key, value in state.items()}
        found |= {f"handlers of {name}": tuple(logger.handlers)}
    root = logging.getLogger()
    return found | {"root handlers": tuple(root.handlers), "root level": root.level}


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    """What is not the same object (for plain values: not equal), or is new, or is gone."""
    plain = (int, str, tuple)
    changed = {}
    for name in {*before, *after}:
        one, other = before.get(name), after.get(name)
        if one is not other and not (isinstance(one, plain) and one == other):
            changed[name] = f"{one!r:.80} -> {other!r:.80}"
    return changed


def run_agent(port: str) -> None:
    """One job of one worker."""
    worker = Path(__file__).parents[1] / "workers" / "quick.py"
    where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "come-and-go"]
    torchrun(["--nnodes", "1", "--nproc-per-node", "1", *where, "--monitor-interval", "0.1", str(worker)])


def use() -> None:
    """Have torch make and keep its loggers."""
    events.record(events.Event("before", events.EventSource.AGENT))
    events.record(events.Event("before", events.EventSource.AGENT), "console")


def ours(found: dict[str, Any]) -> list[str]:
    """What belongs to us."""
    return sorted(name for name, value in found.items() if "torchelastic_otel" in str(getattr(value, "__module__", "")))


def threads_left(timeout_s: float = 20.0) -> list[str]:
    """Our threads that do not end; uninstall waits only a moment for them."""
    end = time.monotonic() + timeout_s
    while True:
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("torchelastic-otel")]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.01)


def main() -> None:
    """See the header of this file."""
    port, when, used = sys.argv[1:]
    logging.basicConfig()  # torch 2.2's own run module does, too
    if when != "c10d while installed":
        importlib.import_module(C10D)
    if used == "used before":
        use()
    before = snapshot()
    if when == "instrumentor":
        from torchelastic_otel.runtime.otel_instrumentor import TorchelasticInstrumentor

        TorchelasticInstrumentor().instrument()
        come_back = TorchelasticInstrumentor().uninstrument
    else:
        import torchelastic_otel

        torchelastic_otel.install()
        come_back = torchelastic_otel.uninstall
    run_agent(port)
    hooked = ours(snapshot())
    come_back()
    after = snapshot()
    if when == "c10d while installed":
        after = {name: value for name, value in after.items() if name in before or not name.startswith("c10d.")}
        own = sys.modules[C10D].construct_and_record_rdzv_event
        assert own is events.construct_and_record_rdzv_event, own
    if used != "used before":
        # torch has made loggers of its own since
        before = {name: value for name, value in before.items() if name in after}
    print(json.dumps({"hooked": hooked, "changed": differences(before, after), "threads": threads_left()}))


if __name__ == "__main__":
    main()
