"""What this process has open, by what it leads to: clients of earlier tests come and go as they are collected."""

from __future__ import annotations

import os


def descriptors(what: str) -> list[str]:
    """Where the descriptors lead that lead to something with this in its name: a path, ``[eventfd]``, ``pidfd``."""
    targets = []
    for name in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # that of the listing itself, or closed by another thread since
    return [target for target in targets if what in target]
