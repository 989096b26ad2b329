"""A real memory limit, and the groups that a container can see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchelastic_otel.agent.memory_events import MemoryKill, MemoryReader, kill_between

MIB = 1024**2


@pytest.mark.parametrize(
    ("group", "root", "folder"),
    [
        ("/", "/", ""),
        ("/docker/abc/job", "/docker/abc", "/job"),
        ("/docker/abc", "/docker/abc", ""),
        ("/docker/abcdef", "/docker/abc", ""),
        ("/../other", "/", ""),
    ],
)
def test_in_a_container_the_visible_part_of_the_tree_is_read(
    tmp_path: Path, group: str, root: str, folder: str
) -> None:
    """Containers mount their own group as the root, with or without a namespace for groups."""
    (tmp_path / "10").mkdir()
    (tmp_path / "10/cgroup").write_text(f"0::{group}\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(f"30 23 0:26 {root} /groups rw - cgroup2 cgroup2 rw\n")
    assert MemoryReader.open(str(tmp_path)).folder_of(10) == f"/groups{folder}"


@pytest.fixture
def limited() -> Iterator[Path | None]:
    """A real memory group with a limit of 48 MiB; ``None`` if this user cannot make one."""
    reader = MemoryReader.open()
    own = reader.folder_of(os.getpid())
    group = None if own is None else Path(own) / f"torchelastic-otel-test-{os.getpid()}"
    try:
        if group is not None:
            group.mkdir()
            old = group / "memory.limit_in_bytes"
            (old if old.exists() else group / "memory.max").write_text(str(48 * MIB))
    except OSError:
        group = None
    yield group
    if group is not None:
        group.rmdir()


def test_a_real_limit_is_told_from_a_real_kill(limited: Path | None) -> None:
    """The same exit status, -9, and only one of the two was the kernel's doing."""
    if limited is None:
        pytest.skip("a real memory limit is NOT tested here: it needs a memory group of its own; run as root")
    reader = MemoryReader.open()
    code = "import sys; sys.stdin.readline(); held = [bytearray(1 << 20) for _ in range(200)]; sys.stdin.readline()"
    ends: list[tuple[int, MemoryKill | None]] = []
    for by_the_kernel in (False, True):
        process = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE)
        (limited / "cgroup.procs").write_text(str(process.pid))
        folder = reader.folder_of(process.pid)
        assert folder == str(limited)
        before = reader.read(folder)
        assert process.stdin is not None
        if by_the_kernel:
            process.stdin.write(b"\n")
            process.stdin.flush()
        else:
            process.kill()
        status = process.wait()
        process.stdin.close()
        ends.append((status, kill_between(before, reader.read(folder))))
    (status, kill), (oom_status, oom_kill) = ends
    assert (status, kill) == (-9, None)
    assert oom_status == -9
    assert oom_kill is not None
    assert oom_kill.kills == 1
    assert oom_kill.reason.startswith("the memory limit of its group (48 MiB) was reached")
