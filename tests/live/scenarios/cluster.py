"""Where a scenario is played: real agents with letters for names, workers that obey, and what they truly did.

What always holds: the truth is the workers' own diary, the test's own deeds and the processes' exit statuses, never
what our side says; each agent has a spool directory of its own; each wait is bounded and says what was waited for.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.environments import Environment
from tests.live.harness import PROGRAMS, WORKERS, Agent, Agents, otlp, usual_way
from torchelastic_otel.demo.receiver import Receiver

PATIENCE_S = 180.0
ENVIRONMENT = {
    # with a shared store a node that joins hangs (torch 2.13 to 2.15)
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    # as it is by default: heartbeats are no logs
    "TORCHELASTIC_OTEL_HEARTBEATS": "",
}
HOST = "a"
"""The agent that hosts the job's store."""
ACT = WORKERS / "act.py"


@dataclass(frozen=True, slots=True)
class Being:
    """A worker process as it wrote itself down when it began."""

    agent: str
    start: int
    pid: int
    rank: int
    local_rank: int
    group_rank: int
    world_size: int
    began_ns: int


@dataclass(frozen=True, slots=True)
class Deed:
    """What was done to a worker or to an agent, and when; nanoseconds since the epoch."""

    what: str
    agent: str
    worker: Being | None
    at_ns: int


