"""What is done with spools that were left: damaged ones, links, old ones, and those that are done."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

import pytest

from torchelastic_otel.errors import SpoolCorruptError
from torchelastic_otel.spool import adoption, store

BOUND = 1 << 20
DAY_NS = 24 * 3_600 * 1_000_000_000


def leave(directory: Path, name: str, rows: int = 1) -> Path:
    """A spool whose owner is gone, with rows that one cursor has not got."""
    spool = store.create(directory / f"{name}.spool", BOUND)
    spool.subscribe({"x": ["d"]})
    for number in range(rows):
        spool.append([("d", str(number) * 1_000)])
    spool.close()
    return directory / f"{name}.spool"


def test_a_corrupt_spool_is_set_aside_whole_and_the_others_are_adopted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 6: a corrupt spool is set aside with one warning, never a crash, and nothing is deleted."""
    bad = tmp_path / "bad.spool"
    bad.write_bytes(b"garbage" * 1_000)
    (tmp_path / "bad.spool-wal").write_bytes(b"its log")
    leave(tmp_path, "good")
    with caplog.at_level(logging.WARNING, "torchelastic_otel"):
        (owned,) = adoption.adopt(tmp_path, BOUND)
    assert owned.path.name == "good.spool"
    owned.release()
    assert (tmp_path / "bad.corrupt").read_bytes() == b"garbage" * 1_000
    assert not bad.exists()
    assert not (tmp_path / "bad.lock").exists()
    assert [r for r in caplog.records if "quarantined" in r.message and "bad" in r.message]
    caplog.clear()
    for owned in adoption.adopt(tmp_path, BOUND):
        owned.release()
    assert not caplog.records


def test_a_spool_that_turns_out_corrupt_later_can_be_given_up(tmp_path: Path) -> None:
    """Damage in a data page is seen only when it is read; by then the spool is adopted."""
    path = leave(tmp_path, "torn", rows=300)
    with path.open("r+b") as file:
        file.seek(4_096 * 20)
        file.write(os.urandom(4_096 * 40))
    for owned in adoption.adopt(tmp_path, BOUND):
        with pytest.raises(SpoolCorruptError) as caught:
            owned.spool.read("x", 0, 1_000, 1 << 30)
        owned.quarantine(str(caught.value))
    assert (tmp_path / "torn.corrupt").exists()
    assert not path.exists()
    assert list(adoption.adopt(tmp_path, BOUND)) == []


def test_an_empty_file_of_a_process_that_died_at_once_is_no_trouble(tmp_path: Path) -> None:
    """SIGKILL between making the file and its first table."""
    (tmp_path / "young.spool").touch(0o600)
    (owned,) = adoption.adopt(tmp_path, BOUND)
    assert owned.spool.pending() == 0
    owned.release()
    assert not (tmp_path / "young.spool").exists()


def test_a_symbolic_link_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Promise 8: what it points to is not ours to open."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target = leave(elsewhere, "target")
    before = target.read_bytes()
    directory = tmp_path / "spools"
    directory.mkdir()
    (directory / "link.spool").symlink_to(target)
    assert list(adoption.adopt(directory, BOUND)) == []
    assert "symbolic link" in caplog.text
    assert target.read_bytes() == before
    assert (directory / "link.spool").is_symlink()


def test_a_fifo_among_the_spools_does_not_hang_the_adopter(tmp_path: Path) -> None:
    """Promise 2's cousin: the maintenance thread must not be lost to a file that never answers."""
    os.mkfifo(tmp_path / "pipe.spool")
    leave(tmp_path, "good")
    names = []
    for owned in adoption.adopt(tmp_path, BOUND):
        names.append(owned.path.name)
        owned.release()
    assert names == ["good.spool"]


def test_a_spool_in_use_by_an_unfinished_write_is_left_and_taken_later(tmp_path: Path) -> None:
    """A person's shell on the file must not make it look corrupt."""
    path = leave(tmp_path, "busy")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    taken = list(adoption.adopt(tmp_path, BOUND))
    other.execute("ROLLBACK")
    other.close()
    for owned in taken:
        owned.release()
    assert path.exists()
    (owned,) = adoption.adopt(tmp_path, BOUND)
    assert owned.spool.pending() == 1
    owned.release()


def test_oldest_spools_are_adopted_first(tmp_path: Path) -> None:
    """What has waited longest goes first, whatever its name."""
    for name, age in (("b", 3), ("a", 1), ("c", 2)):
        path = leave(tmp_path, name)
        os.utime(path, ns=(0, 1_000 * DAY_NS - age * DAY_NS))
    assert [path.stem for path in adoption.undelivered_spools(tmp_path)] == ["b", "c", "a"]


def test_delivered_spools_go_when_they_are_old_or_their_space_is_needed(tmp_path: Path) -> None:
    """Promise 6: history is bounded too; what is not delivered is never touched."""
    now = 1_000 * DAY_NS
    for name, age in (("week", 8), ("day", 1), ("hour", 0), ("waiting", 30)):
        path = leave(tmp_path, name, rows=100)
        os.utime(path, ns=(0, now - age * DAY_NS))
        if name != "waiting":
            path.rename(path.with_suffix(".delivered"))
    size = (tmp_path / "day.delivered").stat().st_size
    assert adoption.delete_expired(tmp_path, now, 10 * size) == 1
    assert sorted(p.stem for p in tmp_path.glob("*.delivered")) == ["day", "hour"]
    assert adoption.delete_expired(tmp_path, now, size) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hour.delivered", "waiting.spool"]
