"""A job of real agents on one machine: agents have letters for names, workers obey commands, actions are recorded.

Guarantees: what is expected comes from the workers' own log, the test's actions and the processes' exit statuses, never
from this package; each agent has its own spool directory; each wait is bounded and names what it waits for.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.environments import Environment
from tests.live.harness import PROGRAMS, WORKERS, Agent, Agents, otlp, usual_way
from tests.support.ports import free_port
from tests.support.received import Receiver

PATIENCE_S = 180.0
ENVIRONMENT = {
    # with a shared store a node that joins hangs (torch 2.13 to 2.15)
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    # the default: heartbeats are not exported as logs
    "TORCHELASTIC_OTEL_HEARTBEATS": "",
}
HOST = "a"
"""The agent that hosts the job's store."""
PROGRAM = WORKERS / "scripted.py"


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process, as it described itself when it started."""

    agent: str
    start: int
    pid: int
    rank: int
    local_rank: int
    group_rank: int
    world_size: int
    began_ns: int


@dataclass(frozen=True, slots=True)
class Action:
    """What the test did to a worker or to an agent, and when; nanoseconds since the epoch."""

    what: str
    agent: str
    worker: Worker | None
    at_ns: int


@dataclass
class Cluster:
    """See the header of this file.

    Attributes:
        agents: Starts the processes.
        receiver: Where they export to.
        torch: Which torch they have.
        directory: What all agents share.
        port: Of the job's store.
        other_port: Of another job's store.
        nodes: The agents, by letter.
        actions: What was done to workers and agents, in order.
        started_at_ns: When each agent was started, nanoseconds since the epoch.
    """

    agents: Agents
    receiver: Receiver
    torch: Environment
    directory: Path
    port: int
    other_port: int
    nodes: dict[str, Agent] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    started_at_ns: dict[str, int] = field(default_factory=dict)

    def start_agent(
        self,
        name: str,
        *,
        nnodes: str = "1",
        workers: int = 1,
        restarts: int = 0,
        conf: str = "",
        words: Sequence[str] = (),
        extra: Sequence[str] = (),
        run_id: str = "scenario",
        backend: Sequence[str] | None = None,
        env: dict[str, str] | None = None,
        spools: Path | None = None,
        port: int | None = None,
        program: str = "",
        gated: bool = False,
    ) -> Agent:
        """Start an agent.

        Args:
            name: Its letter.
            nnodes: ``--nnodes``.
            workers: ``--nproc-per-node``.
            restarts: ``--max-restarts``.
            conf: ``--rdzv-conf``.
            words: The workers' arguments.
            extra: More arguments of ``torchrun``.
            run_id: ``--rdzv-id``.
            backend: The rendezvous arguments, if they are not those of c10d.
            env: More of its environment.
            spools: Its spool directory, if it is not its own.
            port: The store's port, if it is not the cluster's.
            program: The live tests' program that launches it.
            gated: Whether it waits for :meth:`open_gate` after its imports.
        """
        (self.directory / "commands").mkdir(exist_ok=True)
        if backend is None:
            # on one machine the first agent would host the store
            hosts = name == HOST or port is not None
            conf = conf if "is_host" in conf else ",".join(filter(None, (f"is_host={int(hosts)}", conf)))
            backend = (
                *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port or self.port}", "--rdzv-id", run_id),
                *("--rdzv-conf", conf),
            )
        command = usual_way(self.torch)
        if program:
            command[2:2] = [str(PROGRAMS / program)]
        self.started_at_ns[name] = time.time_ns()
        self.nodes[name] = self.agents.start(
            command,
            *("--nnodes", nnodes, "--nproc-per-node", str(workers), "--max-restarts", str(restarts)),
            *("--local-addr", "127.0.0.1", "--monitor-interval", "0.1"),
            *backend,
            *extra,
            PROGRAM,
            self.directory,
            *words,
            env={
                **otlp(self.receiver),
                **ENVIRONMENT,
                **self.environment(name),
                **({"TEE_GATE": str(self._gate())} if gated else {}),
                **(env or {}),
            },
            spools=spools,
        )
        return self.nodes[name]

    def open_gate(self) -> None:
        """Let all gated agents continue at the same moment: an import of torch takes seconds, and how many varies."""
        agents = list(self.nodes.values())
        self.wait_until(
            lambda: all((self._gate() / str(agent.pid)).exists() for agent in agents), "torch in every agent"
        )
        (self._gate() / "open").touch()

    def _gate(self) -> Path:
        gate = self.directory / "gate"
        gate.mkdir(exist_ok=True)
        return gate

    def environment(self, name: str) -> dict[str, str]:
        """Where an agent exports to, beside the receiver: OTLP JSON files of its own."""
        folder = self.directory / f"otlp-{name}"
        return {"TORCHELASTIC_OTEL_DESTINATIONS": "otlp,file", "TORCHELASTIC_OTEL_FILE_DIR": str(folder)}

    # --- what happened

    def worker_log(self) -> list[dict[str, object]]:
        """Every line that a worker wrote."""
        path = self.directory / "worker-log"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def workers_of(self, name: str) -> list[Worker]:
        """The workers of an agent, in the order in which they began."""
        pid = self.nodes[name].pid
        starts: dict[object, int] = {}
        found = []
        for line in self.worker_log():
            if line["agent"] == pid and line["what"] == "began":
                start = starts[line["local_rank"]] = starts.get(line["local_rank"], -1) + 1
                numbers = (line[key] for key in ("pid", "rank", "local_rank", "group_rank", "world_size", "at_ns"))
                found.append(Worker(name, start, *(int(str(number)) for number in numbers)))
        return found

    def wait_for_workers(self, name: str, start: int = 0, workers: int = 1) -> list[Worker]:
        """Wait until an agent's workers have begun for the given time (``start``, from 0); these by local rank."""

        def begun() -> list[Worker]:
            return [each for each in self.workers_of(name) if each.start == start]

        self.wait_until(lambda: len(begun()) >= workers, f"start {start} of the workers of agent {name}")
        return sorted(begun(), key=lambda each: each.local_rank)

    def wait_for_round(self, *names: str, round_: int = 0) -> None:
        """Wait until a round runs: these agents monitor their workers, and one agent has reported the round.

        What happens to a node before that can be reported differently by torch and by the other agents.
        """
        for name in names:
            self.nodes[name].wait_until_monitoring()

        def reported() -> bool:
            started = (r for r in self.receiver.records if r.event_name == "torchelastic.round.started")
            return any(record.attributes["torchelastic.rendezvous.round"] == round_ for record in started)

        self.wait_until(reported, f"an agent reports that round {round_} runs")

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a condition is met."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {timeout_s:g} s"
            time.sleep(0.02)

    def wait_for_torch_event(self, name: str, text: str, times: int = 1) -> None:
        """Wait until torch has created so many events with this text in this agent."""
        self.wait_until(
            lambda: sum(text in json.dumps(line["event"]) for line in self.nodes[name].torch_events) >= times,
            f"{text!r} of agent {name}",
        )

    # --- actions

    def command(self, worker: Worker, what: str) -> Action:
        """Have a worker do something, and wait until it has."""
        self._send(worker, {"what": what})
        return self._wait_for(worker, what)

    def command_in_sequence(self, first: tuple[Worker, str], then: tuple[Worker, str], apart_s: float) -> None:
        """Have two workers do something, the second so long after the end of the first, and wait until both have."""
        (one, _), (other, what) = first, then
        self._send(other, {"what": what, "after": one.pid, "pause_s": apart_s})
        self.command(*first)
        self._wait_for(other, what)

    def _send(self, worker: Worker, command: dict[str, object]) -> None:
        path = self.directory / "commands" / str(worker.pid)
        path.with_suffix(".new").write_text(json.dumps(command))
        path.with_suffix(".new").rename(path)

    def _wait_for(self, worker: Worker, what: str) -> Action:
        def done() -> list[dict[str, object]]:
            return [line for line in self.worker_log() if line["pid"] == worker.pid and line["what"] == what]

        self.wait_until(done, f"{what} by {worker}")
        self.actions.append(Action(what, worker.agent, worker, int(str(done()[0]["at_ns"]))))
        return self.actions[-1]

    def signal_worker(self, worker: Worker, number: int) -> Action:
        """Send a worker a signal."""
        self.actions.append(Action(signal.Signals(number).name, worker.agent, worker, time.time_ns()))
        os.kill(worker.pid, number)
        return self.actions[-1]

    def signal_agent(self, name: str, number: int) -> Action:
        """Send an agent a signal."""
        self.actions.append(Action(signal.Signals(number).name, name, None, time.time_ns()))
        os.kill(self.nodes[name].pid, number)
        return self.actions[-1]

    def finish(self) -> None:
        """Let every worker end well."""
        (self.directory / "done").touch()

    def exit_statuses(self) -> dict[str, int]:
        """Wait for all agents' ends; their exit statuses."""
        signalled = {action.agent for action in self.actions if action.worker is None}
        return {
            name: agent.wait_signalled() if name in signalled else agent.wait() for name, agent in self.nodes.items()
        }


@contextlib.contextmanager
def running_cluster(torch: Environment, directory: Path) -> Iterator[Cluster]:
    """A cluster with a receiver and ports of its own; its processes are gone at the end."""
    with Receiver() as receiver, Agents(directory) as agents:
        yield Cluster(agents, receiver, torch, directory, free_port(), free_port())
