"""The hooks on real torches: what does not fit stays off and says so; what was hooked is put back, object by object."""

from __future__ import annotations

import pytest

from tests.live.arrivals import assert_arrived, names, of
from tests.live.environments import Environment
from tests.live.harness import WORKERS, Agents, c10d, otlp
from tests.support.ports import free_port
from tests.support.received import Receiver

pytestmark = [pytest.mark.live, pytest.mark.torch]


@pytest.mark.parametrize(
    ("change", "hook"),
    [
        ("method name gone", "get_method_name"),
        ("construct has another signature", "construct_and_record_rdzv_event"),
        ("agent takes other arguments", "agents"),
    ],
)
def test_a_hook_that_does_not_fit_stays_off_and_the_rest_works(
    agents: Agents, receiver: Receiver, change: str, hook: str
) -> None:
    """Torch changes its internals without notice: a job must not notice, and its events still arrive."""
    agent = agents.run("changed_torch.py", change, *c10d(free_port()), WORKERS / "quick.py", env=otlp(receiver))
    warnings = [line for line in agent.output.splitlines() if "do not fit this torch" in line]
    assert len(warnings) == 1, agent.output
    assert f"{hook} (" in warnings[0]
    assert warnings[0].count("Error: ") == 1
    assert {"rendezvous.joined", "agent.succeeded"} <= {*names(assert_arrived(agent, receiver))}


def test_a_torch_without_its_registry_of_handlers_loses_the_events_and_not_the_job(
    agents: Agents, receiver: Receiver
) -> None:
    """Without torch's registry no event can be seen; one warning names the hook, and the job runs."""
    agent = agents.run(
        "changed_torch.py", "registry gone", *c10d(free_port()), WORKERS / "quick.py", env=otlp(receiver)
    )
    (warning,) = [line for line in agent.output.splitlines() if "do not fit this torch" in line]
    assert "destinations (" in warning
    assert of(agent, receiver.records) == []


@pytest.mark.parametrize(
    ("c10d_first", "used"), [("c10d before", "used before"), ("c10d while installed", "not used before")]
)
def test_uninstall_leaves_torch_as_found(
    agents: Agents, receiver: Receiver, torch: Environment, c10d_first: str, used: str
) -> None:
    """A guest leaves the house as it was: every attribute the same object, every logger as it was, no thread."""
    agent = agents.run("come_and_go.py", str(free_port()), c10d_first, used, env=otlp(receiver), on=torch)
    report = agent.report
    assert report["hooked"] != []
    assert report["changed"] == {}
    assert report["threads"] == []


def test_uninstrument_leaves_torch_as_found(agents: Agents, receiver: Receiver) -> None:
    """The instrumentor's face of the same, after a rendezvous and before any."""
    agent = agents.run("come_and_go.py", str(free_port()), "instrumentor", "used before", env=otlp(receiver))
    report = agent.report
    assert report["hooked"] != []
    assert report["changed"] == {}
