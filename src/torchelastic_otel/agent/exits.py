"""When and how worker processes end, by ``pidfd``, beside torch, which reaps them.

Guarantees: nothing is reaped here (``WNOWAIT``), so that torch sees every exit status; without pidfd, or if torch reaps
first, the exit code is ``None`` and never guessed.

Torch itself sees an exit at its next poll, up to the monitor interval later, and keeps whole seconds
(``ProcessFailure.timestamp``, torch 2.2 to 2.15).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.inferred_event import ClockReading


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """One process that has ended.

    Attributes:
        at: When.
        code: Its exit code, minus the signal's number for a signal; ``None`` if torch reaped it first.
    """

    at: ClockReading
    code: int | None


class ExitWatcher:
    """Watches the workers of one start.

    Args:
        thread: The event loop.
        now: Both clocks.
        on_exit: Called on that thread for each process that ends: its local rank and how.
    """

    def __init__(
        self, thread: EventLoopThread, now: Callable[[], ClockReading], on_exit: Callable[[int, ProcessExit], None]
    ) -> None:
        self._thread = thread
        self._now = now
        self._on_exit = on_exit
        self.exits: dict[int, ProcessExit] = {}
        """By local rank; written on the event loop, read on any thread."""

    def watch(self, pids: Mapping[int, int]) -> None:
        """Watch these processes, by local rank."""
        self._thread.call_soon(lambda: self._open(dict(pids)))

    def _open(self, pids: Mapping[int, int]) -> None:
        pidfd_open: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
        if pidfd_open is None:
            return  # a Python that was built without it
        for local_rank, pid in pids.items():
            try:
                descriptor = pidfd_open(pid)
            except OSError:
                continue  # reaped already, or a kernel without pidfd: torch's poll remains
            self._thread.add_reader(descriptor, self._reader(local_rank, descriptor))

    def _reader(self, local_rank: int, descriptor: int) -> Callable[[], None]:
        def read() -> None:
            at, code = self._now(), _exit_code(descriptor)
            self.exits[local_rank] = ProcessExit(at, code)
            self._on_exit(local_rank, self.exits[local_rank])

        return read


def _exit_code(descriptor: int) -> int | None:
    try:
        status = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:
        return None  # reaped by torch; or a kernel that has pidfds and cannot wait for them (Linux 5.3)
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
