"""Each way in, alone and together: the same events arrive, once by uid, and the program around is unharmed."""

from __future__ import annotations

import pytest

from tests.live.arrivals import assert_arrived, names, of
from tests.live.environments import NEWEST, Environment
from tests.live.harness import WORKERS, Agents, by_command, by_entry_point, by_instrument, c10d, otlp, usual_way
from tests.support.ports import free_port
from tests.support.received import Receiver

pytestmark = [pytest.mark.live, pytest.mark.torch]


def test_torchrun_itself_with_nothing_but_the_environment(agents: Agents, receiver: Receiver) -> None:
    """What most users do: the command `torchrun`, unwrapped, and one variable."""
    torchrun = [str(NEWEST.python.parent / "torchrun")]
    agent = agents.start(torchrun, *c10d(free_port()), WORKERS / "quick.py", env=otlp(receiver))
    assert agent.wait() == 0
    arrived = of(agent, receiver.records)
    numbers = [int(record.uid.rpartition("-")[2]) for record in arrived]
    assert numbers == sorted(set(numbers))
    assert names(arrived)[0] == "rendezvous.store_hosted"
    # the closing of the rendezvous follows the agent's own end
    assert names(arrived)[-1] == "rendezvous.closed"
    assert {"rendezvous.joined", "worker.started", "worker.succeeded", "agent.succeeded"} <= {*names(arrived)}


def test_our_command_on_every_torch(agents: Agents, receiver: Receiver, torch: Environment) -> None:
    """`torchelastic-otel run` is the way in where torch loads no entry point, and must not install twice elsewhere."""
    arguments = [*c10d(free_port()), WORKERS / "quick.py"]
    agent = agents.start(by_command(torch.python), *arguments, env=otlp(receiver))
    assert agent.wait() == 0
    assert "rendezvous.joined" in names(assert_arrived(agent, receiver))


def test_opentelemetry_instrument(agents: Agents, receiver: Receiver, torch: Environment) -> None:
    """OpenTelemetry's own way in; with the entry point that is two at once, and yet one installation."""
    arguments = [*c10d(free_port()), WORKERS / "quick.py"]
    agent = agents.start(by_instrument(torch.python), *arguments, env=otlp(receiver))
    assert agent.wait() == 0
    assert "rendezvous.joined" in names(assert_arrived(agent, receiver))


def test_all_ways_at_once_install_once(agents: Agents, receiver: Receiver) -> None:
    """Each event has one uid, whoever else also installs."""
    command = [by_instrument(NEWEST.python)[0], *by_command(NEWEST.python)]
    agent = agents.start(command, *c10d(free_port()), WORKERS / "quick.py", env=otlp(receiver))
    assert agent.wait() == 0
    assert_arrived(agent, receiver)
    # all files of a spool have its name
    assert len({path.name.partition(".")[0] for path in agent.spool_files()}) == 1


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_a_program_that_installs_launches_and_uninstalls(agents: Agents, receiver: Receiver, start_method: str) -> None:
    """A notebook's way: `elastic_launch` returns what its functions return, and all is as before afterwards."""
    agent = agents.run("launch_function.py", str(free_port()), start_method, "install", env=otlp(receiver))
    assert agent.report == {"returned": {"0": 10, "1": 11}, "again": {"0": 20, "1": 21}, "threads": []}
    # the second launch came after uninstall(): what it recorded is nobody's
    recorded = agent.torch_events
    arrived = of(agent, receiver.records)
    assert "agent.succeeded" in names(arrived)
    assert names(arrived)[-1] == "rendezvous.closed"
    assert 0 < len(arrived) < len(recorded)
    assert [record.body for record in arrived if record.event_name.startswith("torchelastic.rendezvous.")] == [
        line["event"]["message"] for line in recorded[: len(arrived)] if "message" in line["event"]
    ]


def test_a_program_that_only_launches_is_an_agent_too(agents: Agents, receiver: Receiver, torch: Environment) -> None:
    """`elastic_launch` in a user's own program is watched by the environment alone, twice in one process."""
    agent = agents.run("launch_function.py", str(free_port()), "fork", "bare", env=otlp(receiver), on=torch)
    if torch.loads_entry_points:
        assert names(assert_arrived(agent, receiver)).count("agent.succeeded") == 2
    else:
        # nothing of ours is loaded there: unharmed is all that can be asked
        assert of(agent, receiver.records) == []
    assert agent.report["returned"] == {"0": 10, "1": 11}
    assert agent.report["again"] == {"0": 20, "1": 21}


def test_loglevel_warning_exports_everything(agents: Agents, receiver: Receiver) -> None:
    """`LOGLEVEL` is for people who read logs: torch's own events fall silent by it, ours must not."""
    arguments = [*c10d(free_port()), WORKERS / "quick.py"]
    agent = agents.start(by_entry_point(NEWEST.python), *arguments, env={**otlp(receiver), "LOGLEVEL": "WARNING"})
    assert agent.wait() == 0
    assert_arrived(agent, receiver)


def test_an_agent_of_somebody_else_that_names_no_destination(agents: Agents, receiver: Receiver) -> None:
    """NVRx and HyperPod subclass torch's agent and record to the default: whoever owns `null` sees them."""
    agent = agents.run("subclassing_agent.py", str(free_port()), env=otlp(receiver))
    records = assert_arrived(agent, receiver)
    (own,) = [record for record in records if record.event_name == "torchelastic.event"]
    assert own.attributes["torchelastic.event.name"] == "health_check.passed"
    assert own.attributes["torchelastic.group.rank"] == 0


def test_the_recording_functions_are_named_as_stock_torch_names_them(
    agents: Agents, receiver: Receiver, torch: Environment
) -> None:
    """The frame look-up in place of `inspect.stack()` must find the same callers."""
    stock = agents.start(
        by_entry_point(torch.python),
        *[*c10d(free_port()), WORKERS / "quick.py"],
        env={"TORCHELASTIC_OTEL": "off", "TEE_STOCK": "1"},
    )
    ours = agents.start(usual_way(torch), *c10d(free_port()), WORKERS / "quick.py", env=otlp(receiver))
    assert [stock.wait(), ours.wait()] == [0, 0]
    stock_names, our_names = (
        [line["event"]["name"] for line in agent.torch_events if line["thread"] == "MainThread"]
        for agent in (stock, ours)
    )
    assert len(stock_names) > 5
    assert our_names == stock_names
