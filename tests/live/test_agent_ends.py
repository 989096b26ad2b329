"""How agents end: by a signal, killed, at once. Torch's behaviour is unchanged, and what was recorded is not lost."""

from __future__ import annotations

import os
import signal

import pytest

from tests.live.arrivals import assert_arrived, names, of
from tests.live.environments import Environment
from tests.live.harness import PATIENCE_S, WORKERS, Agents, c10d, otlp, usual_way
from tests.support.ports import free_port
from tests.support.received import Receiver

pytestmark = [pytest.mark.live, pytest.mark.torch]


def test_sigterm_ends_an_agent_as_without_us_and_its_failure_arrives(
    agents: Agents, receiver: Receiver, torch: Environment
) -> None:
    """Torch turns SIGTERM into an exception; whoever swallows it makes a job that cannot be stopped."""
    ours_and_stock = [
        (agents.start(usual_way(torch), *c10d(free_port()), WORKERS / "wait.py", pipe.path, env=env), pipe)
        for pipe, env in (
            (agents.pipe("ours"), otlp(receiver)),
            (agents.pipe("stock"), {"TORCHELASTIC_OTEL": "off"}),
        )
    ]
    for agent, pipe in ours_and_stock:
        worker = pipe.wait("began")
        agent.wait_until_monitoring()
        os.kill(agent.pid, signal.SIGTERM)
        assert pipe.wait("stopped") == worker
    ours, stock = (agent for agent, _ in ours_and_stock)
    assert ours.wait_signalled() == stock.wait_signalled() != 0
    for agent in (ours, stock):
        assert "SignalException: Process" in agent.output
    # torch's heartbeats go on while the exit waits
    failed = assert_arrived(ours, receiver, beats=False)[-1]
    assert failed.event_name == "torchelastic.agent.failed"
    assert failed.attributes["exception.type"].endswith("SignalException")
    assert failed.attributes["torchelastic.group.rank"] == 0


def test_what_a_killed_agent_left_is_delivered_by_the_next_one_on_the_node(
    agents: Agents, receiver: Receiver, torch: Environment
) -> None:
    """Nobody can flush under SIGKILL: the spool is adopted, and what is in it keeps its own process and names."""
    node = agents.directory / "node"
    refused = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_SERVICE_NAME": "the-dead-job",
        "OTEL_RESOURCE_ATTRIBUTES": "host.name=the-dead-host",
    }
    pipe = agents.pipe()
    dead = agents.start(
        usual_way(torch), *c10d(free_port(), run_id="dead"), WORKERS / "wait.py", pipe.path, env=refused, spools=node
    )
    pipe.wait("began")
    dead.wait_until_monitoring()
    dead.wait_until_stored()
    os.kill(dead.pid, signal.SIGKILL)
    assert dead.wait() == -signal.SIGKILL
    assert of(dead, receiver.records) == []

    done = agents.directory / "done"
    arguments = [*c10d(free_port()), WORKERS / "wait.py", pipe.path, done]
    later = agents.start(usual_way(torch), *arguments, env=otlp(receiver), spools=node)
    delivered = assert_arrived(dead, receiver, timeout_s=PATIENCE_S, beats=False)
    done.touch()
    assert later.wait() == 0

    assert "rendezvous.joined" in names(delivered)
    assert {record.resource["service.name"] for record in delivered} == {"the-dead-job"}
    assert {record.resource["host.name"] for record in delivered} == {"the-dead-host"}
    assert {record.attributes["torchelastic.run.id"] for record in delivered} == {"dead"}
    assert_arrived(later, receiver)


def test_a_job_whose_workers_fail_for_good_says_so(agents: Agents, receiver: Receiver, torch: Environment) -> None:
    """Torch then says SUCCEEDED of the agent and exits with 1: the failure is the worker's record."""
    (agents.directory / "fails.py").write_text("raise SystemExit(7)\n")
    arguments = [*c10d(free_port()), agents.directory / "fails.py"]
    agent = agents.start(usual_way(torch), *arguments, env=otlp(receiver))
    assert agent.wait() == 1
    records = assert_arrived(agent, receiver)
    (failed,) = [record for record in records if record.event_name == "torchelastic.worker.failed"]
    if torch.folder == "":
        assert failed.attributes["process.exit.code"] == 7
    assert "agent.succeeded" in names(records)


def test_an_agent_that_ends_before_exporters_are_loaded_still_delivers(agents: Agents, receiver: Receiver) -> None:
    """A rendezvous that fails at once is what one wants to see most; the SDK is then not imported yet."""
    agent = agents.run("end_at_once.py", env=otlp(receiver))
    (record,) = assert_arrived(agent, receiver)
    assert record.event_name == "torchelastic.rendezvous.failed"
    assert "is disabled" not in agent.output
