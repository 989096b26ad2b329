"""Kills for lack of memory, by the counters of control groups of both versions in files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchelastic_otel.agent.memory_events import MemoryCounters, MemoryReader, kill_between


class Kernel:
    """A folder with the kernel's files."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self.version = version
        self.mount = folder / "cgroup"
        kind = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
        self.write("proc/self/mountinfo", f"30 20 0:25 / {self.mount} rw,nosuid - {kind}\n")
        self.write("proc/vmstat", "pgfault 5\noom_kill 3\n")

    def write(self, name: str, text: str) -> None:
        """One file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(self, pid: int, group: str) -> None:
        """A process in a group."""
        self.write(f"proc/{pid}/cgroup", f"0::{group}\n" if self.version == 2 else f"5:memory:{group}\n")

    def group(self, path: str, *, kills: int = 0, hits: int = 0, limit: str = "max", whole: int = 0) -> None:
        """The counters of a group."""
        if self.version == 2:
            self.write(f"cgroup{path}/memory.events", f"low 0\noom {hits}\noom_kill {kills}\noom_group_kill {whole}\n")
            self.write(f"cgroup{path}/memory.events.local", f"oom {hits}\n")
            self.write(f"cgroup{path}/memory.max", limit + "\n")
        else:
            self.write(f"cgroup{path}/memory.oom_control", f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
            self.write(f"cgroup{path}/memory.failcnt", f"{hits}\n")
            self.write(f"cgroup{path}/memory.limit_in_bytes", f"{limit if limit != 'max' else 9223372036854771712}\n")

    def reader(self) -> MemoryReader:
        """Reads these files."""
        return MemoryReader.open(str(self.folder / "proc"))


@pytest.fixture(params=[1, 2], ids=["version 1", "version 2"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    """A kernel with one of both versions."""
    made = Kernel(tmp_path, request.param)
    made.process(7, "/job/step")
    for path in ("", "/job", "/job/step"):
        made.group(path)
    return made


def counters(kernel: Kernel) -> MemoryCounters:
    """The counters of process 7 now."""
    reader = kernel.reader()
    return reader.read(reader.folder_of(7))


def test_a_kill_at_the_groups_own_limit_is_named_with_the_limit(kernel: Kernel) -> None:
    """What a person changes is the limit."""
    before = counters(kernel)
    kernel.group("/job/step", kills=1, hits=4, limit=str(512 << 20))
    kill = kill_between(before, counters(kernel))
    assert kill is not None
    assert kill.kills == 1
    assert "the memory limit of its group (512 MiB) was reached" in kill.reason


def test_a_kill_at_a_parents_limit_names_the_parent(kernel: Kernel) -> None:
    """Slurm's job and Kubernetes' pod have the limit, the step and the container have none."""
    before = counters(kernel)
    kernel.group("/job/step", kills=1)
    kernel.group("/job", kills=1, hits=2, limit=str(1 << 30))
    kill = kill_between(before, counters(kernel))
    assert kill is not None
    assert f"the memory limit of the group {kernel.mount}/job (1024 MiB) was reached" in kill.reason


def test_a_kill_without_a_limit_is_likely_the_nodes(kernel: Kernel) -> None:
    """Nothing but the counter shows it, and it is stated as likely."""
    before = counters(kernel)
    kernel.group("/job/step", kills=1)
    kill = kill_between(before, counters(kernel))
    assert kill is not None
    assert kill.reason.startswith("likely the node ran out of memory")


def test_nothing_killed_is_no_kill(kernel: Kernel) -> None:
    """Also if another group of the node was hit."""
    before = counters(kernel)
    kernel.write("proc/vmstat", "oom_kill 4\n")
    assert kill_between(before, counters(kernel)) is None


def test_a_kill_of_all_processes_of_a_group_is_known(tmp_path: Path) -> None:
    """Kubernetes sets memory.oom.group since 1.28; version 2 only."""
    kernel = Kernel(tmp_path, 2)
    kernel.process(7, "/pod")
    kernel.group("")
    kernel.group("/pod")
    before = counters(kernel)
    kernel.group("/pod", kills=3, hits=1, whole=1, limit=str(1 << 30))
    kill = kill_between(before, counters(kernel))
    assert kill is not None
    assert (kill.kills, kill.whole_group) == (3, True)


def test_without_groups_the_nodes_counter_is_all_that_is_known(tmp_path: Path) -> None:
    """It shows no process: zero kills of its own group."""
    kernel = Kernel(tmp_path, 2)
    before = counters(kernel)
    kernel.write("proc/vmstat", "oom_kill 5\n")
    kill = kill_between(before, counters(kernel))
    assert kill is not None
    assert (kill.kills, "rose by 2" in kill.reason) == (0, True)


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    """Another system, a container without the files, nonsense in them."""
    assert kill_between(MemoryCounters(), MemoryCounters()) is None
    kernel = Kernel(tmp_path, 2)
    kernel.process(7, "/gone")
    kernel.write("proc/vmstat", "nonsense\noom_kill many\n")
    assert kill_between(counters(kernel), counters(kernel)) is None
    assert MemoryReader.open(str(tmp_path / "nowhere")).folder_of(7) is None
