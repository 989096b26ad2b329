"""Who did it and why, of scripts without a decorator: in log record, agreed cause, metric and timeline.

The truth is what tests/live/workers/failing.py does.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.live.environments import NEWEST, Environment
from tests.live.harness import PROGRAMS, TEE, WORKERS, Agent, Agents, c10d, otlp, usual_way
from tests.support.ports import free_port
from tests.support.received import Receiver
from torchelastic_otel.cli import main
from torchelastic_otel.testing.otlp_receiver import ReceivedRecord

pytestmark = [pytest.mark.live, pytest.mark.torch]

SCRIPT = WORKERS / "failing.py"
RECOVERS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without it a new round of several workers a node dials the addresses of the old one (torch 2.15)."""


@dataclass(frozen=True)
class Truth:
    """What happens, as it must be reported.

    Attributes:
        ranks: The ranks that did it.
        kind: The kind of failure.
        words: A part of the message, or ``None`` for none.
        function: Where in the script.
        evidence: What may have decided; whether another rank's failure is seen before it is stopped depends on time.
    """

    ranks: tuple[int, ...]
    kind: str
    words: str | None
    function: str | None
    evidence: tuple[str, ...] = ("only_failure", "others_waited")


TRUTHS: Mapping[str, Truth] = {
    "raise": Truth((1,), "exception", "loss is NaN", "train_step"),
    "raise first, end late": Truth((1,), "exception", "loss is NaN", "train_step", ("earliest",)),
    "hang": Truth((1,), "hang", None, "load_batch", ("stack_at_stop",)),
    "two hang": Truth((1, 2), "hang", None, "load_batch", ("stack_at_stop",)),
    "crash": Truth((1,), "signal", None, "step_in_native_code"),
    "exit": Truth((1,), "exit", "no data", "check_data"),
    "killed": Truth((1,), "signal", None, None),
    # what the program sees first is a matter of time: a signal handler, the queue, or a connection that is reset
    "data loader": Truth((1,), "exception", None, "fail"),
}


def jobs(
    agents: Agents,
    receiver: Receiver,
    torch: Environment,
    way: str,
    *,
    nodes: int = 1,
    workers: int = 1,
    restarts: int = 0,
    env: Mapping[str, str] | None = None,
) -> list[Agent]:
    """A job to its end."""
    folder = agents.directory / uuid.uuid4().hex
    folder.mkdir()
    arguments = [*c10d(free_port(), nodes=nodes, workers=workers, restarts=restarts), SCRIPT, way, folder]
    environment = {**otlp(receiver), **RECOVERS, **(env or {})}
    started = [
        agents.start(
            usual_way(torch), *arguments, env={**environment, "OTEL_RESOURCE_ATTRIBUTES": f"host.name=node{n}"}
        )
        for n in range(nodes)
    ]
    for agent in started:
        agent.wait()
    return started


def inferred(receiver: Receiver, name: str) -> list[ReceivedRecord]:
    """The bridge's own records of this name, each once."""
    found: dict[str, ReceivedRecord] = {}
    for record in receiver.records:
        if record.event_name == f"torchelastic.{name}" and record.attributes.get("torchelastic.inferred"):
            found.setdefault(record.uid, record)
    return list(found.values())


