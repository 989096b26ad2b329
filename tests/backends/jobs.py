"""Real ``torchrun`` jobs of several nodes on one machine, whose telemetry goes to the stack, and what they truly did.

Each agent has its own spool and ``host.name`` (``train-0``, ``train-1`` ...), as on separate nodes. It exports by OTLP
and to files, with which the backends are compared. Expected values come from the workers' diary and the test's actions.
No process remains.
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.backends.file_exports import LOGS, SPANS, Written, written
from tests.live.environments import NEWEST
from tests.live.harness import Agents
from tests.live.scenarios.cluster import Action, Cluster, Worker
from tests.support.ports import free_port

HOSTS = ("train-0", "train-1", "train-2")
LETTERS = "abcdefgh"
SOON = "last_call_timeout=1"
FAST = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=1"
"""A node that is gone is noticed after 3 s."""
STORE = """
import sys, time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", int(sys.argv[1]), is_master=True, wait_for_workers=False)
time.sleep(300)
"""
"""A process that hosts a job's store and nothing else."""
RUNNING_S = 4.0
"""How long workers run before a failure and after it: a few points of each series, at one a second."""


@dataclass
class Nodes(Cluster):
    """A cluster whose agents are nodes of a job: ``train-0`` is ``a``, and so on.

    Attributes:
        attributes: More attributes of every agent's resource.
    """

    attributes: dict[str, str] = field(default_factory=dict)

    def environment(self, name: str) -> dict[str, str]:
        """Where an agent exports to, and its resource."""
        attributes = {"host.name": host_of(name), **self.attributes}
        return {
            **super().environment(name),
            "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{key}={value}" for key, value in attributes.items()),
        }


@dataclass(frozen=True)
class Endpoint:
    """What a cluster wants to know of a receiver: where it listens, an OTLP endpoint by gRPC and one by HTTP."""

    grpc_endpoint: str
    http_endpoint: str


@dataclass(frozen=True)
class Truth:
    """What truly happened to a job that failed once.

    Attributes:
        hosts: The nodes, by name.
        workers: Every worker process of every round, as it wrote itself down.
        failure: What was done to which worker; ``None`` where nothing was.
        restarts: How often the job restarted.
        reason: Why.
        began_ns: Before the first agent was started.
        ended_ns: After the last one had ended.
        exits: The agents' exit statuses, by host.
    """

    hosts: tuple[str, ...]
    workers: tuple[Worker, ...]
    failure: Action | None
    restarts: int
    reason: str
    began_ns: int
    ended_ns: int
    exits: dict[str, int]

    @property
    def rounds(self) -> int:
        """How many rounds ran."""
        return self.restarts + 1

    @property
    def failed_host(self) -> str:
        """The node of the failure."""
        assert self.failure is not None, "nothing failed"
        return host_of(self.failure.agent)

    @property
    def failed_rank(self) -> int:
        """The global rank of the worker that failed first."""
        assert self.failure is not None, "nothing failed"
        assert self.failure.worker is not None, "no worker failed"
        return self.failure.worker.rank

    def ranks(self, host: str, round_: int) -> list[int]:
        """The global ranks of a node's workers in a round, by local rank."""
        mine = [each for each in self.workers if host_of(each.agent) == host and each.start == round_]
        return [each.rank for each in sorted(mine, key=lambda each: each.local_rank)]

    def group_rank(self, host: str, round_: int) -> int:
        """The node's rank in a round."""
        (rank,) = {each.group_rank for each in self.workers if host_of(each.agent) == host and each.start == round_}
        return rank


@dataclass(frozen=True)
class Job:
    """A job that is over.

    Attributes:
        run_id: Its run id.
        truth: What truly happened.
        files: What its agents wrote, OTLP JSON lines.
    """

    run_id: str
    truth: Truth
    files: tuple[Path, ...]

    def records(self) -> list[Written]:
        """Every log record, each uid once."""
        return list({each.uid: each for each in written(self.files, *LOGS)}.values())

    def spans(self) -> list[Written]:
        """Every span, each once."""
        spans = written(self.files, *SPANS)
        return list({(each.trace_id, each.span_id): each for each in spans}.values())


def host_of(letter: str) -> str:
    """The ``host.name`` of the node that the cluster calls by a letter."""
    return f"train-{LETTERS.index(letter)}"


def stage_of(agents: Agents, directory: Path, stack: Any, **attributes: str) -> Nodes:
    """A cluster that exports to the stack, with more attributes for each resource (dots as ``__``)."""
    endpoint = Endpoint(stack.otlp_grpc, stack.otlp_http)
    more = {key.replace("__", "."): value for key, value in attributes.items()}
    return Nodes(agents, endpoint, NEWEST, directory, free_port(), free_port(), attributes=more)  # type: ignore[arg-type]


def enter_all(cluster: Nodes, nodes: int, run_id: str, *, workers: int = 2, restarts: int = 1) -> str:
    """Start the agents of a job; their letters."""
    letters = LETTERS[:nodes]
    for letter in letters:
        cluster.start_agent(letter, nnodes=str(nodes), workers=workers, restarts=restarts, conf=SOON, run_id=run_id)
    return letters


