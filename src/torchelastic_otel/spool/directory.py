"""The directory of spool files, and who may read it.

Guarantees for a directory that :func:`prepare_directory` returns: it is a real directory (no symbolic link), owned by
this user, open to nobody else, on a disk of this node. Anything else is refused with the reason and the remedy; nothing
is repaired in place, since another user may have put it there on purpose.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from torchelastic_otel.errors import SpoolUnavailableError

SPOOL_SUFFIX: Final = ".spool"
DELIVERED_SUFFIX: Final = ".delivered"
CORRUPT_SUFFIX: Final = ".corrupt"
LOCK_SUFFIX: Final = ".lock"

_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "glusterfs", "9p", "afs", "gpfs", "beegfs"),
        *("fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.lustre"),
    }
)
"""SQLite's write-ahead log needs memory that is shared by all its processes: one node's disk."""


def user_directory(base: Path, uid: int) -> Path:
    """The folder of one user's spools below ``base``."""
    return base / f"torchelastic-otel-{uid}"


def prepare_directory(base: Path, uid: int, mounts: str | None = None) -> Path:
    """The user's spool folder below ``base``, made if it is not there.

    Args:
        base: The directory from the setting, or the temporary directory; made if it is not there.
        uid: The effective user id of this process.
        mounts: The text of ``/proc/self/mountinfo``; ``None`` reads it.

    Raises:
        SpoolUnavailableError: It cannot be created, or does not meet the guarantees of this file.
    """
    path = user_directory(base, uid)
    try:
        os.makedirs(base, exist_ok=True)
        kind = _file_system(base, mounts)
        if kind in _NETWORK_FILE_SYSTEMS:
            raise SpoolUnavailableError(f"{base} is on a network file system ({kind}); name a disk of this node")
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass  # what is there is judged below
        found = os.lstat(path)
    except OSError as error:
        raise SpoolUnavailableError(f"{path} cannot be used: {error.strerror or error}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise SpoolUnavailableError(f"{path} is not a directory (symbolic links are refused); remove it")
    if found.st_uid != uid:
        raise SpoolUnavailableError(f"{path} belongs to user {found.st_uid}, not to {uid}; remove it")
    if found.st_mode & 0o077:
        raise SpoolUnavailableError(f"{path} is open to others (mode {found.st_mode & 0o777:o}); chmod 700 it")
    if not os.access(path, os.W_OK | os.X_OK):
        raise SpoolUnavailableError(f"{path} cannot be written to by user {uid}")
    return path


def _file_system(path: Path, mounts: str | None) -> str | None:
    """The type of the file system that ``path`` is on, from mountinfo; ``None`` if unknown."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    real = os.path.realpath(path)
    best, kind = "", None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 7 or "-" not in fields[6:]:
            continue
        point = fields[4].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[fields.index("-", 6) + 1]
    return kind
