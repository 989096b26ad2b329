"""Forks in the middle of what our threads do in SQLite: children live, signals are heard, nothing stays locked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BUSY = """
import os, pathlib, sqlite3, sys, threading, time
from torchelastic_otel.spool import fork_safety, store

fork_safety.MAX_WAIT_S = 60.0  # on a busy machine a thread is not scheduled for longer than a fork waits
spool = store.create(pathlib.Path(sys.argv[1]), 1 << 26)
spool.subscribe({"x": ["d"]})

def write():
    while True:
        first, _ = spool.append([("d", "x" * 300)] * 8, unprocessed=True)
        spool.commit_processed([(first + i, "y" * 320) for i in range(8)], {"a": "b"})

def read():
    while True:
        spool.read("x", 0, 100, 1_000_000)

def opens():
    number = 0
    while True:
        number += 1
        store.create(pathlib.Path(f"{sys.argv[1]}-{number % 50}-{time.monotonic_ns()}"), 1 << 20).close()

for each in (write, read, opens):
    threading.Thread(target=each, daemon=True).start()
for number in range(150):
    time.sleep(0.002)
    child = os.fork()
    if not child:
        sqlite3.connect(":memory:").execute("CREATE TABLE t(a)")
        os._exit(0)
    end = time.monotonic() + 60
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > end:
            os.kill(child, 9)
            sys.exit(f"child {number} hangs")
        time.sleep(0.001)
print("all lived", flush=True)
os._exit(0)
"""

SIGNALLED = """
import os, pathlib, signal, sys, threading, time
from torchelastic_otel.spool import fork_safety, store

class SignalException(Exception):
    def __init__(self, sigval):
        self.sigval = sigval

def handler(number, frame):
    heard.append(frame.f_code.co_name)
    raise SignalException(signal.Signals(number))

heard = []
signal.signal(signal.SIGTERM, handler)
spool = store.create(pathlib.Path(sys.argv[1]), 1 << 20)
inside, go_on = threading.Event(), threading.Event()

def hang():
    with spool._lock:  # as a disk that hangs
        inside.set()
        go_on.wait(60)

threading.Thread(target=hang, daemon=True).start()
inside.wait()
fork_safety.MAX_WAIT_S = 60.0
main = threading.get_ident()

def send():
    while sys._current_frames()[main].f_code.co_name != "acquire_until":
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=send, daemon=True).start()
try:
    child = os.fork()
    if not child:
        os._exit(0)
    time.sleep(60)
except SignalException:
    print(*heard)
go_on.set()
done = threading.Thread(target=spool.put_meta, args=("a", "b"), daemon=True)
done.start()
done.join(60)
print("locked" if done.is_alive() else "free")
if not os.fork():
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]) in (0, 7))
"""


def run(program: str, path: Path) -> str:
    """What a program says that ends well."""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_child_that_is_forked_while_our_threads_are_in_sqlite_can_use_it(tmp_path: Path) -> None:
    """SQLite's own mutexes survive the fork locked; a worker that hangs is a job that hangs."""
    assert run(BUSY, tmp_path / "a.spool") == "all lived\n"


def test_a_signal_that_comes_while_a_fork_waits_is_heard_after_it(tmp_path: Path) -> None:
    """CPython drops what is raised there (promise 1), and an exception in the middle must leave nothing locked."""
    first, free, third = run(SIGNALLED, tmp_path / "a.spool").splitlines()
    assert first.split() == ["acquire_until", "<module>"]
    assert (free, third) == ("free", "True")
