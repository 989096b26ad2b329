"""Which directories are refused, and that nothing there is repaired or written through (promise 8)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from torchelastic_otel.errors import SpoolUnavailableError
from torchelastic_otel.spool.directory import prepare_directory, user_directory

UID = os.geteuid()


def test_the_folder_is_made_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    """Promise 8: 0700, owned by the user."""
    before = os.umask(0)
    try:
        path = prepare_directory(tmp_path / "not" / "there", UID)
    finally:
        os.umask(before)
    found = path.lstat()
    assert path == user_directory(tmp_path / "not" / "there", UID)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, UID)
    assert prepare_directory(tmp_path / "not" / "there", UID) == path


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o704, 0o777])
def test_a_folder_open_to_others_is_refused_and_not_repaired(tmp_path: Path, mode: int) -> None:
    """Somebody may have opened it on purpose, or be in it already."""
    path = user_directory(tmp_path, UID)
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(SpoolUnavailableError, match=f"open to others \\(mode {mode:o}\\); chmod 700"):
        prepare_directory(tmp_path, UID)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    """In a shared /tmp anyone can make our folder's name first; the user who asks is an argument, so no root needed."""
    path = user_directory(tmp_path, UID + 1)
    path.mkdir(mode=0o700)
    with pytest.raises(SpoolUnavailableError, match=f"belongs to user {UID}, not to {UID + 1}; remove it"):
        prepare_directory(tmp_path, UID + 1)


def test_a_symbolic_link_is_refused_even_to_a_good_folder(tmp_path: Path) -> None:
    """A link can be turned elsewhere between the look and the write."""
    good = tmp_path / "good"
    good.mkdir(mode=0o700)
    user_directory(tmp_path, UID).symlink_to(good)
    with pytest.raises(SpoolUnavailableError, match="symbolic links are refused"):
        prepare_directory(tmp_path, UID)
    assert list(good.iterdir()) == []


def test_a_dangling_link_is_refused_and_its_target_not_made(tmp_path: Path) -> None:
    """The same, where nothing is there yet."""
    user_directory(tmp_path, UID).symlink_to(tmp_path / "target")
    with pytest.raises(SpoolUnavailableError):
        prepare_directory(tmp_path, UID)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("what", ["file", "fifo"])
@pytest.mark.parametrize("place", ["base", "folder"])
def test_what_is_not_a_directory_is_refused_without_hanging(tmp_path: Path, what: str, place: str) -> None:
    """Opening a FIFO would hang for ever (promise 2)."""
    base = tmp_path / "base"
    path = base
    if place == "folder":
        base.mkdir()
        path = user_directory(base, UID)
    path.touch() if what == "file" else os.mkfifo(path)
    with pytest.raises(SpoolUnavailableError, match=r"not a directory|cannot be used"):
        prepare_directory(base, UID)


MOUNTS = """\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:45 / {base} rw,relatime shared:2 master:1 - {kind} server:/export rw
31 22 0:46 / {base}/local\\040disk rw - xfs /dev/sdb1 rw
32 22 0:47 / /elsewhere rw - nfs4 server:/export rw
a broken line
"""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "lustre", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused_before_anything_is_made_on_it(tmp_path: Path, kind: str) -> None:
    """SQLite's write-ahead log does not work there; the message says what to do."""
    mounts = MOUNTS.format(base=tmp_path, kind=kind)
    with pytest.raises(SpoolUnavailableError, match=f"network file system \\({kind}\\); name a disk of this node"):
        prepare_directory(tmp_path / "in" / "it", UID, mounts)
    assert not user_directory(tmp_path / "in" / "it", UID).exists()


def test_a_local_disk_mounted_below_a_network_one_is_taken(tmp_path: Path) -> None:
    """The innermost mount decides, also with a space in its name."""
    mounts = MOUNTS.format(base=tmp_path, kind="nfs4")
    assert prepare_directory(tmp_path / "local disk", UID, mounts).is_dir()


def test_the_last_of_two_mounts_on_one_point_decides(tmp_path: Path) -> None:
    """Mounts can be stacked; the newest is the one that is seen."""
    mounts = MOUNTS.format(base=tmp_path, kind="nfs4") + f"33 30 0:48 / {tmp_path} rw - tmpfs none rw\n"
    assert prepare_directory(tmp_path, UID, mounts).is_dir()


def test_a_directory_whose_name_only_begins_like_the_mounts_is_not_on_it(tmp_path: Path) -> None:
    """``/scratch2`` is not on ``/scratch``."""
    mounts = MOUNTS.format(base=tmp_path / "data", kind="nfs4")
    assert prepare_directory(tmp_path / "data2", UID, mounts).is_dir()


def test_a_base_that_cannot_be_made_is_refused_with_the_reason(tmp_path: Path) -> None:
    """The setting may name anything, also what no one can make, root included."""
    with pytest.raises(SpoolUnavailableError, match="cannot be used"):
        prepare_directory(Path("/proc/no/such/thing"), UID)
    with pytest.raises(SpoolUnavailableError, match="cannot be used"):
        prepare_directory(tmp_path / ("x" * 300), UID)
