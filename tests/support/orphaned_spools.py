"""A spool directory with what dead agents left in it, and agents that live."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.processing.processor import ORIGIN_KEY
from torchelastic_otel.spool import adoption
from torchelastic_otel.spool.directory import prepare_directory

LIVE_AGENT = """
import sys
from pathlib import Path
from torchelastic_otel.spool import adoption
owned = adoption.create(Path(sys.argv[1]), sys.argv[2], 1 << 20)
owned.spool.put_meta("origin", sys.argv[3])
owned.spool.subscribe({"otlp": ["null"]})
owned.spool.append([("null", sys.argv[4])])
print("ready", flush=True)
sys.stdin.readline()
owned.spool.acknowledge("otlp", 1, delivered=1)
owned.release()
print("gone", flush=True)
"""


def origin(name: str = "node-a", pid: int = 4711) -> Origin:
    """An agent's identity."""
    return Origin(id=uuid.uuid4().hex, host_name=name, pid=pid, started_ns=1)


def event(number: int, destination: str = "null") -> ElasticEvent:
    """One event of run ``run-1``."""
    attributes = {semconv.RUN_ID: "run-1"}
    return ElasticEvent(
        semconv.WORKER_STARTED, destination, f"event {number}", 1_000 + number, 2_000, None, attributes=attributes
    )


class Spools:
    """The spool directory that the environment names."""

    def __init__(self, base: Path) -> None:
        self.directory = prepare_directory(base, os.geteuid())

    def dead(self, events: int = 3, *, exporters: tuple[str, ...] = ("otlp",), host: str = "node-a") -> Origin:
        """What an agent leaves that was killed."""
        whose = origin(host)
        owned = adoption.create(self.directory, whose.id, 1 << 20)
        owned.spool.put_meta(ORIGIN_KEY, whose.to_json())
        owned.spool.subscribe({name: ["null"] for name in exporters})
        owned.spool.append([("null", event(number).to_json()) for number in range(events)])
        owned.spool.close()
        owned.lock.release()
        return whose

    @contextlib.contextmanager
    def live(self) -> Iterator[subprocess.Popen[str]]:
        """An agent that lives until a line is written to it, and then has delivered its one event."""
        whose = origin("node-live")
        program = [sys.executable, "-c", LIVE_AGENT, str(self.directory), whose.id, whose.to_json(), event(1).to_json()]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as agent:
            try:
                assert agent.stdout is not None
                assert agent.stdout.readline() == "ready\n"
                yield agent
            finally:
                agent.kill()

    def files(self, suffix: str) -> list[str]:
        """The names of the files with a suffix."""
        return sorted(path.name for path in self.directory.glob(f"*{suffix}"))
