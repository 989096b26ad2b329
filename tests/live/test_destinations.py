"""`torchrun --event-log-handler NAME` reaches NAME, or says before any rendezvous that nobody knows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.live.arrivals import assert_arrived, names, of
from tests.live.environments import ENVIRONMENTS, NEWEST
from tests.live.harness import PROGRAMS, WORKERS, Agent, Agents, by_command, by_entry_point, c10d, otlp
from tests.support.ports import free_port
from tests.support.received import Receiver

pytestmark = [pytest.mark.live, pytest.mark.torch]

WITH_EVENT_HANDLERS = [environment for environment in ENVIRONMENTS if environment.loads_entry_points]


def test_a_file_gets_what_goes_to_it_and_the_default_the_rest(agents: Agents, receiver: Receiver) -> None:
    """Agent events follow the name; the rendezvous has a name of its own, torch's fixed one."""
    agent = started(agents, "file", env={**otlp(receiver), "TORCHELASTIC_OTEL_FILE_DIR": str(agents.directory / "f")})
    assert agent.wait() == 0
    wanted = [line["event"] for line in agent.torch_events]
    (written,) = (agents.directory / "f").iterdir()
    records = [
        record
        for line in written.read_text().splitlines()
        for resource in json.loads(line)["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]
    assert len(records) == sum("message" not in event for event in wanted)
    assert records[-1]["eventName"] == "torchelastic.agent.succeeded"
    assert [record.body for record in of(agent, receiver.records)] == [
        event["message"] for event in wanted if "message" in event
    ]


def test_console_shows_the_agents_events_and_the_default_exporter_gets_all(agents: Agents, receiver: Receiver) -> None:
    """`console` is one of torch's own names: its events are shown besides."""
    agent = started(agents, "console", env=otlp(receiver))
    assert agent.wait() == 0
    assert_arrived(agent, receiver)
    assert "agent.succeeded" in agent.output


def test_a_name_from_the_environment_of_torchrun(agents: Agents, receiver: Receiver) -> None:
    """`PET_EVENT_LOG_HANDLER` is torchrun's own way to say the same."""
    command = by_entry_point(NEWEST.python)
    env = {**otlp(receiver), "PET_EVENT_LOG_HANDLER": "otlp_proto_http"}
    env["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"] = receiver.http_endpoint + "/v1/logs"
    env["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
    agent = agents.start(command, *c10d(free_port()), WORKERS / "quick.py", env=env)
    assert agent.wait() == 0
    assert {*names(of(agent, receiver.records))} >= {"agent.succeeded", "rendezvous.joined"}


def test_a_destination_that_another_package_brings(agents: Agents, receiver: Receiver) -> None:
    """An entry point in group `torchelastic_otel.destinations` is enough: no line of code in the job."""
    packages = agents.directory / "packages"
    metadata = packages / "siteplugin-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: siteplugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[torchelastic_otel.destinations]\nsite_log = siteplugin:exporters\n")
    (packages / "siteplugin.py").write_text((PROGRAMS / "exporter.py").read_text())
    seen = agents.directory / "seen"
    env = {**otlp(receiver), "PYTHONPATH": str(packages), "EXPORTER_FILE": str(seen)}
    agent = started(agents, "site_log", env=env)
    assert agent.wait() == 0
    assert_every_agent_event_is_in(seen, agent)


def test_a_destination_that_the_program_registered(agents: Agents, receiver: Receiver) -> None:
    """A launcher of one's own registers an exporter object, and gives its name to `elastic_launch`."""
    seen = agents.directory / "seen"
    env = {**otlp(receiver), "EXPORTER_FILE": str(seen)}
    agent = agents.run("registering.py", *c10d(free_port()), WORKERS / "quick.py", env=env)
    assert_every_agent_event_is_in(seen, agent)


@pytest.mark.parametrize(
    "command",
    [by_command(NEWEST.python), *(by_entry_point(environment.python) for environment in WITH_EVENT_HANDLERS)],
    ids=["our command", *(f"torch-{environment.torch}" for environment in WITH_EVENT_HANDLERS)],
)
def test_an_unknown_name_is_one_error_before_any_rendezvous(
    agents: Agents, receiver: Receiver, command: list[str]
) -> None:
    """Torch's own is a bare KeyError, after the rendezvous; a typing error must not cost the waiting time of a job."""
    agent = agents.start(
        command, *c10d(free_port()), "--event-log-handler", "otpl", WORKERS / "quick.py", env=otlp(receiver)
    )
    assert agent.wait() == 1
    assert agent.torch_events == []
    assert "unknown destination 'otpl' (did you mean 'otlp'?); known: console, dynamic_rendezvous," in agent.output
    assert "register_destination" in agent.output


def test_a_handler_that_a_program_gave_to_torch_itself_is_left_alone(agents: Agents, receiver: Receiver) -> None:
    """A name that torch knows and we do not is no unknown name: such a program worked before we came."""
    agent = agents.run("own_handler.py", *c10d(free_port()), WORKERS / "quick.py", env=otlp(receiver))
    own = [line for line in agent.output.splitlines() if line.startswith("OWN ")]
    assert [json.loads(line[4:]) for line in own] == [
        line["event"] for line in agent.torch_events if "message" not in line["event"]
    ]
    assert [record.body for record in of(agent, receiver.records)] == [
        line["event"]["message"] for line in agent.torch_events if "message" in line["event"]
    ]


def started(agents: Agents, name: str, env: dict[str, str]) -> Agent:
    """An agent with this event handler."""
    command = by_entry_point(NEWEST.python)
    return agents.start(command, *c10d(free_port()), "--event-log-handler", name, WORKERS / "quick.py", env=env)


def assert_every_agent_event_is_in(file: Path, agent: Agent) -> None:
    """The exporter of ``programs/exporter.py`` got one record for each agent event, in order, and nothing else."""
    got = file.read_text().split()
    assert len(got) == sum("message" not in line["event"] for line in agent.torch_events)
    assert got[-1] == "torchelastic.agent.succeeded"
