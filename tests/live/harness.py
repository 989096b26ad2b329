"""Real ``torchrun`` agents on loopback, what they really recorded, and what of it arrived.

What always holds: nothing binds anything but 127.0.0.1; a process that a test started, and its workers, are gone
when the test ends; each wait is bounded; an agent's environment has nothing of OpenTelemetry, of torchrun or of ours
but what the test says; each agent has a spool directory of its own, as on a node of its own, unless told.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from environments import NEWEST, Environment

from torchelastic_otel.demo.receiver import Received, Receiver

HERE = Path(__file__).resolve().parent
TEE = HERE / "tee_agent.py"
WORKERS = HERE / "workers"
PROGRAMS = HERE / "programs"
PATIENCE_S = 180.0
"""The longest that any one thing is waited for; a job here takes 3 to 10 s, several at once on a slow machine more."""

_STATES = {
    ("AGENT", "RENDEZVOUS"): "torchelastic.agent.rendezvous_finished",
    ("AGENT", "ASSIGN_WORKER_RANKS"): "torchelastic.agent.ranks_assigned",
    ("AGENT", "SUCCEEDED"): "torchelastic.agent.succeeded",
    ("AGENT", "FAILED"): "torchelastic.agent.failed",
    ("WORKER", "START"): "torchelastic.worker.started",
    ("WORKER", "SUCCEEDED"): "torchelastic.worker.succeeded",
    ("WORKER", "FAILED"): "torchelastic.worker.failed",
    ("WORKER", "TERMINATED"): "torchelastic.worker.terminated",
}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


class Bell:
    """A FIFO by which a worker tells the test how far it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # for reading and writing, so that it is never at its end
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = ""

    def wait(self, word: str, timeout_s: float = PATIENCE_S) -> int:
        """Wait for a worker to ring with this word; its process id."""
        end = time.monotonic() + timeout_s
        while True:
            while "\n" in self._rest:
                line, _, self._rest = self._rest.partition("\n")
                said, _, pid = line.partition(" ")
                if said == word:
                    return int(pid)
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no worker rang {word!r} within {timeout_s:g} s"
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

    def looks_after_its_workers(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until its main thread sleeps between two looks at its workers (``SimpleElasticAgent._invoke_run``).

        A worker can ring before ``subprocess.Popen`` has returned to torch: whom a signal interrupts there, torch
        2.2 to 2.15 never learns of, and never stops.
        """
        end = time.monotonic() + timeout_s
        while "nanosleep" not in (channel := Path(f"/proc/{self.pid}/wchan").read_text()):
            assert time.monotonic() < end, f"its main thread is in {channel}, and never slept in {timeout_s:g} s"
            time.sleep(0.005)

    @property
    def output(self) -> str:
        """What it said so far."""
        return self.log.read_text(errors="replace")

    @property
    def told(self) -> list[dict[str, Any]]:
        """Every event that torch made in it, in order: ``{"pid", "thread", "event"}``."""
        if not self.tee.exists():
            return []
        lines = [json.loads(line) for line in self.tee.read_text().splitlines()]
        return [line for line in lines if line["pid"] == self.pid]

    def spool_files(self) -> list[Path]:
        """What is in its spool directory."""
        return [path for path in self.spools.rglob("*") if not path.is_dir()]


class Agents:
    """Starts agents and leaves none behind; a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[Agent] = []
        self._bells: list[Bell] = []

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
        for bell in self._bells:
            bell.close()
        # pytest shows this where the test has failed
        for agent in self._started:
            print(f"--- {agent.log.name}\n{agent.output}")

    def bell(self, name: str = "bell") -> Bell:
        """A bell that is taken down with the agents."""
        self._bells.append(Bell(self.directory / name))
        return self._bells[-1]

    def start(
        self,
        command: Sequence[str],
        *arguments: str | Path,
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
            "TORCHELASTIC_OTEL_FLUSH_TIMEOUT": "20",
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


def of(agent: Agent, records: Sequence[Received]) -> list[Received]:
    """An agent's records of torch's own events in the order of their first arrival, each uid once."""
    first: dict[str, Received] = {}
    for record in records:
        if record.resource.get("process.pid") == agent.pid and not record.attributes.get("torchelastic.inferred"):
            first.setdefault(record.uid, record)
    return list(first.values())


def assert_arrived(agent: Agent, receiver: Receiver, timeout_s: float = 15.0) -> list[Received]:
    """Everything that torch recorded in the agent is at the receiver: once by uid, in order, under its own name.

    Returns:
        The agent's records in order.
    """
    told = agent.told
    assert told, f"the agent recorded nothing; it said:\n{agent.output}"
    receiver.wait_until(lambda records: len(of(agent, records)) >= len(told), timeout_s)
    arrived = of(agent, receiver.records)
    assert len(arrived) == len(told), f"{len(told)} events were recorded; it said:\n{agent.output}"
    # what we say ourselves, and spans, stand between them
    numbers = [int(record.uid.rpartition("-")[2]) for record in arrived]
    assert numbers == sorted(set(numbers))
    assert len({record.uid.rpartition("-")[0] for record in arrived}) == 1
    for event, record in zip((line["event"] for line in told), arrived, strict=True):
        assert_tells(record, event)
    return arrived


def assert_tells(record: Received, event: Mapping[str, Any]) -> None:
    """The record is of this event."""
    if "message" in event:
        assert record.body == event["message"]
        assert record.event_name.startswith("torchelastic.rendezvous.")
        assert record.event_name != "torchelastic.rendezvous.message"
        assert record.attributes["torchelastic.run.id"] == event["run_id"]
    else:
        state = event["name"].rpartition(".")[2]
        assert record.event_name == _STATES.get((event["source"], state), "torchelastic.event")


def names(records: Sequence[Received]) -> list[str]:
    """Their event names without the common start."""
    return [record.event_name.removeprefix("torchelastic.") for record in records]
