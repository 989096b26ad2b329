"""Disks that are full, read-only, missing or somebody else's, under a real agent (promise 6)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.collector import OK, UNAVAILABLE, HttpCollector
from tests.support.drivers import Drive, Driver

pytestmark = pytest.mark.crash


def numbers(collector: HttpCollector) -> list[int]:
    """The events that were taken, by their number, each once, in order of arrival."""
    bodies = [record.body.string_value for _, record in collector.records()]
    return list(dict.fromkeys(int(body.partition('"n": ')[2].partition("}")[0]) for body in bodies))


def finish(agent: Driver) -> str:
    """Let it end as programs do; what it said on standard error."""
    agent.go_on()
    status, _, errors = agent.ended()
    assert status == 0, errors
    assert "Traceback" not in errors
    return errors


def test_a_disk_that_fills_up_loses_nothing_while_the_agent_lives(drive: Drive) -> None:
    """Promise 6: memory goes on where the disk ended, with one warning; every event arrives, in order."""
    with HttpCollector() as collector:
        collector.behaviour = UNAVAILABLE
        agent = drive("disk_fills_up", 2_000, collector.env())
        assert agent.heard() == {"drained": True, "lost": 0}
        collector.behaviour = OK
        agent.go_on()
        assert collector.wait_for(2_000)
        assert numbers(collector) == list(range(2_000))
        instances = {resource["service.instance.id"] for resource, _ in collector.records()}
        assert len(instances) == 1
        status, _, errors = agent.ended()
        assert status == 0, errors
        assert errors.count("stored in memory from here on") == 1


@pytest.mark.parametrize("obstacle", ["a file", "a link", "too open", "a fifo"])
def test_a_spool_folder_that_is_refused_means_memory_and_a_warning(drive: Drive, tmp_path: Path, obstacle: str) -> None:
    """Promises 6 and 8: nothing is written there, no exception, and the events arrive all the same."""
    base = tmp_path / "base"
    base.mkdir()
    folder = base / f"torchelastic-otel-{os.geteuid()}"
    if obstacle == "a file":
        folder.touch()
    elif obstacle == "a fifo":
        os.mkfifo(folder)
    elif obstacle == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with HttpCollector() as collector:
        # the temporary directory, where it would go on, is no better
        agent = drive("emits_on_request", 1, {**collector.env(), "TMPDIR": str(base)}, spool_dir=str(base))
        agent.heard()
        agent.go_on()
        agent.heard()
        assert collector.wait_for(1)
        errors = finish(agent)
    assert errors.count("no spool on disk") == 1
    assert str(folder) in errors
    if folder.is_dir():
        assert list(folder.iterdir()) == []


def test_a_refused_folder_gives_way_to_the_temporary_directory(drive: Drive, tmp_path: Path) -> None:
    """Promise 3 is worth a second place to look; a warning says which."""
    (tmp_path / "asked").touch()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with HttpCollector() as collector:
        collector.behaviour = UNAVAILABLE
        agent = drive(
            "emits_on_request", 1, {**collector.env(), "TMPDIR": str(temporary)}, spool_dir=str(tmp_path / "asked")
        )
        agent.heard()
        agent.go_on()
        agent.heard()
        agent.go_on()
        status, _, errors = agent.ended()
    assert status == 0
    assert "using " + str(temporary) in errors
    assert len(list(temporary.glob("*/*.spool"))) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 96 kB: room for a spool's first pages and no more. Needs the right to mount."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k,mode=700", "none", path], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a full file system is NOT tested here: it needs the right to mount; run as root")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.parametrize("taken", [0, 40, 60, 76, 88, 92])
def test_a_disk_that_is_all_but_full_at_the_start_means_memory(drive: Drive, small_disk: Path, taken: int) -> None:
    """Whichever page is the one too many: of the folder, the tables, the log, the cursors or the first event."""
    (small_disk / "filler").write_bytes(b"x" * taken * 1_024)
    with HttpCollector() as collector:
        agent = drive("emits_on_request", 3, {**collector.env(), "TMPDIR": str(small_disk)}, spool_dir=str(small_disk))
        agent.heard()
        for _ in range(3):
            agent.go_on()
            agent.heard()
        assert collector.wait_for(3)
        assert numbers(collector) == [0, 1, 2]
        finish(agent)
