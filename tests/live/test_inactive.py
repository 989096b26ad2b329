"""Where nothing was asked for nothing happens: in an agent without configuration, and in every worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.live.environments import NEWEST, Environment
from tests.live.harness import WORKERS, Agents, by_instrument, c10d, otlp, usual_way
from tests.support.ports import free_port
from tests.support.received import Receiver

pytestmark = [pytest.mark.live, pytest.mark.torch]


@pytest.mark.parametrize(
    ("says_no", "asked"),
    [({}, False), ({"TORCHELASTIC_OTEL": "off"}, True), ({"OTEL_SDK_DISABLED": "true"}, True)],
    ids=["not configured", "TORCHELASTIC_OTEL=off", "OTEL_SDK_DISABLED=true"],
)
def test_an_agent_that_nobody_asked_to_watch_is_as_it_was(
    agents: Agents, receiver: Receiver, says_no: dict[str, str], asked: bool
) -> None:
    """Installing the package alone changes nothing: no file, no thread, torch's own functions."""
    env = {**(otlp(receiver) if asked else {}), **says_no}
    # the spool's directory is a setting of ours, and would ask for us
    env |= {"TORCHELASTIC_OTEL_SPOOL_DIR": "" if not asked else str(agents.directory / "spools")}
    env |= {"TORCHELASTIC_OTEL_FLUSH_TIMEOUT": "", "TORCHELASTIC_OTEL_HEARTBEATS": ""} if not asked else {}
    env |= {"TMPDIR": str(agents.directory / "temporary")}
    (agents.directory / "temporary").mkdir()
    agent = agents.run("report_agent.py", *c10d(free_port()), WORKERS / "quick.py", env=env)
    report = agent.report
    assert report["threads"] == 1
    assert report["ours"] == []
    assert report["sdk"] == []
    assert [*agents.directory.rglob("torchelastic-otel-*")] == []
    assert receiver.records == []


def test_a_worker_gets_nothing_of_ours(agents: Agents, receiver: Receiver, torch: Environment, tmp_path: Path) -> None:
    """Workers load the entry point with `torch.distributed.checkpoint`: it must cost them no thread, file or import."""
    report = worker_report(agents, usual_way(torch), receiver, tmp_path)
    assert len(report["threads"]) == 1
    assert len(report["spools"]) > 0
    assert_only_the_agents_spool(report)
    modules = report["modules"]
    assert [name for name in modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "grpc"))] == []
    ours = {name for name in modules if name.startswith("torchelastic_otel")}
    assert ours <= {
        "torchelastic_otel",
        "torchelastic_otel.errors",
        "torchelastic_otel.runtime.entry_point",
        "torchelastic_otel.instrument",
        "torchelastic_otel.runtime",
        "torchelastic_otel.instrument.arming",
        "torchelastic_otel.guard",
        "torchelastic_otel.version",
        "torchelastic_otel_evidence",
    }


def test_a_worker_under_opentelemetry_instrument_gets_no_thread_and_no_spool(
    agents: Agents, receiver: Receiver, tmp_path: Path
) -> None:
    """OpenTelemetry instruments the workers, too; they are no agents for that."""
    report = worker_report(agents, by_instrument(NEWEST.python), receiver, tmp_path)
    assert "torchelastic_otel.runtime.otel_instrumentor" in report["modules"]
    assert [file for file in report["threads"] if "torchelastic_otel" in file] == []
    assert not {"torchelastic_otel.runtime.api", "torchelastic_otel.spool.store"} & {*report["modules"]}
    assert_only_the_agents_spool(report)


def worker_report(agents: Agents, command: list[str], receiver: Receiver, directory: Path) -> dict[str, Any]:
    """What the one worker of an agent saw."""
    told = directory / "report.json"
    agent = agents.start(command, *c10d(free_port()), WORKERS / "look_around.py", told, env=otlp(receiver))
    assert agent.wait() == 0, agent.output
    report: dict[str, Any] = json.loads(told.read_text())
    assert report["pid"] != agent.pid
    return report


def assert_only_the_agents_spool(report: dict[str, Any]) -> None:
    """One spool, which is the agent's: a spool has one name in all its files."""
    assert len({name.partition(".")[0] for name in report["spools"]}) == 1
