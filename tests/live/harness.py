"""Real ``torchrun`` agents on loopback, and what they really recorded.

Guarantees: nothing binds anything but 127.0.0.1; a process that a test started, and its workers, are gone
when the test ends; each wait is bounded; an agent's environment has nothing of OpenTelemetry, of torchrun or of ours
but what the test says; each agent has a spool directory of its own, as on a node of its own, unless told.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.live.environments import NEWEST, Environment
from tests.support.received import Receiver
from torchelastic_otel.processing.processor import SPANS
from torchelastic_otel.semconv import INFERRED
from torchelastic_otel.spool.reader import read_spool

HERE = Path(__file__).resolve().parent
TEE = HERE / "tee_agent.py"
WORKERS = HERE / "workers"
PROGRAMS = HERE / "programs"
PATIENCE_S = 180.0
"""The longest that any one thing is waited for; a job here takes 3 to 10 s, several at once on a slow machine more."""
_BLIND_S = 5.0
"""How long an agent is given where nothing tells that it sleeps: some 50 of its looks at its workers."""

_BEATS = ("keep-alive", "synced its local changes", "has a stale state")
"""What torch says of heartbeats and of state syncs, at any time and on two threads."""


def by_entry_point(python: Path) -> list[str]:
    """``torchrun``, as it is: torch loads our entry point."""
    return [str(python), str(TEE), "torch.distributed.run"]


def by_command(python: Path) -> list[str]:
    """``python -m torchelastic_otel run``."""
    return [str(python), str(TEE), "torchelastic_otel", "run"]


def by_instrument(python: Path) -> list[str]:
    """``opentelemetry-instrument torchrun``."""
    return [str(python.parent / "opentelemetry-instrument"), *by_entry_point(python)]


def usual_way(environment: Environment) -> list[str]:
    """The least that this torch needs: its entry point, or our command where it loads none."""
    return (by_entry_point if environment.loads_entry_points else by_command)(environment.python)


def c10d(port: int, *, nodes: int = 1, workers: int = 1, run_id: str = "live", restarts: int = 0) -> list[str]:
    """Arguments of ``torchrun`` for the dynamic rendezvous."""
    return [
        *("--nnodes", str(nodes), "--nproc-per-node", str(workers), "--max-restarts", str(restarts)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", run_id),
        *("--local-addr", "127.0.0.1", "--monitor-interval", "0.1"),
    ]


def static(port: int, rank: int, *, nodes: int = 2, workers: int = 1, restarts: int = 0) -> list[str]:
    """Arguments of ``torchrun`` for the static rendezvous."""
    return [
        *("--nnodes", str(nodes), "--nproc-per-node", str(workers), "--node-rank", str(rank)),
        *("--max-restarts", str(restarts), "--master-addr", "127.0.0.1", "--master-port", str(port)),
        *("--local-addr", "127.0.0.1", "--monitor-interval", "0.1"),
    ]


def otlp(receiver: Receiver, protocol: str = "grpc") -> dict[str, str]:
    """The environment of an agent that exports to the receiver."""
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}


def waits_in(pid: int) -> str:
    """The kernel's function in which a process's main thread waits; empty where it runs, or the kernel does not say."""
    try:
        channel = Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""
    return "" if channel == "0" else channel


class WorkerPipe:
    """A FIFO by which a worker tells the test how far it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # for reading and writing, so that it is never at its end
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = ""

    def wait(self, word: str, timeout_s: float = PATIENCE_S) -> int:
        """Wait until a worker writes this word; its process id."""
        end = time.monotonic() + timeout_s
        while True:
            while "\n" in self._rest:
                line, _, self._rest = self._rest.partition("\n")
                said, _, pid = line.partition(" ")
                if said == word:
                    return int(pid)
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no worker wrote {word!r} within {timeout_s:g} s"
            self._rest += os.read(self._descriptor, 4096).decode()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Agent:
    """One process that a test started, an agent in most.

    Attributes:
        process: The process, leader of a group of its own.
        log: What it and its workers print.
        tee: What it really recorded.
        spools: Its ``TORCHELASTIC_OTEL_SPOOL_DIR``.
    """

    process: subprocess.Popen[bytes]
    log: Path
    tee: Path
    spools: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; its exit status, minus the signal's number for a signal."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s:g} s; it said:\n{self.output}") from None

    def wait_signalled(self) -> int:
        """Wait for its end after a signal told it to go; its exit status as in :meth:`wait`.

        An agent that a signal told to go leaves torch's heartbeats on (torch 2.2 to 2.15, ``launch_agent``). One that
        is out in the store while the interpreter ends aborts the process, with or without us: a thread that only calls
        ``TCPStore.compare_set`` aborts a bare Python each time (6 of 6). Counted as the end that it was about to be.
        """
        status = self.wait()
        aborted = status == -signal.SIGABRT and "terminate called without an active exception" in self.output
        return 1 if aborted else status

    def wait_until_monitoring(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until its main thread sleeps between two looks at its workers (``SimpleElasticAgent._invoke_run``).

        A worker can ring before ``subprocess.Popen`` has returned to torch: whom a signal interrupts there, torch
        2.2 to 2.15 never learns of, and never stops. Call it when a worker has said that it began: where the kernel
        does not tell where a thread waits, that word and a while have to do.
        """
        begin, seen = time.monotonic(), set()
        while "nanosleep" not in (channel := waits_in(self.pid)):
            seen.add(channel)
            lasted_s = time.monotonic() - begin
            if seen == {""} and lasted_s > _BLIND_S:
                return
            assert lasted_s < timeout_s, f"its main thread was in {seen}, and never slept in {timeout_s:g} s"
            time.sleep(0.005)

    def wait_until_stored(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until all that torch made in it so far is in its spool, and read there: it may be killed then."""
        # of a heartbeat that comes meanwhile nothing is promised
        told = sum(not is_beat(line["event"].get("message")) for line in self.torch_events)
        end = time.monotonic() + timeout_s
        while len(self._kept()) < told:
            assert time.monotonic() < end, f"of {told} events the spool has {self._kept()} after {timeout_s:g} s"
            time.sleep(0.02)

    def _kept(self) -> list[str]:
        """The rows of torch's own events in its spool, beats left out; none while there are rows to be read."""
        kept = []
        for path in self.spool_files():
            if path.suffix == ".spool":
                held = read_spool(path)
                if not held.meta or json.loads(held.meta["origin"])["pid"] != self.pid:
                    continue
                if any(row.unprocessed for row in held.rows):
                    return []
                kept += [row.payload for row in held.rows if row.destination != SPANS and INFERRED not in row.payload]
        return [row for row in kept if not is_beat(row)]

    @property
    def output(self) -> str:
        """What it said so far."""
        return self.log.read_text(errors="replace")

    @property
    def torch_events(self) -> list[dict[str, Any]]:
        """Every event that torch made in it, in order: ``{"pid", "thread", "at_ns", "event"}``."""
        if not self.tee.exists():
            return []
        # the last line may be half written
        text = self.tee.read_text(errors="replace")
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["pid"] == self.pid]

    @property
    def report(self) -> Any:
        """What a program printed last as JSON; torch may warn after it."""
        return json.loads(next(line for line in reversed(self.output.splitlines()) if line.startswith("{")))

    def spool_files(self) -> list[Path]:
        """What is in its spool directory."""
        return [path for path in self.spools.rglob("*") if not path.is_dir()]


