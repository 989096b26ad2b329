"""The owner of a spool file: the process that has the lock beside it.

Guarantees: a lock has at most one owner on the node, across processes and within one; the kernel releases it when its
process ends, however it ends; a forked child does not inherit it. These are POSIX record locks (``fcntl``), which
belong to a process. Within a process they do not exclude, so the locked files are listed, and no other module of this
process opens a lock file (closing any descriptor of a file releases all of the process's locks on it).

Not guaranteed: that no other process takes a spool whose lock file was removed, until the owner's next
:meth:`SpoolLock.refresh`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path

_locked: set[str] = set()
_locked_guard = threading.Lock()


def _reset_in_child() -> None:
    """A forked child holds none of its parent's locks, and its copy of the guard may be locked for good."""
    global _locked_guard
    _locked_guard = threading.Lock()
    _locked.clear()


os.register_at_fork(after_in_child=_reset_in_child)


class SpoolLock:
    """The lock of one spool, held from :func:`acquire` until :meth:`release`."""

    __slots__ = ("_descriptor", "_name", "_pid")

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._pid = os.getpid()

    def refresh(self) -> None:
        """Show that the owner lives; where the lock's file was removed, make and lock another.

        Cleaners of temporary folders remove what nobody has touched for days. In a forked child: nothing.

        Raises:
            BlockingIOError: The file was removed, and another process holds the lock of the one that is there now.
            OSError: The file cannot be made again, or not touched.
        """
        if self._pid != os.getpid():
            return
        with _locked_guard:
            if self._descriptor < 0:
                return
            if not _is_same_file(self._descriptor, self._name):
                descriptor = _open(self._name)
                try:
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    os.close(descriptor)
                    raise
                os.close(self._descriptor)
                self._descriptor = descriptor
            os.utime(self._descriptor)

    def release(self, *, remove: bool = False) -> None:
        """Release the lock; with ``remove`` delete its file. In a forked child: nothing."""
        if self._pid != os.getpid():
            return
        with _locked_guard:
            if self._descriptor < 0:
                return
            if remove and _is_same_file(self._descriptor, self._name):  # else it is gone, or another owner's
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._name)
            os.close(self._descriptor)
            self._descriptor = -1
            _locked.discard(self._name)


def _open(name: str) -> int:
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_same_file(descriptor: int, name: str) -> bool:
    """Whether the open file is the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except FileNotFoundError:
        return False


def acquire(path: Path) -> SpoolLock | None:
    """The lock at ``path``, made if it is not there; ``None`` if it has an owner.

    Raises:
        OSError: The file cannot be opened (a symbolic link, no permission).
    """
    name = os.path.realpath(path.parent) + os.sep + path.name
    with _locked_guard:
        if name in _locked:
            return None
        descriptor = _open(name)
        same = False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the holder before us may have removed the file while we opened it: then this lock locks nothing
            same = _is_same_file(descriptor, name)
        except (BlockingIOError, PermissionError):
            pass  # it has another owner
        finally:
            if not same:
                os.close(descriptor)
        if not same:
            return None
        _locked.add(name)
        return SpoolLock(descriptor, name)
