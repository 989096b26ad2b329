"""The job's store asked on a thread of ours: what a caller waits for, and what happens when nobody answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.observers import LONGEST_S, Clock, Server, in_threads
from torchelastic_otel.agent.coordination import job_store
from torchelastic_otel.agent.coordination.agreement import JobKeys
from torchelastic_otel.agent.coordination.job_store import CALL_TIMEOUT_NS, JobStore


class Table:
    """A store in one dictionary, for what needs no network; it answers when it is let."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()
        self.broken: BaseException | None = None

    def _answer(self) -> None:
        self.asked.set()
        assert self.open.wait(LONGEST_S)
        if self.broken is not None:
            raise self.broken

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        """As ``TCPStore``."""
        self._answer()
        if self.held.get(key, "") == expected_value:
            self.held[key] = desired_value
        return self.held.get(key, expected_value).encode()

    def check(self, keys: Sequence[str]) -> bool:
        """As ``TCPStore``."""
        self._answer()
        return all(key in self.held for key in keys)


@pytest.fixture
def table() -> Table:
    """A store."""
    return Table()


@pytest.fixture
def clock() -> Clock:
    """What tells how long a call is out."""
    return Clock()


@pytest.fixture
def store(table: Table, clock: Clock) -> Iterator[JobStore]:
    """The thread that asks it."""
    made = JobStore(lambda: table, "p/", clock.monotonic_ns)
    yield made
    table.open.set()
    made.close()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """From when it is called on, who waits may wait long, since 50 ms need not be enough; returns how long."""

    def grow() -> float:
        monkeypatch.setattr(job_store, "MAX_WAIT_S", LONGEST_S)
        return LONGEST_S

    return grow


def wait_until_idle(store: JobStore) -> None:
    """Wait until what was asked is done."""
    event = threading.Event()
    store.submit(lambda keys: event.set())
    assert store.given_up or event.wait(LONGEST_S)


def test_errands_run_in_order_on_one_thread_that_is_not_the_callers(store: JobStore, table: Table) -> None:
    """What is proposed before a join must be there when the next thing is asked."""
    ran: list[int] = []
    threads: set[int] = set()
    for number in range(50):
        store.submit(lambda keys, number=number: (ran.append(number), threads.add(threading.get_ident())))  # type: ignore[misc]
    wait_until_idle(store)
    assert ran == list(range(50))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_callers_that_come_first_at_once_get_one_thread_and_one_connection(clock: Clock, table: Table) -> None:
    """Torch's main thread and our watch thread may both be the first."""
    connected: list[int] = []

    def connect() -> Table:
        connected.append(1)
        return table

    for _ in range(50):
        store = JobStore(connect, "p/", clock.monotonic_ns)
        ran: list[int] = []
        in_threads([lambda: store.submit(lambda keys: ran.append(1))] * 4)  # noqa: B023 - run in this turn
        wait_until_idle(store)
        assert len(ran) == 4
        store.close()
    assert len(connected) == 50


def test_a_caller_that_does_not_wait_goes_on_and_one_that_waits_is_told(
    store: JobStore, table: Table, patience: Callable[[], float]
) -> None:
    """Only who asks to waits, and then for the errand to be done."""
    table.open.clear()
    assert not store.submit(lambda keys: keys.put_first("a", "1"))
    assert table.asked.wait(LONGEST_S)
    assert table.held == {}
    assert not store.submit(lambda keys: None, wait_s=2 * LONGEST_S)  # 50 ms: by then the table would have given up
    table.open.set()
    wait_until_idle(store)
    assert table.held == {"p/a": "1"}
    assert store.submit(lambda keys: None, wait_s=patience())


