"""Collectors that are away, hang or refuse: exits keep their deadline and nothing is lost (promises 4 and 5)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import (
    BAD_REQUEST,
    DRIP,
    FORBIDDEN,
    HANG,
    OK,
    THROTTLED,
    UNAVAILABLE,
    GrpcCollector,
    HttpCollector,
    attributes_of,
    wait_until,
)
from tests.support.drivers import Drive
from torchelastic_otel.spool import adoption

pytestmark = pytest.mark.crash

DEADLINE_S = 1.0
MARGIN_S = 15.0
"""For a loaded machine; what an exit must not wait for takes ten minutes here."""
HANGS_FOR_LONG = {"OTEL_EXPORTER_OTLP_TIMEOUT": "600", "OTEL_BLRP_EXPORT_TIMEOUT": "600000"}
"""No time limit of an attempt's own ends it before the exit does."""


def left_in(spools: Path) -> dict[str, Any]:
    """The cursors of the one spool that was left, and its rows that wait."""
    (owned,) = adoption.adopt(spools, 64 << 20)
    (cursor,) = owned.spool.cursors().values()
    numbers = [row.sequence for row in owned.spool.read(cursor.name, cursor.position, 1_000, 1 << 30)]
    owned.release()
    return {"cursor": cursor, "waiting": numbers}


@pytest.mark.parametrize("make", [HttpCollector, GrpcCollector])
@pytest.mark.parametrize("trouble", ["away", "hangs", "drips", "unavailable", "throttled", "forbidden"])
def test_the_exit_keeps_its_deadline_and_everything_is_left_in_the_spool(
    drive: Drive, spools: Path, make: Any, trouble: str
) -> None:
    """Promise 5: whatever the collector does; and promise 3: what it did not take is there for the next agent."""
    if trouble == "drips" and make is GrpcCollector:
        trouble = "hangs after a first answer"
    with make() as collector:
        environ = collector.env()
        collector.behaviour = {
            "hangs": HANG,
            "drips": DRIP,
            "unavailable": UNAVAILABLE,
            "throttled": THROTTLED.but(retry_after_s=30),
            "forbidden": FORBIDDEN,
        }.get(trouble, OK)
        if trouble == "away":
            collector.stop()
        agent = drive("exits", 20, {**environ, **HANGS_FOR_LONG}, flush_timeout=str(DEADLINE_S))
        agent.heard()
        if trouble == "hangs after a first answer":
            assert collector.wait_for(20)
            collector.behaviour = HANG
        elif trouble != "away":
            assert collector.wait_for_requests(1)
        agent.go_on()
        status, (said,), errors = agent.ended()
        assert status == 0, errors
        assert said["held_ns"] / 1e9 < DEADLINE_S + MARGIN_S
        assert "Traceback" not in errors
        if trouble == "hangs after a first answer":
            assert not list(spools.glob("*.spool"))
            return
        left = left_in(spools)
        assert left["waiting"] == list(range(1, 21))
        assert (left["cursor"].delivered, left["cursor"].quarantined, left["cursor"].dropped) == (0, 0, 0)


@pytest.mark.parametrize("make", [HttpCollector, GrpcCollector])
def test_with_a_collector_that_answers_the_exit_delivers_everything(drive: Drive, spools: Path, make: Any) -> None:
    """Promise 5 the other way round: what can be delivered in time is, and the spool becomes history."""
    with make() as collector:
        # the SDK is still being imported when the exit begins, which on a slow machine takes more than the two seconds
        agent = drive("exits", 200, collector.env(), flush_timeout="300")
        agent.heard()
        agent.go_on()
        status, (said,), errors = agent.ended()
        assert (status, errors) == (0, "")
        assert len(collector.uids()) == len(set(collector.uids())) == 200
        assert said["held_ns"] / 1e9 < 100  # it ends when everything is delivered, not when its time is over
        assert [path.suffix for path in spools.iterdir()] == [".delivered"]


@pytest.mark.parametrize("make", [HttpCollector, GrpcCollector])
def test_a_collector_that_refuses_the_data_gets_each_record_alone_and_all_is_set_aside(
    drive: Drive, spools: Path, make: Any
) -> None:
    """400 and INVALID_ARGUMENT: split down to the one record; nothing waits for ever behind what is refused."""
    with make() as collector:
        collector.behaviour = BAD_REQUEST
        agent = drive("exits", 20, collector.env(), flush_timeout="30")
        agent.heard()
        assert collector.wait_until(
            lambda: (
                len([r for r in collector._requests if len(r.resource_logs[0].scope_logs[0].log_records) == 1]) >= 20
            )
        )
        agent.go_on()
        status, _, errors = agent.ended()
        assert status == 0
        assert "quarantined" in errors
    (path,) = spools.glob("*.delivered")
    path.rename(path.with_suffix(".spool"))
    left = left_in(spools)
    assert (left["cursor"].quarantined, left["cursor"].delivered, left["waiting"]) == (20, 0, [])


