"""SIGKILL: what was emitted is delivered later, by one other process, as the dead one's own (promises 3 and 4)."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import (
    HANG,
    OK,
    Collector,
    GrpcCollector,
    HttpCollector,
    attributes_of,
    refusing_port,
    wait_until,
)
from tests.support.drivers import Drive, Driver

pytestmark = pytest.mark.crash

NOBODY_LISTENS = {"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf"}


def nobody() -> dict[str, str]:
    """The environment of an agent whose collector is away."""
    return {**NOBODY_LISTENS, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"http://127.0.0.1:{refusing_port()}/v1/logs"}


def numbers(collector: Collector) -> list[int]:
    """The events that were taken, by their number, in order of arrival."""
    bodies = [record.body.string_value for _, record in collector.records()]
    return [int(body.partition('"n": ')[2].partition("}")[0]) for body in bodies]


def adopt(drive: Drive, collector: Collector, agents: int = 1) -> list[Driver]:
    """Agents on the same node, later, with a collector that is there."""
    adopters = [drive("adopts", 0, collector.env()) for _ in range(agents)]
    for adopter in adopters:
        assert adopter.heard() == {"ready": True}
    return adopters


def finish(drivers: list[Driver]) -> None:
    """Let them end as programs do."""
    for driver in drivers:
        driver.go_on()
    for driver in drivers:
        status, _, said = driver.ended()
        assert status == 0, said


@pytest.mark.parametrize("make", [HttpCollector, GrpcCollector])
def test_killed_right_after_the_last_emit_everything_is_delivered_as_its_own(
    drive: Drive, make: Any, spools: Path
) -> None:
    """Promise 3: all of them, once, in order, with the dead process' host, pid, instance and times."""
    agent = drive("killed", 500, {**nobody(), "OTEL_RESOURCE_ATTRIBUTES": "job=dead,host.name=told"})
    facts = agent.heard()
    assert agent.ended()[0] == -signal.SIGKILL
    with make() as collector:
        finishing = adopt(drive, collector)
        assert collector.wait_for(500)
        assert numbers(collector) == list(range(500))
        (left,) = {resource["service.instance.id"] for resource, _ in collector.records()}
        assert collector.uids() == [f"{left}-{number}" for number in range(1, 501)]
        for resource, record in collector.records():
            assert resource["process.pid"] == facts["pid"] != finishing[0].process.pid
            assert resource["job"] == "dead"
            assert facts["begin"] <= record.time_unix_nano <= facts["end"]
            assert facts["begin"] <= record.observed_time_unix_nano <= facts["end"]
        assert wait_until(lambda: [path.stem for path in spools.glob("*.delivered")] == [left], 10)
        finish(finishing)
    assert not list(spools.glob("*.spool"))


def test_host_name_is_the_dead_process_own(drive: Drive) -> None:
    """Promise 3: where nobody says otherwise it is the machine that captured."""
    agent = drive("killed", 1, nobody())
    agent.heard()
    agent.ended()
    with HttpCollector() as collector:
        finishing = adopt(drive, collector)
        assert collector.wait_for(1)
        ((resource, record),) = collector.records()
        assert resource["host.name"] == socket.gethostname()
        assert attributes_of(record.attributes)["log.record.uid"] == resource["service.instance.id"] + "-1"
        finish(finishing)


def test_killed_from_outside_in_the_middle_nothing_that_was_emitted_is_missing(drive: Drive) -> None:
    """Promise 3: at any moment, also between two events and in the middle of one."""
    agent = drive("killed_in_the_middle", 100_000, nobody())
    said = [agent.heard()["n"] for _ in range(200)]
    os.kill(agent.process.pid, signal.SIGKILL)
    _, rest, _ = agent.ended()
    last = max([*said, *(each["n"] for each in rest)])
    with HttpCollector() as collector:
        finishing = adopt(drive, collector)
        assert collector.wait_for(last + 1)
        got = numbers(collector)
        assert got == list(range(len(got)))
        assert len(got) in {last + 1, last + 2}  # one more where it died after the commit and before it said so
        finish(finishing)


def test_many_agents_on_the_node_exactly_one_adopts_each_spool(drive: Drive) -> None:
    """Promise 4: at least once, and with a collector that answers not twice either."""
    for _ in range(3):
        agent = drive("killed", 50, nobody())
        agent.heard()
        agent.ended()
    with HttpCollector() as collector:
        finishing = adopt(drive, collector, agents=3)
        assert collector.wait_for(150)
        finish(finishing)
        assert len(collector.uids()) == len(set(collector.uids())) == 150
        for instance in {resource["service.instance.id"] for resource, _ in collector.records()}:
            own = [uid for uid in collector.uids() if uid.startswith(instance)]
            assert own == [f"{instance}-{number}" for number in range(1, 51)]


def test_an_adopter_that_is_killed_too_leaves_it_to_the_next(drive: Drive) -> None:
    """Promise 3 holds for what was adopted as well."""
    agent = drive("killed", 30, nobody())
    agent.heard()
    agent.ended()
    with HttpCollector() as collector:
        collector.behaviour = HANG
        (first,) = adopt(drive, collector)
        assert collector.wait_for_requests(1)
        first.process.kill()
        first.ended()
        collector.behaviour = OK
        finishing = adopt(drive, collector)
        assert collector.wait_for(30)
        assert numbers(collector) == list(range(30))
        finish(finishing)
