"""When worker processes end, and how, to the moment: by ``pidfd``, beside torch, which reaps them.

What always holds: nothing is reaped here (``WNOWAIT``), so torch sees every exit status that it would see; where the
kernel has no pidfd, or torch was faster, what is missing is left open and never guessed.

Torch itself learns of an exit at its next poll, up to the monitor interval later, and keeps whole seconds
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
        code: Its exit code, minus the signal's number for a signal; ``None`` where torch reaped it first.
    """

    at: ClockReading
    code: int | None


class ExitWatcher:
    """Waits for the workers of one start.

    Args:
        thread: Where it waits.
        now: Both clocks.
        told: Called on that thread for each process that ends: its local rank and how.
    """

    def __init__(
        self, thread: EventLoopThread, now: Callable[[], ClockReading], on_exit: Callable[[int, ProcessExit], None]
    ) -> None:
        self._thread = thread
        self._now = now
        self._on_exit = on_exit
        self.exits: dict[int, ProcessExit] = {}
        """By local rank; written on the thread, read anywhere."""

    def watch(self, pids: Mapping[int, int]) -> None:
        """Wait for these processes, by local rank."""
        self._thread.call_soon(lambda: self._open(dict(pids)))

    def _open(self, pids: Mapping[int, int]) -> None:
        pidfd_open: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
        if pidfd_open is None:
            return  # a Python that was built where there was none
        for local_rank, pid in pids.items():
            try:
                descriptor = pidfd_open(pid)
            except OSError:
                continue  # gone and reaped, or a kernel without: torch's poll has to do
            self._thread.add_reader(descriptor, self._reader(local_rank, descriptor))

    def _reader(self, local_rank: int, descriptor: int) -> Callable[[], None]:
        def tell() -> None:
            at, code = self._now(), _code(descriptor)
            self.exits[local_rank] = ProcessExit(at, code)
            self._on_exit(local_rank, self.exits[local_rank])

        return tell


def _code(descriptor: int) -> int | None:
    try:
        status = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:
        return None  # reaped by torch; or a kernel that has pidfds and cannot wait for them (Linux 5.3)
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
