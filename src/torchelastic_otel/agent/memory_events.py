"""Whether the kernel killed a worker because memory ran out: counters of its control groups, before and after.

Guarantees: what cannot be read is unknown, and never counts as "no kill"; only files of the kernel are read, each at
most 64 KiB.

Facts (Linux 5.3 to 6.18, ``mm/memcontrol.c``, ``mm/oom_kill.c``; Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/memory.rst):

- ``oom_kill`` counts the processes of a group that any out-of-memory killer killed, also that of the whole node. In
  version 2 (``memory.events``) a kill counts in all parents, too; in version 1 (``memory.oom_control``) only in the
  group of the process.
- The group whose limit was reached is the one whose own count of ``oom`` rises (``memory.events.local``), in version 1
  that of ``memory.failcnt``. Slurm's steps, Kubernetes' pods and a launcher's container have a limit at a parent.
- ``oom_group_kill`` counts kills of all processes of a group (``memory.oom.group``, as Kubernetes sets it since 1.28).
- ``/proc/vmstat`` counts the kills of the whole node in ``oom_kill``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

_MAX_FILE: Final = 64 * 1024
_MAX_DEPTH: Final = 16


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """One memory control group at one time; a counter is ``None`` if it cannot be read.

    Attributes:
        path: Its folder.
        kills: How many of its processes an out-of-memory killer killed.
        group_kills: How often all of its processes were killed at once; version 2 only.
        limit_hits: How often its own limit was reached.
        limit: Its limit, bytes; ``None`` if it has none.
    """

    path: str
    kills: int | None = None
    group_kills: int | None = None
    limit_hits: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryCounters:
    """What the kernel has counted for one process until now.

    Attributes:
        groups: Its own memory group, then that group's parents; empty if unknown.
        node_kills: Processes of the whole node that an out-of-memory killer killed; ``None`` if unknown.
    """

    groups: Sequence[MemoryGroup] = ()
    node_kills: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryKill:
    """What the counters state about the time between two readings.

    Attributes:
        kills: How many processes of the worker's own group were killed; 0 if only the node's counter rose.
        whole_group: Whether all processes of a group were killed at once.
        reason: Why, and what that rests on.
    """

    kills: int
    whole_group: bool
    reason: str


@dataclass(frozen=True, slots=True)
class MemoryReader:
    """Reads the counters.

    Attributes:
        proc: Where the kernel's process files are.
        mounts: Where each version's memory groups are: mount point and the group that is visible there.
    """

    proc: str = "/proc"
    mounts: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, proc: str = "/proc") -> MemoryReader:
        """A reader for the groups that this process can see."""
        mounts: dict[int, tuple[str, str]] = {}
        for line in _read(os.path.join(proc, "self/mountinfo")).splitlines():
            before, _, after = line.partition(" - ")
            fields, kinds = before.split(), after.split()
            if len(fields) < 5 or len(kinds) < 3:
                continue
            if kinds[0] == "cgroup2":
                mounts.setdefault(2, (fields[4], fields[3]))
            elif kinds[0] == "cgroup" and "memory" in kinds[2].split(","):
                mounts.setdefault(1, (fields[4], fields[3]))
        return cls(proc, mounts)

    def folder_of(self, pid: int) -> str | None:
        """The folder of a process's memory group; ``None`` if it cannot be seen.

        A process that has ended has none in version 1.
        """
        groups: dict[int, str] = {}
        for line in _read(os.path.join(self.proc, str(pid), "cgroup")).splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if "memory" in controllers.split(","):
                groups[1] = path
            elif number == "0" and not controllers:
                groups[2] = path
        # with both versions mounted, memory belongs to version 1 if that has it
        for version in (1, 2):
            if version in groups and version in self.mounts:
                mount, root = self.mounts[version]
                return _below(mount, root, groups[version])
        return None

    def read(self, folder: str | None) -> MemoryCounters:
        """The counters now, of a group and its parents.

        Args:
            folder: What :meth:`folder_of` returned while the process ran.
        """
        tops = {mount for mount, _ in self.mounts.values()}
        groups: list[MemoryGroup] = []
        while folder is not None and len(groups) < _MAX_DEPTH:
            groups.append(_read_group(folder))
            folder = None if folder in tops or folder == "/" else os.path.dirname(folder)
        vmstat = _counts(_read(os.path.join(self.proc, "vmstat")))
        return MemoryCounters(tuple(groups), vmstat.get("oom_kill"))


def kill_between(before: MemoryCounters, after: MemoryCounters) -> MemoryKill | None:
    """What the kernel killed for lack of memory between two readings; ``None`` if nothing, or nothing is known."""
    earlier = {group.path: group for group in before.groups}
    risen = [(earlier[group.path], group) for group in after.groups if group.path in earlier]
    if risen and (kills := _rise(risen[0][0].kills, risen[0][1].kills)) is not None:
        whole_group = any(_rise(old.group_kills, new.group_kills) for old, new in risen)
        if not kills:
            return None
        counted = f"oom_kill of {risen[0][1].path} rose by {kills}"
        limited = next((new for old, new in risen if _rise(old.limit_hits, new.limit_hits)), None)
        if limited is None:
            return MemoryKill(kills, whole_group, f"likely the node ran out of memory: {counted}")
        whose = "its group" if limited.path == risen[0][1].path else f"the group {limited.path}"
        size = "" if limited.limit is None else f" ({limited.limit / 1024**2:.0f} MiB)"
        return MemoryKill(kills, whole_group, f"the memory limit of {whose}{size} was reached: {counted}")
    if rise := _rise(before.node_kills, after.node_kills):
        return MemoryKill(0, False, f"oom_kill of the node (/proc/vmstat) rose by {rise} while it ran")
    return None


def _read_group(folder: str) -> MemoryGroup:
    events = _counts(_read(os.path.join(folder, "memory.events")))
    if events:
        local = _counts(_read(os.path.join(folder, "memory.events.local")))
        return MemoryGroup(
            folder,
            events.get("oom_kill"),
            events.get("oom_group_kill"),
            local.get("oom"),
            _number(_read(os.path.join(folder, "memory.max"))),
        )
    control = _counts(_read(os.path.join(folder, "memory.oom_control")))
    limit = _number(_read(os.path.join(folder, "memory.limit_in_bytes")))
    return MemoryGroup(
        folder,
        control.get("oom_kill"),
        None,
        _number(_read(os.path.join(folder, "memory.failcnt"))),
        # version 1 writes "no limit" as the largest number of whole pages
        limit if limit is not None and limit < 1 << 62 else None,
    )


def _below(mount: str, root: str, path: str) -> str:
    """The folder of a group below a mount that may show a part of the tree only, as in a container."""
    if path.startswith("/.."):
        return mount  # outside of what this process can see: the closest parent that it can see
    if root != "/":
        path = path[len(root) :] if path == root or path.startswith(root + "/") else ""
    return os.path.join(mount, path.lstrip("/")).rstrip("/") or "/"


def _rise(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def _counts(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_FILE)
    except OSError:
        return ""