class Agents:
    """Starts agents and leaves none behind; a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[Agent] = []
        self._pipes: list[WorkerPipe] = []

    def __enter__(self) -> Agents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for agent in self._started:
            if agent.process.poll() is None:
                # the group is the agent's own; its workers lead sessions of theirs and end when it is gone
                os.killpg(agent.pid, signal.SIGKILL)
            agent.process.wait(10)
        for pipe in self._pipes:
            pipe.close()
        # pytest shows this where the test has failed
        for agent in self._started:
            print(f"--- {agent.log.name}\n{agent.output}")

    def pipe(self, name: str = "pipe") -> WorkerPipe:
        """A pipe that is taken down with the agents."""
        self._pipes.append(WorkerPipe(self.directory / name))
        return self._pipes[-1]

    def start(
        self,
        command: Sequence[str],
        *arguments: object,
        env: Mapping[str, str] | None = None,
        spools: Path | None = None,
    ) -> Agent:
        """Start one.

        Args:
            command: How it is launched.
            arguments: Its arguments.
            env: What its environment says of OpenTelemetry, torch and us.
            spools: Its spool directory; one of its own by default.
        """
        name = f"agent{len(self._started)}"
        log, tee = self.directory / f"{name}.log", self.directory / f"{name}.jsonl"
        spools = spools or self.directory / f"{name}-spools"
        # a virtual environment's own commands come first, as if it were active
        folder = str(Path(command[0]).parent)
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OTEL_", "TORCHELASTIC", "PET_", "LOGLEVEL", "GRPC_ENABLE_FORK", "PYTHONPATH"))
        }
        environment = {
            **inherited,
            "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "TEE_FILE": str(tee),
            "TORCHELASTIC_OTEL_SPOOL_DIR": str(spools),
            # these tests are about torch's own events, each of them
            "TORCHELASTIC_OTEL_HEARTBEATS": "metrics,logs",
            # beside other processes that import torch, an exporter's own import is slow on a small machine
            "TORCHELASTIC_OTEL_FLUSH_TIMEOUT": "60",
            **(env or {}),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *map(str, arguments)],
                env={key: value for key, value in environment.items() if value},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(Agent(process, log, tee, spools))
        return self._started[-1]

    def run(
        self, program: str, *arguments: str | Path, env: Mapping[str, str] | None = None, on: Environment = NEWEST
    ) -> Agent:
        """Run one of the programs to its end, and have it end well."""
        agent = self.start([str(on.python), str(TEE), str(PROGRAMS / program)], *arguments, env=env)
        assert agent.wait() == 0, agent.output
        return agent


def is_beat(text: object) -> bool:
    """Whether this is about a heartbeat or a state sync."""
    return any(beat in str(text) for beat in _BEATS)
