"""Launchers that bring a copy of torch's elastic, and a newer Python: hooked as torch's own is."""

from __future__ import annotations

import pytest

from tests.live.environments import COPY
from tests.live.harness import WORKERS, Agents, by_entry_point, c10d, otlp
from tests.support.ports import free_port
from tests.support.received import Receiver

pytestmark = [pytest.mark.live, pytest.mark.torch]


@pytest.mark.parametrize(
    "command",
    [
        [str(COPY.python), "-m", "torchelastic_otel", "run", "ft_launcher"],
        [str(COPY.python.parent / "opentelemetry-instrument"), str(COPY.python.parent / "ft_launcher")],
    ],
    ids=["run", "opentelemetry-instrument"],
)
def test_nvidias_launcher_runs_unharmed_and_what_it_records_arrives(
    agents: Agents, receiver: Receiver, command: list[str]
) -> None:
    """NVRx 0.4 brings elastic with it: its own registry, loggers, agents and rendezvous."""
    assert COPY.complete, f"no {COPY.folder}: run `make environments` (some GB, once)"
    agent = agents.start(
        command,
        *("--nnodes", "1", "--nproc-per-node", "2", "--max-restarts", "1", "--monitor-interval", "0.1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "nvrx"),
        WORKERS / "fail_once.py",
        agents.directory,
        env=otlp(receiver),
    )
    assert agent.wait(120) == 0, agent.output
    said = [record.event_name for record in receiver.records]
    assert said.count("torchelastic.rendezvous.joined") == 2
    assert said.count("torchelastic.worker.failed") == 1
    assert said.count("torchelastic.restart.completed") == 1
    assert said.count("torchelastic.agent.succeeded") == 1
    assert sorted(span.name for span in receiver.spans if not span.parent_id) == [
        *["torchelastic.round"] * 2,
        *["torchelastic.training"] * 2,
    ]
    assert "torchelastic-otel:" not in agent.output  # no fault, no warning


def test_on_a_newer_python_everything_is_delivered_at_the_end(agents: Agents, receiver: Receiver) -> None:
    """Python 3.12 gives out no thread while the interpreter ends: what asks the spool has its own in time."""
    assert COPY.complete, f"no {COPY.folder}: run `make environments` (some GB, once)"
    agent = agents.start(by_entry_point(COPY.python), *c10d(free_port()), WORKERS / "quick.py", env=otlp(receiver))
    assert agent.wait(120) == 0, agent.output
    assert "torchelastic-otel:" not in agent.output
    assert [path.suffix for path in agent.spool_files()] == [".delivered"]
