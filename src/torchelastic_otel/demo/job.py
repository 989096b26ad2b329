"""The demonstration's job: real ``torchrun`` agents on loopback, one for each node, configured as in production.

Guarantees: an agent gets the bridge only through the package's entry point and the environment. Nothing binds any
address but 127.0.0.1. Agents and their workers have ended when the ``with`` block ends, however it ends. Their output
goes to files in the job's directory. The caller's variables of OpenTelemetry, torchrun and this package do not reach
the agents, except those that a real collector may need (headers, certificates).
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from torchelastic_otel.demo import worker

WORKERS_A_NODE = 2
_REMOVED = ("OTEL_", "TORCHELASTIC_", "PET_", "GRPC_ENABLE_FORK")
_KEPT_SUFFIXES = ("HEADERS", "CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE", "COMPRESSION", "TIMEOUT", "INSECURE")
_GRACE_S = 30.0
"""Time for the other agents after one has failed; torch's exit barrier alone waits 300 s."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the job.

    Attributes:
        name: Its ``host.name``, which distinguishes the nodes of one machine.
        endpoint: Where its agent exports to, ``http://host:port``.
        protocol: ``OTEL_EXPORTER_OTLP_PROTOCOL``: ``grpc`` or ``http/protobuf``.
        remote: Whether the endpoint is the caller's collector, to which the caller's headers, certificates and proxies
            apply.
    """

    name: str
    endpoint: str
    protocol: str
    remote: bool = False


class Job:
    """The agents of a job; a context manager that starts and ends them."""

    def __init__(
        self, nodes: Sequence[Node], directory: Path, launcher: Sequence[str], run_id: str, caller: Mapping[str, str]
    ) -> None:
        """Nothing is started yet.

        Args:
            nodes: The nodes, one agent each.
            directory: An empty directory for the spools, logs and everything else; made by the caller.
            launcher: What starts ``torchrun``, for example ``[sys.executable, "-m", "torch.distributed.run"]``.
            run_id: The rendezvous id.
            caller: The environment that the agents' own is made from.
        """
        self.nodes = tuple(nodes)
        self.directory = directory
        self.spools = {node.name: directory / f"{node.name}-spool" for node in self.nodes}
        self._caller = caller
        self._launcher = tuple(launcher)
        self._run_id = run_id
        self._agents: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Job:
        port = _free_port()
        try:
            for node in self.nodes:
                self._agents[node.name] = self._started(node, port)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self, timeout_s: float) -> dict[str, int | None]:
        """Wait for the agents to end.

        Args:
            timeout_s: How long, seconds; when an agent has failed, at most 30 s more for the others.

        Returns:
            The exit status of each by node name (minus the signal's number for a signal); ``None`` for one that
            still runs.
        """
        ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        for agent in self._agents.values():
            threading.Thread(target=_report_end, args=(agent, ended), daemon=True).start()
        end = time.monotonic() + timeout_s
        for _ in self._agents:
            try:
                status = ended.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if status:
                end = min(end, time.monotonic() + _GRACE_S)
        return {name: agent.poll() for name, agent in self._agents.items()}

    def stop(self) -> None:
        """End the agents that are still running: by SIGTERM, after 10 s by SIGKILL."""
        running = [agent for agent in self._agents.values() if agent.poll() is None]
        for agent in running:
            agent.terminate()
        end = time.monotonic() + 10
        for agent in running:
            try:
                agent.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                # each agent leads a process group of its own
                os.killpg(agent.pid, signal.SIGKILL)
                agent.wait()

    def log(self, name: str) -> Path:
        """The file with the output of a node's agent."""
        return self.directory / f"{name}.log"

    def _started(self, node: Node, port: int) -> subprocess.Popen[bytes]:
        command = [
            *self._launcher,
            "--nnodes", str(len(self.nodes)),
            "--nproc-per-node", str(WORKERS_A_NODE),
            "--max-restarts", "3",
            "--rdzv-backend", "c10d",
            "--rdzv-endpoint", f"127.0.0.1:{port}",
            "--rdzv-id", self._run_id,
            "--local-addr", "127.0.0.1",
            "--log-dir", str(self.directory / f"{node.name}-workers"),
            "--redirects", "3",
            "-m", worker.__name__,
        ]  # fmt: skip
        with self.log(node.name).open("wb") as log:
            return subprocess.Popen(
                command,
                env=agent_environment(node, self.directory, self.spools[node.name], self._caller),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def agent_environment(node: Node, directory: Path, spool: Path, caller: Mapping[str, str]) -> dict[str, str]:
    """The environment of a node's agent.

    Args:
        node: The node.
        directory: Where the job's workers coordinate.
        spool: ``TORCHELASTIC_OTEL_SPOOL_DIR``.
        caller: The caller's environment.
    """
    environment = {
        name: value
        for name, value in caller.items()
        if not name.startswith(_REMOVED)
        or (node.remote and name.startswith("OTEL_EXPORTER_OTLP_") and name.endswith(_KEPT_SUFFIXES))
    }
    if not node.remote:
        # a proxy must not be used for 127.0.0.1
        environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return {
        **environment,
        "OTEL_EXPORTER_OTLP_ENDPOINT": node.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": node.protocol,
        "OTEL_RESOURCE_ATTRIBUTES": f"host.name={node.name}",
        "TORCHELASTIC_OTEL_SPOOL_DIR": str(spool),
        # while ten processes import torch, the exporter's own import is slow on a small machine
        "TORCHELASTIC_OTEL_FLUSH_TIMEOUT": "20",
        "OMP_NUM_THREADS": "1",
        worker.DIRECTORY: str(directory),
    }


def launcher_for(torch_version: str) -> list[str]:
    """What starts ``torchrun`` with the bridge in it.

    By the entry point, nothing but torch's own module; torch below 2.8 (docs: ``torch-events``, ways in) needs
    ``python -m torchelastic_otel run``.
    """
    numbers = tuple(int(part) if part.isdecimal() else 0 for part in torch_version.split("+")[0].split(".")[:2])
    if numbers >= (2, 8):
        return [sys.executable, "-m", "torch.distributed.run"]
    return [sys.executable, "-m", "torchelastic_otel", "run"]


def _report_end(agent: subprocess.Popen[bytes], ended: queue.SimpleQueue[int]) -> None:
    ended.put(agent.wait())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