@dataclass
class Stage:
    """See the header of this file.

    Attributes:
        agents: Starts the processes.
        receiver: Where they export to.
        torch: Which torch they have.
        directory: What all agents share.
        port: Of the job's store.
        other_port: Of another job's.
        cast: The agents, by letter.
        deeds: What was done to workers and agents, in order.
        entered: When each agent was started, nanoseconds since the epoch.
    """

    agents: Agents
    receiver: Receiver
    torch: Environment
    directory: Path
    port: int
    other_port: int
    cast: dict[str, Agent] = field(default_factory=dict)
    deeds: list[Deed] = field(default_factory=list)
    entered: dict[str, int] = field(default_factory=dict)

    def enter(
        self,
        name: str,
        *,
        nodes: str = "1",
        workers: int = 1,
        restarts: int = 0,
        conf: str = "",
        words: Sequence[str] = (),
        extra: Sequence[str] = (),
        run_id: str = "play",
        backend: Sequence[str] | None = None,
        env: dict[str, str] | None = None,
        spools: Path | None = None,
        port: int | None = None,
        program: str = "",
        held: bool = False,
    ) -> Agent:
        """Start an agent; its letter is its name from here on.

        Args:
            name: Its letter.
            nodes: ``--nnodes``.
            workers: ``--nproc-per-node``.
            restarts: ``--max-restarts``.
            conf: ``--rdzv-conf``, of which this torch gets what it knows.
            words: The workers' words.
            extra: More arguments of ``torchrun``.
            run_id: ``--rdzv-id``.
            backend: The rendezvous' arguments, where they are not c10d's.
            env: More of its environment.
            spools: Its spool directory, where it is not its own.
            port: Of the store, where it is not the stage's.
            program: What launches it, of the live tests' programs.
            held: Whether it waits, its imports done, until :meth:`together`.
        """
        (self.directory / "orders").mkdir(exist_ok=True)
        if backend is None:
            # on one machine whoever is first would host the store
            hosts = name == HOST or port is not None
            conf = conf if "is_host" in conf else ",".join(filter(None, (f"is_host={int(hosts)}", conf)))
            backend = (
                *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port or self.port}", "--rdzv-id", run_id),
                *("--rdzv-conf", conf),
            )
        command = usual_way(self.torch)
        if program:
            command[2:2] = [str(PROGRAMS / program)]
        self.entered[name] = time.time_ns()
        self.cast[name] = self.agents.start(
            command,
            *("--nnodes", nodes, "--nproc-per-node", str(workers), "--max-restarts", str(restarts)),
            *("--local-addr", "127.0.0.1", "--monitor-interval", "0.1"),
            *backend,
            *extra,
            ACT,
            self.directory,
            *words,
            env={
                **otlp(self.receiver),
                **ENVIRONMENT,
                **self.environment(name),
                **({"TEE_GATE": str(self._gate())} if held else {}),
                **(env or {}),
            },
            spools=spools,
        )
        return self.cast[name]

    def together(self) -> None:
        """Let the agents that are held begin, all at the same moment: an import of torch takes seconds, or many."""
        agents = list(self.cast.values())
        self.until(lambda: all((self._gate() / str(agent.pid)).exists() for agent in agents), "torch in every agent")
        (self._gate() / "open").touch()

    def _gate(self) -> Path:
        gate = self.directory / "gate"
        gate.mkdir(exist_ok=True)
        return gate

    def environment(self, name: str) -> dict[str, str]:
        """Where an agent exports to, beside the receiver: OTLP JSON files of its own."""
        folder = self.directory / f"otlp-{name}"
        return {"TORCHELASTIC_OTEL_DESTINATIONS": "otlp,file", "TORCHELASTIC_OTEL_FILE_DIR": str(folder)}

    # --- what truly happened

    def diary(self) -> list[dict[str, object]]:
        """Every line that a worker wrote."""
        path = self.directory / "diary"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def beings(self, name: str) -> list[Being]:
        """The workers of an agent, in the order in which they began."""
        pid = self.cast[name].pid
        starts: dict[object, int] = {}
        found = []
        for line in self.diary():
            if line["agent"] == pid and line["what"] == "began":
                start = starts[line["local_rank"]] = starts.get(line["local_rank"], -1) + 1
                numbers = (line[key] for key in ("pid", "rank", "local_rank", "group_rank", "world_size", "at_ns"))
                found.append(Being(name, start, *(int(str(number)) for number in numbers)))
        return found

    def began(self, name: str, start: int = 0, workers: int = 1) -> list[Being]:
        """Wait until an agent's workers have begun, at its so-manieth start; these by local rank."""

        def there() -> list[Being]:
            return [each for each in self.beings(name) if each.start == start]

        self.until(lambda: len(there()) >= workers, f"start {start} of the workers of agent {name}")
        return sorted(there(), key=lambda each: each.local_rank)

    def runs(self, *names: str, round_: int = 0) -> None:
        """Wait until a round runs, and all know: its agents look after its workers, and one has said that it runs.

        What befalls a node before that, torch and the other agents may tell in another way.
        """
        for name in names:
            self.cast[name].looks_after_its_workers()

        def said() -> bool:
            started = (r for r in self.receiver.records if r.event_name == "torchelastic.round.started")
            return any(record.attributes["torchelastic.rendezvous.round"] == round_ for record in started)

        self.until(said, f"an agent says that round {round_} runs")

    def until(self, holds: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until something holds."""
        end = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end, f"{what}: not within {timeout_s:g} s"
            time.sleep(0.02)

    def said(self, name: str, event: str, times: int = 1) -> None:
        """Wait until torch made so many events with this text, in this agent."""
        self.until(
            lambda: sum(event in json.dumps(line["event"]) for line in self.cast[name].told) >= times,
            f"{event!r} of agent {name}",
        )

    # --- deeds

    def order(self, worker: Being, what: str) -> Deed:
        """Have a worker do something, and wait until it has."""
        self._put(worker, {"what": what})
        return self._await(worker, what)

    def orders(self, first: tuple[Being, str], then: tuple[Being, str], apart_s: float) -> None:
        """Have two workers do something, the second so long after the end of the first, and wait until both have."""
        (one, _), (other, what) = first, then
        self._put(other, {"what": what, "after": one.pid, "pause_s": apart_s})
        self.order(*first)
        self._await(other, what)

    def _put(self, worker: Being, order: dict[str, object]) -> None:
        path = self.directory / "orders" / str(worker.pid)
        path.with_suffix(".new").write_text(json.dumps(order))
        path.with_suffix(".new").rename(path)

    def _await(self, worker: Being, what: str) -> Deed:
        def did() -> list[dict[str, object]]:
            return [line for line in self.diary() if line["pid"] == worker.pid and line["what"] == what]

        self.until(did, f"{what} by {worker}")
        self.deeds.append(Deed(what, worker.agent, worker, int(str(did()[0]["at_ns"]))))
        return self.deeds[-1]

    def strike(self, worker: Being, number: int) -> Deed:
        """Send a worker a signal."""
        self.deeds.append(Deed(signal.Signals(number).name, worker.agent, worker, time.time_ns()))
        os.kill(worker.pid, number)
        return self.deeds[-1]

    def strike_agent(self, name: str, number: int) -> Deed:
        """Send an agent a signal."""
        self.deeds.append(Deed(signal.Signals(number).name, name, None, time.time_ns()))
        os.kill(self.cast[name].pid, number)
        return self.deeds[-1]

    def done(self) -> None:
        """Every worker is done now."""
        (self.directory / "done").touch()

    def exits(self) -> dict[str, int]:
        """Wait for all agents' ends; their exit statuses."""
        told = {deed.agent for deed in self.deeds if deed.worker is None}
        return {name: agent.wait_told() if name in told else agent.wait() for name, agent in self.cast.items()}