def test_a_store_that_does_not_answer_is_given_up_and_taken_up_again_when_it_does(
    store: JobStore, table: Table, clock: Clock, patience: Callable[[], float]
) -> None:
    """A stopped host holds every call for as long as it is stopped; nobody may queue up behind it."""
    table.open.clear()
    store.submit(lambda keys: keys.put_first("a", "1"))
    assert table.asked.wait(LONGEST_S)
    clock.seconds = CALL_TIMEOUT_NS / 1e9
    assert not store.given_up
    clock.seconds += 0.001
    assert store.given_up
    ran: list[int] = []
    assert not store.submit(lambda keys: ran.append(1), wait_s=0.05)
    table.open.set()
    until = threading.Event()
    while store.given_up and not until.wait(0.001):
        pass
    wait_until_idle(store)
    assert ran == []
    assert store.submit(lambda keys: ran.append(2), wait_s=patience())
    assert ran == [2]


def test_a_store_that_fails_is_given_up_until_the_next_round_and_connected_to_anew(table: Table, clock: Clock) -> None:
    """One connection that broke in a night's idleness must not cost the facts of all rounds to come."""
    connected: list[int] = []

    def connect() -> Table:
        connected.append(1)
        return table

    store = JobStore(connect, "p/", clock.monotonic_ns)
    table.broken = RuntimeError("connection reset by peer")
    store.submit(lambda keys: keys.put_first("a", "1"))
    behind: list[int] = []
    store.submit(lambda keys: behind.append(1))
    until = threading.Event()
    while not store.given_up and not until.wait(0.001):
        pass
    assert store.error == "RuntimeError: connection reset by peer"
    assert not store.submit(lambda keys: behind.append(2), wait_s=0.05)
    table.broken = None
    store.retry()
    wait_until_idle(store)
    assert (behind, connected) == ([], [1, 1])
    store.close()


def test_one_that_cannot_be_connected_to_is_given_up(clock: Clock) -> None:
    """A firewall that lets torch's own connection through, and no second one."""

    def connect() -> Any:
        raise OSError("refused")

    store = JobStore(connect, "p/", clock.monotonic_ns)
    store.submit(lambda keys: None)
    until = threading.Event()
    while not store.given_up and not until.wait(0.001):
        pass
    assert store.error == "OSError: refused"


@pytest.mark.tests_own_faults
def test_a_fault_of_ours_on_its_thread_is_kept_in_and_said(store: JobStore, faults: list[Exception]) -> None:
    """Torch raises RuntimeError for what goes wrong out there; anything else is a fault of ours."""
    store.submit(lambda keys: {"a": None}["no such"])
    until = threading.Event()
    while not store.given_up and not until.wait(0.001):
        pass
    assert [type(fault) for fault in faults] == [KeyError]


def test_after_its_end_nobody_is_answered_and_no_thread_is_left(table: Table, clock: Clock) -> None:
    """A program that launches one job after another must not collect a thread and a connection for each."""
    ran: list[int] = []
    store = JobStore(lambda: table, "p/", clock.monotonic_ns)
    for number in range(3):
        store.submit(lambda keys, number=number: ran.append(number))  # type: ignore[misc]
    store.close()
    store.close()
    assert not store.submit(lambda keys: ran.append(9), wait_s=0.05)
    until = threading.Event()
    while (len(ran) < 3 or store._running) and not until.wait(0.001):
        pass
    assert ran == [0, 1, 2]


def test_a_forked_child_asks_nobody(store: JobStore, table: Table) -> None:
    """The connection is the parent's: two processes that write to one socket tear each other's words."""
    wait_until_idle(store)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if store.submit(lambda keys: keys.put_first("child", "1"), wait_s=0.05) is False else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    wait_until_idle(store)
    assert table.held == {}


HOST = """
from torch.distributed import TCPStore
import sys
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.readline()
"""


def stop(host: subprocess.Popen[str]) -> None:
    """Have the host stand still, with all of its threads."""
    os.kill(host.pid, signal.SIGSTOP)
    os.waitpid(host.pid, os.WUNTRACED)