@pytest.mark.parametrize("make", [HttpCollector, GrpcCollector])
@pytest.mark.parametrize("outage", ["from the start", "in the middle"])
def test_a_collector_that_comes_back_gets_everything_in_order(drive: Drive, make: Any, outage: str) -> None:
    """Promise 4: transient failures are retried until it is back, without another event to wake the route."""
    collector = make()
    collector.start()
    if outage == "from the start":
        collector.stop()
    agent = drive("emits_on_request", 30, collector.env())
    agent.heard()
    for number in range(30):
        if outage == "in the middle" and number == 10:
            assert collector.wait_for(10)
            collector.stop()
        agent.go_on()
        assert agent.heard() == {"n": number}
    collector.start()
    try:
        assert collector.wait_for(30)
        uids = collector.uids()
        first = list(dict.fromkeys(uids))
        assert [int(uid.rpartition("-")[2]) for uid in first] == list(range(1, 31))
        agent.go_on()
        assert agent.ended()[0] == 0
    finally:
        collector.stop()


def test_a_lost_answer_is_sent_again_with_the_same_uids(drive: Drive) -> None:
    """Promise 4: at least once; a backend drops by uid what it has."""
    with HttpCollector() as collector:
        collector.behaviour = lambda request: UNAVAILABLE.but(keep=True) if collector.requests == 0 else OK
        agent = drive("emits_on_request", 1, collector.env())
        agent.heard()
        agent.go_on()
        agent.heard()
        assert collector.wait_until(lambda: len(collector.uids()) == 2)
        assert len(set(collector.uids())) == 1
        agent.go_on()
        assert agent.ended()[0] == 0


def test_loglevel_does_not_silence_events(drive: Drive) -> None:
    """Torch's LOGLEVEL is for its messages; events are data."""
    with HttpCollector() as collector:
        agent = drive("emits_on_request", 1, {**collector.env(), "LOGLEVEL": "WARNING"})
        agent.heard()
        agent.go_on()
        agent.heard()
        assert collector.wait_for(1)
        agent.go_on()
        assert agent.ended()[0] == 0


@pytest.mark.parametrize("make", [HttpCollector, GrpcCollector])
def test_the_host_program_is_left_alone_while_delivering_and_retrying(drive: Drive, make: Any) -> None:
    """Promise 7: random state, root logger, signals, cwd, umask, hooks and providers; the exporters draw and log."""
    with make() as collector:
        collector.behaviour = UNAVAILABLE.but(retry_after_s=0.05)
        agent = drive("leaves_the_host_alone", 50, collector.env())
        assert agent.heard() == {"ready": True}
        assert collector.wait_for_requests(3)
        collector.behaviour = OK
        agent.go_on()
        said = agent.heard()
        assert said["failures"][0] >= 2
        assert said["delivered"]
        assert said["changed"] == []
        assert said["providers"] == [False, False, False]
        assert agent.ended()[0] == 0


@pytest.mark.parametrize("make", [GrpcCollector, HttpCollector])
def test_forks_in_the_middle_of_exports_harm_neither_child_nor_parent(drive: Drive, make: Any, spools: Path) -> None:
    """Fork while delivering: OpenTelemetry's own hung 5 of 30 children; ours all end, and the parent loses nothing."""
    with make() as collector:
        agent = drive("forks", 30, collector.env())
        said = agent.heard()
        assert said["statuses"] == [0] * 30
        assert said["drained"]
        pid = agent.process.pid
        assert agent.ended()[0] == 0
        own = [
            attributes_of(record.attributes)["log.record.uid"]
            for resource, record in collector.records()
            if resource["process.pid"] == pid
        ]
        # at least once: a fork may break a connection whose answer was on its way, and then it is sent again
        assert [int(uid.rpartition("-")[2]) for uid in dict.fromkeys(own)] == list(range(1, 301))
        # a child that recorded left a spool of its own (or delivered it); one that did not left nothing
        assert len([path for path in spools.iterdir() if path.suffix in {".spool", ".delivered"}]) == 1 + 10


def test_a_disk_that_stops_answering_holds_neither_a_caller_nor_the_exit(drive: Drive) -> None:
    """Promises 2 and 5: SQLite blocks for real, with every lock of the spool held."""
    with HttpCollector() as collector:
        agent = drive("hangs_in_sqlite", 30, collector.env(), flush_timeout=str(DEADLINE_S))
        said = agent.heard()
        assert said["wait_s"] == 0.05
        assert said["first_ns"] >= 990_000_000  # the one second that it is given here
        assert said["others_ns"] < 10_000_000_000  # a third of what it would be if each of the 29 waited
        assert said["waiting"] == 30
        status, (end,), errors = agent.ended()
        assert status == 0
        assert end["held_ns"] / 1e9 < DEADLINE_S + MARGIN_S
        assert "30 events could not be stored" in errors


def test_a_spool_that_somebody_locks_holds_neither_a_caller_nor_the_exit(drive: Drive, spools: Path) -> None:
    """The same with a real lock on a real file: a person's shell that began a transaction and went to lunch."""
    import sqlite3

    with HttpCollector() as collector:
        agent = drive("exits_from_a_locked_spool", 20, collector.env(), flush_timeout=str(DEADLINE_S))
        path = Path(agent.heard()["spool"])
        assert collector.wait_for(20)
        shell = sqlite3.connect(path, isolation_level=None)
        shell.execute("BEGIN IMMEDIATE")
        agent.go_on()
        status, (said,), errors = agent.ended()
        assert status == 0, errors
        assert said["caller_ns"] / 1e9 < MARGIN_S
        assert said["held_ns"] / 1e9 < DEADLINE_S + MARGIN_S
        assert "1 events could not be stored" in errors
        shell.execute("ROLLBACK")
        shell.close()
    assert wait_until(lambda: os.path.exists(path) or path.with_suffix(".delivered").exists())