def wait_all(cluster: Nodes, letters: Sequence[str], start: int, workers: int = 2) -> None:
    """Wait until the workers of all nodes have begun, at their so-manieth start."""
    for letter in letters:
        cluster.wait_for_workers(letter, start, workers)


def run_for(seconds: float) -> None:
    """Let the workers run; time is what it is about."""
    threading.Event().wait(seconds)


def job_of(cluster: Nodes, run_id: str, began_ns: int, *, restarts: int, reason: str = "") -> Job:
    """The job, once every agent has ended."""
    exits = {host_of(letter): status for letter, status in cluster.exit_statuses().items()}
    workers = tuple(being for letter in cluster.nodes for being in cluster.workers_of(letter))
    truth = Truth(
        tuple(exits),
        workers,
        next((deed for deed in cluster.actions if deed.worker is not None), None),
        restarts,
        reason,
        began_ns,
        time.time_ns(),
        exits,
    )
    return Job(run_id, truth, tuple(sorted(cluster.directory.glob("otlp-*/*.jsonl"))))


def play_failed_job(stack: Any, directory: Path, *, nodes: int = 3, name: str = "llama-finetune") -> Job:
    """Three nodes with two workers each: a worker of ``train-1`` raises in round 0; one restart; all end well."""
    run_id = f"{name}-{uuid.uuid4().hex[:6]}"
    directory.mkdir(exist_ok=True)
    began_ns = time.time_ns()
    with Agents(directory) as agents:
        cluster = stage_of(agents, directory, stack)
        letters = enter_all(cluster, nodes, run_id)
        wait_all(cluster, letters, 0)
        run_for(RUNNING_S)
        worker, _ = cluster.wait_for_workers("b", 0, 2)
        cluster.command(worker, "raise")
        wait_all(cluster, letters, 1)
        run_for(RUNNING_S)
        cluster.finish()
        job = job_of(cluster, run_id, began_ns, restarts=1, reason="worker_failure")
        assert set(job.truth.exits.values()) == {0}, job.truth.exits
    return job


def play_fine_job(stack: Any, directory: Path, *, nodes: int = 1, name: str = "fine") -> Job:
    """Nothing fails."""
    run_id = f"{name}-{uuid.uuid4().hex[:6]}"
    directory.mkdir(exist_ok=True)
    began_ns = time.time_ns()
    with Agents(directory) as agents:
        cluster = stage_of(agents, directory, stack)
        letters = enter_all(cluster, nodes, run_id)
        wait_all(cluster, letters, 0)
        run_for(1.0)
        cluster.finish()
        job = job_of(cluster, run_id, began_ns, restarts=0)
        assert set(job.truth.exits.values()) == {0}, job.truth.exits
    return job


def play_writer_killed(stack: Any, directory: Path, *, name: str = "killed") -> Job:
    """The agent that speaks for the job is killed just after a restart, and started again on the same node.

    Two nodes; a worker of ``train-1`` raises: restart 1. Then SIGKILL to the agent that told of it; the other's worker
    cannot go on and exits; the killed agent is started again, as another process with the same spools: restart 2.
    """
    run_id = f"{name}-{uuid.uuid4().hex[:6]}"
    directory.mkdir(exist_ok=True)
    began_ns = time.time_ns()
    with Agents(directory) as agents:
        cluster = stage_of(agents, directory, stack)
        # the store outlives the agents, as on a cluster where a service of its own hosts it
        store = agents.start([str(NEWEST.python), "-c", STORE], str(cluster.port))
        for letter in "ab":
            cluster.start_agent(letter, nnodes="2", workers=2, restarts=3, conf=f"is_host=0,{FAST}", run_id=run_id)
        wait_all(cluster, "ab", 0)
        worker, _ = cluster.wait_for_workers("b", 0, 2)
        cluster.command(worker, "raise")
        wait_all(cluster, "ab", 1)
        writer = the_writer(cluster, "ab", 1)
        (other,) = set("ab") - {writer}
        cluster.signal_agent(writer, signal.SIGKILL)
        worker, _ = cluster.wait_for_workers(other, 1, 2)
        cluster.command(worker, "exit 3")
        cluster.start_agent(
            *("c",), nnodes="2", workers=2, restarts=3, conf=f"is_host=0,{FAST}", run_id=run_id,
            spools=cluster.nodes[writer].spools, env={"OTEL_RESOURCE_ATTRIBUTES": f"host.name={host_of(writer)}"},
        )  # fmt: skip
        wait_all(cluster, other, 2)
        wait_all(cluster, "c", 0)
        run_for(RUNNING_S)
        cluster.finish()
        job = job_of(cluster, run_id, began_ns, restarts=2)
        assert sorted(job.truth.exits.values()) == [-signal.SIGKILL, 0, 0], job.truth.exits
        store.process.terminate()
    return job


def the_writer(cluster: Nodes, letters: Sequence[str], round_: int) -> str:
    """The agent that told that a round runs: it speaks for the job."""

    def who() -> list[str]:
        return [
            letter
            for letter in letters
            for record in written(
                sorted(cluster.directory.glob(f"otlp-{letter}/*.jsonl")), "Log", "scopeLogs", "logRecords"
            )
            if record.name == "torchelastic.round.started"
            and record.attributes["torchelastic.rendezvous.round"] == round_
        ]

    cluster.wait_until(who, f"an agent says that round {round_} runs")
    return who()[0]