@pytest.mark.torch
def test_a_stopped_host_holds_our_thread_alone(patience: Callable[[], float]) -> None:
    """With the store's host stopped, every call of its clients stays out, whatever its timeout (torch 2.15)."""
    from torch.distributed import TCPStore

    host = subprocess.Popen([sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout is not None
        port = int(host.stdout.readline())

        def connect() -> Any:
            return TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))

        clock = Clock()
        store = JobStore(connect, "p/", clock.monotonic_ns)
        wait_until_idle(store)
        stop(host)
        out = threading.Event()

        def put(keys: JobKeys) -> None:
            out.set()
            keys.put_first("a", "1")

        assert not store.submit(put)
        assert out.wait(LONGEST_S)
        ran: list[int] = []
        assert not store.submit(lambda keys: ran.append(1), wait_s=0.05)
        clock.seconds = 2.1
        assert store.given_up
        assert not store.submit(lambda keys: ran.append(2), wait_s=0.05)
        assert ran == []
        os.kill(host.pid, signal.SIGCONT)
        until = threading.Event()
        while store.given_up and not until.wait(0.001):
            assert not store.error
        wait_until_idle(store)
        assert ran == [1]
        assert store.submit(lambda keys: ran.append(len(keys.read("a") or "")), wait_s=patience())
        assert ran == [1, 1]
        store.close()
    finally:
        host.kill()
        host.communicate()


ENDING = """
import atexit, os, sys, threading
from datetime import timedelta
from torch.distributed import TCPStore
import torchelastic_otel
from torchelastic_otel.agent.coordination.job_store import JobStore

torchelastic_otel.install("memory", watch_torch=False)

def connect():
    patience = timedelta(seconds=90)
    return TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False, wait_for_workers=False, timeout=patience)

store, connected, out = JobStore(connect, "p/"), threading.Event(), threading.Event()
store.submit(lambda keys: connected.set())
assert connected.wait(60)
print("connected", flush=True)
sys.stdin.readline()

def put(keys):
    out.set()
    keys.put_first("a", "1")
    os.write(1, b"answered\\n")

store.submit(put)
assert out.wait(60)
store.close()
atexit.register(print, "ends", flush=True)  # the last one registered runs first
"""


@pytest.mark.torch
@pytest.mark.parametrize("comes_back", [True, False])
def test_the_end_of_the_process_waits_for_a_call_that_is_out(comes_back: bool, tmp_path: Path) -> None:
    """What comes back from C++ while the interpreter ends aborts the agent; what never does holds up no exit."""
    host = subprocess.Popen([sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    agent = None
    try:
        assert host.stdout is not None
        port = host.stdout.readline().strip()
        agent = subprocess.Popen(
            [sys.executable, "-c", ENDING, port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"TORCHELASTIC_OTEL_SPOOL_DIR": str(tmp_path)}
            | {"TORCHELASTIC_OTEL_FLUSH_TIMEOUT": "60" if comes_back else "0.1"},
        )
        assert agent.stdin is not None
        assert agent.stdout is not None
        assert agent.stdout.readline() == "connected\n"
        stop(host)
        agent.stdin.write("\n")
        agent.stdin.flush()
        assert agent.stdout.readline() == "ends\n"
        if comes_back:
            with pytest.raises(subprocess.TimeoutExpired):
                agent.wait(1)
            os.kill(host.pid, signal.SIGCONT)
        assert agent.communicate(timeout=90)[0] == ("answered\n" if comes_back else "")
        assert agent.returncode == 0
    finally:
        for process in filter(None, (agent, host)):
            process.kill()
            process.communicate()


@pytest.mark.torch
def test_keys_are_under_their_prefix_and_say_what_is_held() -> None:
    """Workers use the same server under static: our keys must be ours alone."""
    server = Server()
    keys = JobKeys(server.client(), "torchelastic_otel/run/")
    assert keys.put_first("nonce", "ä") == "ä"
    assert keys.put_first("nonce", "b") == "ä"
    assert server.store.check(["torchelastic_otel/run/nonce"])
    assert keys.exist(["nonce"])
    assert not keys.exist(["nonce", "other"])