def first_failure(started: Sequence[Agent], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The first failure of the first round, as the timeline has it."""
    capsys.readouterr()
    assert main(["timeline", "--json", *sorted({str(agent.spools) for agent in started})]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    failure: dict[str, Any] = run["rounds"][0]["first_failure"]
    return failure


def assert_told(truth: Truth, started: Sequence[Agent], receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """Log record, metric and timeline name who did it, why and where."""
    failed = inferred(receiver, "worker.failed")
    causes = [record for record in failed if record.attributes["torchelastic.failure.role"] == "cause"]
    ours = [record for record in causes if record.attributes["torchelastic.failure.kind"] == truth.kind]
    assert sorted(record.attributes["torchelastic.worker.rank"] for record in ours) == list(truth.ranks), [
        (record.body, record.attributes["torchelastic.failure.role"]) for record in failed
    ]
    for record in ours:
        attributes = record.attributes
        assert attributes.get("code.function.name") == truth.function
        assert (truth.function is None) or attributes["code.file.path"] == str(SCRIPT)
        assert truth.words is None or truth.words in attributes["exception.message"]
        assert attributes["torchelastic.failure.evidence"] in truth.evidence
    told = first_failure(started, capsys)
    assert (told["rank"], told["kind"], told["function"]) == (truth.ranks[0], truth.kind, truth.function)
    assert truth.words is None or truth.words in told["message"]
    assert len(told["culprits"]) == (len(truth.ranks) if truth.kind == "hang" else 0)
    counted = {
        (point.attributes["torchelastic.failure.kind"], point.attributes["torchelastic.failure.role"])
        for metric in receiver.metrics
        if metric.name == "torchelastic.worker.failures"
        for point in metric.points
        if point.value
    }
    assert (truth.kind, "cause") in counted


@pytest.mark.parametrize("way", TRUTHS)
def test_one_node_names_who_did_it(
    agents: Agents, receiver: Receiver, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of failure, of three workers on one node."""
    started = jobs(agents, receiver, NEWEST, way, workers=3)
    assert_told(TRUTHS[way], started, receiver, capsys)


@pytest.mark.parametrize("way", ["raise", "hang"])
def test_two_nodes_agree_on_who_did_it_and_start_again(
    agents: Agents, receiver: Receiver, torch: Environment, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a hang the culprit's node has no failure of its own; on every torch that is supported."""
    started = jobs(agents, receiver, torch, way, nodes=2, restarts=2)
    truth = TRUTHS[way]
    assert {agent.process.returncode for agent in started} == {0}
    if not torch.loads_entry_points:
        # below 2.4 agents cannot agree (a store is not safe beside threads there): the history decides
        told = first_failure(started, capsys)
        assert (told["rank"], told["kind"], told["function"]) == (truth.ranks[0], truth.kind, truth.function)
        return
    assert_told(truth, started, receiver, capsys)
    for agreed in inferred(receiver, "restart.cause_agreed") + inferred(receiver, "restart.completed"):
        attributes = agreed.attributes
        assert attributes["torchelastic.restart.agreed"] is True
        assert attributes["torchelastic.cause.rank"] == truth.ranks[0]
        assert attributes["torchelastic.cause.failure_kind"] == truth.kind
        assert attributes["torchelastic.cause.function"] == truth.function
        assert attributes["torchelastic.failure.evidence"] in truth.evidence
    assert len(inferred(receiver, "restart.cause_agreed")) == 2
    [cause] = [
        each for each in inferred(receiver, "worker.failed") if each.attributes["torchelastic.failure.role"] == "cause"
    ]
    spans = {span.span_id: span for span in receiver.spans}
    assert spans[cause.span_id].name == "torchelastic.workers"
    assert spans[cause.span_id].attributes["torchelastic.rendezvous.round"] == 0


def test_if_all_wait_in_collectives_nobody_is_named_for_certain(
    agents: Agents, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program's order of collectives, or the network: no stack shows for whom the others waited."""
    started = jobs(agents, receiver, NEWEST, "all wait", workers=2)
    told = first_failure(started, capsys)
    assert (told["evidence"], told["ambiguous"], told["culprits"]) == ("all_waited", True, [])


@pytest.mark.parametrize("way", ["raise", "hang", "crash", "exit"])
def test_a_job_behaves_as_without_evidence(agents: Agents, receiver: Receiver, way: str) -> None:
    """Exit status, what workers print, and torch's own events."""
    evident = jobs(agents, receiver, NEWEST, way, workers=2)
    plain = jobs(agents, receiver, NEWEST, way, workers=2, env={"TORCHELASTIC_OTEL_WORKER_EVIDENCE": "off"})

    def behaviour(started: Sequence[Agent]) -> Any:
        [agent] = started
        printed = sorted(line for line in agent.output.splitlines() if line.startswith("rank "))
        states = [(line["event"].get("name"), line["event"].get("source")) for line in agent.torch_events]
        return agent.process.returncode, printed, [state for state in states if state[1] is not None]

    assert behaviour(evident) == behaviour(plain)


def test_torchs_own_summary_has_the_traceback(agents: Agents, receiver: Receiver) -> None:
    """Without a decorator torch says only that an exit code was 1."""
    [agent] = jobs(agents, receiver, NEWEST, "raise", workers=2)
    assert "ValueError: loss is NaN" in agent.output.rpartition("Root Cause")[2]


def test_an_exit_code_of_a_wrapper_is_explained(
    agents: Agents, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell reports the signal that killed its child as 128 and the signal's number."""
    arguments = [
        *c10d(free_port()),
        "--no-python",
        "bash",
        "-c",
        f"{sys.executable} -c 'import os; os.kill(os.getpid(), 9)'; exit $?",
    ]
    agent = agents.start(usual_way(NEWEST), *arguments, env=otlp(receiver))
    assert agent.wait() == 1
    told = first_failure([agent], capsys)
    assert (told["kind"], told["exit_code"]) == ("exit", 137)
    assert "SIGKILL" in told["explanation"]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_function_of_elastic_launch_that_raises_has_its_place(
    agents: Agents, receiver: Receiver, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its interpreter starts before its environment is set."""
    agent = agents.start(
        [str(NEWEST.python), str(TEE), str(PROGRAMS / "launch_failing.py")], method, env=otlp(receiver)
    )
    assert agent.wait() == 0, agent.output
    told = first_failure([agent], capsys)
    assert (told["rank"], told["kind"], told["function"]) == (1, "exception", "train")
    assert told["message"] == "no loss"


GROUPS = Path("/sys/fs/cgroup")
LIMIT = 1 << 30


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A memory group of version 1 or 2 with a limit; where none can be made, the machine cannot run this test."""
    parent = GROUPS / "memory" if (GROUPS / "memory").is_dir() else GROUPS
    group = parent / f"torchelastic-otel-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if parent != GROUPS else "memory.max")).write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no memory group with a limit can be made here ({error}): a real limit is NOT tested")
    yield group
    group.rmdir()


def test_a_worker_at_its_memory_limit_is_named_as_such(
    agents: Agents, receiver: Receiver, memory_group: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL by the kernel is no SIGKILL by a person."""
    command = " ".join(map(shlex.quote, usual_way(NEWEST)))
    line = f'echo $$ > {memory_group / "cgroup.procs"} && exec {command} "$@"'
    code = "x = bytearray(b'x' * (2 << 30))"
    arguments = [*c10d(free_port()), "--no-python", sys.executable, "-c", code]
    agent = agents.start(["bash", "-c", line, "bash"], *arguments, env=otlp(receiver))
    assert agent.wait() == 1
    told = first_failure([agent], capsys)
    assert (told["kind"], told["signal"]) == ("out_of_memory", "SIGKILL")
    assert "memory" in told["explanation"]
