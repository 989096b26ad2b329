"""Runs a module as ``python -m`` does, and writes down every event that torch serialises in it.

    python tee_agent.py torch.distributed.run --nnodes 1 ...

What really happened, told by torch's own classes and by none of our hooks: each line of the file ``TEE_FILE`` is
``{"pid", "thread", "at_ns", "event"}``: the event as torch made it, and when, nanoseconds since the epoch. Events are
serialised in the process that records them, in
the order in which they are recorded. With ``TEE_STOCK`` set, ``dynamic_rendezvous`` gets a handler that drops
what it gets: stock torch makes no rendezvous events for a ``NullHandler``. With ``TEE_GATE`` set, a directory, it says
there, by a file named after its process id, that torch is imported, and goes on once the file ``open`` is there.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import sys
import threading
import time
from pathlib import Path
from typing import Any


def tee(kind: type[Any], path: str) -> None:
    """Append what ``kind.serialize`` returns to the file."""
    original = kind.serialize

    def serialize(self: Any) -> str:
        text: str = original(self)
        thread = threading.current_thread().name
        line = {"pid": os.getpid(), "thread": thread, "at_ns": time.time_ns(), "event": json.loads(text)}
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)
        return text

    kind.serialize = serialize


class Dropping(logging.Handler):
    """Takes events and drops them, but is no ``NullHandler``."""

    def emit(self, record: logging.LogRecord) -> None:
        """Drop it."""


def main() -> None:
    """See the header of this file."""
    from torch.distributed.elastic.events import handlers
    from torch.distributed.elastic.events.api import Event, RdzvEvent

    for kind in (Event, RdzvEvent):
        tee(kind, os.environ["TEE_FILE"])
    if os.environ.get("TEE_STOCK"):
        handlers._log_handlers["dynamic_rendezvous"] = Dropping()
    if gate := os.environ.get("TEE_GATE"):
        (Path(gate) / str(os.getpid())).touch()
        while not (Path(gate) / "open").exists():
            time.sleep(0.01)
    sys.argv = sys.argv[1:]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
