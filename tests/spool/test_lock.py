"""One owner of a spool at a time: across processes, threads, forks and violent ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.descriptors import descriptors
from torchelastic_otel.spool import adoption, store
from torchelastic_otel.spool.lock import acquire

BOUND = 1 << 20
HOLDER = """
import sys
from pathlib import Path
from torchelastic_otel.spool import adoption
owned = adoption.create(Path(sys.argv[1]), "dead", 1 << 20)
owned.spool.subscribe({"x": ["d"]})
owned.spool.append([("d", "1"), ("d", "2")])
print("ready", flush=True)
sys.stdin.read()
"""
ADOPTER = """
import sys
from pathlib import Path
from torchelastic_otel.spool import adoption
sys.stdin.readline()
for owned in adoption.adopt(Path(sys.argv[1]), 1 << 20):
    rows = owned.spool.read("x", 0, 100, 1 << 20)
    print("adopted", len(rows), flush=True)
    owned.spool.acknowledge("x", 2, delivered=2)
    owned.release()
print("done", flush=True)
sys.stdin.readline()
"""


def dead_spool(directory: Path, name: str = "dead") -> Path:
    """A spool with two rows that one cursor has not got, whose owner is gone."""
    spool = store.create(directory / f"{name}.spool", BOUND)
    spool.subscribe({"x": ["d"]})
    spool.append([("d", "1"), ("d", "2")])
    spool.close()
    return directory / f"{name}.spool"


def start(program: str, directory: Path) -> subprocess.Popen[str]:
    """A process that owns, or adopts."""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_living_owners_spool_is_not_adopted_and_a_killed_ones_is(tmp_path: Path) -> None:
    """The kernel lets go of the lock however the process ends."""
    with start(HOLDER, tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        assert adoption.is_owned(tmp_path / "dead.spool")
        assert list(adoption.adopt(tmp_path, BOUND)) == []
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    assert not adoption.is_owned(tmp_path / "dead.spool")
    (owned,) = adoption.adopt(tmp_path, BOUND)
    assert [row.payload for row in owned.spool.read("x", 0, 9, 99)] == ["1", "2"]
    owned.release()


def test_of_many_processes_exactly_one_adopts(tmp_path: Path) -> None:
    """Two adopters would deliver everything twice, and at the same time."""
    dead_spool(tmp_path)
    with contextlib.ExitStack() as stack:
        adopters = [stack.enter_context(start(ADOPTER, tmp_path)) for _ in range(5)]
        for adopter in adopters:
            assert adopter.stdin is not None
            adopter.stdin.write("go\n")
            adopter.stdin.flush()
        said = "".join(adopter.communicate("end\n", timeout=60)[0] for adopter in adopters)
    assert said.count("adopted 2\n") == 1
    assert said.count("done\n") == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dead.delivered"]


def test_of_many_threads_exactly_one_adopts(tmp_path: Path) -> None:
    """POSIX locks do not exclude within a process; the list of held files does."""
    for number in range(10):
        dead_spool(tmp_path, f"dead{number}")
    together = threading.Barrier(8)
    taken: list[adoption.OwnedSpool] = []

    def adopt() -> None:
        together.wait(10)
        taken.extend(adoption.adopt(tmp_path, BOUND))

    threads = [threading.Thread(target=adopt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(owned.path.name for owned in taken) == [f"dead{number}.spool" for number in range(10)]
    for owned in taken:
        owned.release()
    assert not list(tmp_path.glob("*.lock.*"))


def test_letting_go_makes_way_for_the_next(tmp_path: Path) -> None:
    """What one adopter could not deliver the next one gets."""
    path = dead_spool(tmp_path)
    (owned,) = adoption.adopt(tmp_path, BOUND)
    assert acquire(path.with_suffix(".lock")) is None
    owned.release()
    assert path.exists()
    (again,) = adoption.adopt(tmp_path, BOUND)
    again.spool.acknowledge("x", 2, delivered=2)
    again.release()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dead.delivered"]


def test_a_forked_child_neither_owns_nor_frees_its_parents_spool(tmp_path: Path) -> None:
    """A child that ends, or lets go, must not open the way to an adopter while the parent lives."""
    owned = adoption.create(tmp_path, "parent", BOUND)
    owned.spool.subscribe({"x": ["d"]})
    owned.spool.append([("d", "1")])
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            owned.lock.release(remove=True)
            owned.spool.close()
            # the child is a stranger to the file, and can own spools of its own
            is_stranger = acquire(tmp_path / "parent.lock") is None
            own = adoption.create(tmp_path, "child", BOUND)
            status = 0 if is_stranger and own.path.exists() else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    probe = "import sys; from pathlib import Path; from torchelastic_otel.spool.lock import acquire\n"
    probe += "print(acquire(Path(sys.argv[1])) is None)"
    asked = [sys.executable, "-c", probe, str(tmp_path / "parent.lock")]
    assert subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout == "True\n"
    assert owned.spool.append([("d", "2")]) == (2, 0)
    owned.release()


def test_a_lock_that_is_a_symbolic_link_or_a_fifo_is_an_error_and_leaks_nothing(tmp_path: Path) -> None:
    """Promise 8; and a descriptor lost at each look, every 30 s for weeks, would end the agent."""
    (tmp_path / "a.lock").symlink_to(tmp_path / "target")
    dead_spool(tmp_path, "a")
    os.mkfifo(tmp_path / "b.lock")
    dead_spool(tmp_path, "b")
    for _ in range(5):
        taken = list(adoption.adopt(tmp_path, BOUND))
        assert "a.spool" not in [owned.path.name for owned in taken]
        for owned in taken:
            owned.release()
    assert descriptors(str(tmp_path)) == []
    assert not (tmp_path / "target").exists()


def test_a_lock_whose_file_was_replaced_is_not_a_lock(tmp_path: Path) -> None:
    """The holder before may remove the file between our open and our lock; the name must still be what we hold."""
    lock = tmp_path / "a.lock"
    first = acquire(lock)
    assert first is not None
    first.release(remove=True)
    second = acquire(lock)
    assert second is not None
    assert os.fstat(second._descriptor).st_ino == lock.stat().st_ino
    second.release(remove=True)
    assert not lock.exists()


def test_a_living_owners_lock_that_a_cleaner_removes_is_had_again(tmp_path: Path) -> None:
    """Cleaners of temporary folders go by age; whoever comes next must not take a living agent's spool."""
    owned = adoption.create(tmp_path, "mine", BOUND)
    owned.spool.subscribe({"x": ["d"]})
    owned.spool.append([("d", "1"), ("d", "2")])
    lock = tmp_path / "mine.lock"
    os.utime(lock, (0, 0))
    owned.lock.refresh()
    assert lock.stat().st_mtime > 0
    lock.unlink()
    owned.lock.refresh()
    with start(ADOPTER, tmp_path) as adopter:
        assert adopter.communicate("go\nend\n", timeout=60)[0] == "done\n"
    assert descriptors(str(lock)) == [str(lock)]
    owned.spool.acknowledge("x", 2)
    owned.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.delivered"]


def test_a_lock_that_another_process_took_in_the_meantime_is_its_own(tmp_path: Path) -> None:
    """Who was robbed is told, keeps trying, and takes nothing away from the new owner."""
    lock = tmp_path / "dead.lock"
    robbed = acquire(lock)
    assert robbed is not None
    lock.unlink()
    with start(HOLDER, tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                robbed.refresh()
        assert descriptors(str(lock)) == [f"{lock} (deleted)"]
        robbed.release(remove=True)
        assert lock.exists()
        holder.kill()


def test_a_forked_child_does_not_refresh_its_parents_lock(tmp_path: Path) -> None:
    """The lock would be the child's then, and the parent locked out."""
    owned = acquire(tmp_path / "a.lock")
    assert owned is not None
    (tmp_path / "a.lock").unlink()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            owned.refresh()
            status = int((tmp_path / "a.lock").exists())
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    owned.release()
