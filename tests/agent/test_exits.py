"""When and how processes end, told beside torch, which reaps them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess

import pytest

from tests.support.descriptors import descriptors
from tests.support.observers import LONGEST_S, Clock, moment, wait_until_idle
from torchelastic_otel.agent.processes import ProcessExit
from torchelastic_otel.agent.workers import ExitWatcher
from torchelastic_otel.event_loop import EventLoopThread


class Watching:
    """Worker exits with somebody who listens."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.thread = EventLoopThread(self.clock.monotonic_ns, lambda: None)
        self.told: queue.SimpleQueue[tuple[int, ProcessExit]] = queue.SimpleQueue()
        self.exits = ExitWatcher(self.thread, self.clock, lambda rank, ended: self.told.put((rank, ended)))

    def next(self) -> tuple[int, ProcessExit]:
        """The next exit that is told."""
        return self.told.get(timeout=LONGEST_S)


@pytest.fixture
def watching() -> Watching:
    """A watch over nothing yet."""
    return Watching()


def process(code: str) -> subprocess.Popen[bytes]:
    """A process that does this once it is let go."""
    return subprocess.Popen(["/bin/sh", "-c", f"read go; {code}"], stdin=subprocess.PIPE)


def let_go(worker: subprocess.Popen[bytes]) -> None:
    """Let a process go on."""
    assert worker.stdin is not None
    worker.stdin.close()


@pytest.mark.parametrize(
    ("does", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -KILL $$", -9),
        ("kill -TERM $$", -15),
        ("kill -ABRT $$", -6),
    ],
)
def test_an_exit_is_told_with_its_moment_and_its_code_and_left_for_torch_to_reap(
    watching: Watching, does: str, code: int
) -> None:
    """Torch must see every exit status that it would see without us."""
    worker = process(does)
    watching.exits.watch({2: worker.pid})
    wait_until_idle(watching.thread)
    watching.clock.seconds = 7.25
    let_go(worker)
    assert watching.next() == (2, ProcessExit(moment(7.25), code))
    assert watching.exits.exits == {2: ProcessExit(moment(7.25), code)}
    _, status = os.waitpid(worker.pid, 0)
    assert os.waitstatus_to_exitcode(status) == code
    worker.returncode = code


def test_each_of_several_is_told_once_whoever_ends_first(watching: Watching) -> None:
    """The first one to fail is the cause: its moment must not wait for the others."""
    workers = {rank: process(f"exit {rank}") for rank in range(4)}
    watching.exits.watch({rank: worker.pid for rank, worker in workers.items()})
    wait_until_idle(watching.thread)
    order = [2, 0, 3, 1]
    for at, rank in enumerate(order):
        watching.clock.seconds = at
        let_go(workers[rank])
        assert watching.next() == (rank, ProcessExit(moment(at), rank))
    assert [worker.wait() for worker in workers.values()] == [0, 1, 2, 3]
    wait_until_idle(watching.thread)
    assert watching.told.empty()


def test_where_torch_reaped_first_the_moment_is_told_and_the_code_is_left_open(watching: Watching) -> None:
    """Nothing is guessed: torch, which has the code, tells it."""
    worker = process("exit 3")
    descriptor = os.pidfd_open(worker.pid)
    let_go(worker)
    assert worker.wait() == 3
    # as if the thread came too late
    tell = watching.exits._reader(0, descriptor)
    tell()
    os.close(descriptor)
    assert watching.next() == (0, ProcessExit(moment(0), None))


def test_a_process_that_is_gone_costs_the_others_nothing(watching: Watching) -> None:
    """A worker may have ended, and been reaped, before the thread looks."""
    gone, worker = process("exit 1"), process("exit 5")
    let_go(gone)
    gone.wait()
    watching.exits.watch({0: gone.pid, 1: worker.pid})
    let_go(worker)
    assert watching.next() == (1, ProcessExit(moment(0), 5))
    worker.wait()
    assert watching.exits.exits.keys() == {1}


def test_one_that_has_ended_already_and_waits_for_torch_is_told_at_once(watching: Watching) -> None:
    """A worker that fails in its first instruction is the most frequent failure of all."""
    worker = process("exit 9")
    let_go(worker)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    watching.exits.watch({0: worker.pid})
    assert watching.next()[1].code == 9
    assert worker.wait() == 9


def test_without_pidfd_nothing_is_told_and_nothing_fails(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pythons built against old headers (conda's) have no pidfd_open, and old kernels or sandboxes refuse it."""
    monkeypatch.delattr(os, "pidfd_open")
    watching.exits.watch({0: os.getpid()})
    wait_until_idle(watching.thread)
    assert watching.exits.exits == {}


def test_a_kernel_that_cannot_wait_for_a_pidfd_tells_the_moment_only(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux 5.3 has the one and not the other."""

    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    worker = process("exit 3")
    watching.exits.watch({0: worker.pid})
    wait_until_idle(watching.thread)
    monkeypatch.setattr(os, "waitid", refuse)
    let_go(worker)
    assert watching.next() == (0, ProcessExit(moment(0), None))
    monkeypatch.undo()
    assert worker.wait() == 3


def test_thousands_of_restarts_leave_no_descriptors(watching: Watching) -> None:
    """An agent that runs for weeks must not run out of them."""
    before = len(descriptors("pidfd"))
    for _ in range(50):
        worker = process("exit 0")
        watching.exits.watch({0: worker.pid})
        let_go(worker)
        watching.next()
        worker.wait()
        wait_until_idle(watching.thread)
        assert len(descriptors("pidfd")) <= before
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
