"""A small agent without torch, for tests that kill it, fork it, and look at what is left.

Run as ``driver.py PLAN`` where PLAN is one of the functions below. What it has to say it prints as JSON lines;
it goes on when a line comes in.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import sys
import threading
import time
from typing import Any


def say(**facts: Any) -> None:
    """One line for the test."""
    print(json.dumps(facts), flush=True)


def wait_for_word() -> None:
    """Until the test says so."""
    sys.stdin.readline()


def install() -> Any:
    """Install from the environment, and wait until the writer has its spool open."""
    import torchelastic_otel

    installation = torchelastic_otel.install(watch_torch=False)
    assert installation._queue.flush(30)
    return installation


def emit(numbers: range) -> None:
    """Events that tell their number."""
    from torchelastic_otel import events

    for number in numbers:
        events.record(events.Event(name=f"event-{number}", source=events.EventSource.AGENT, metadata={"n": number}))


def patient() -> Any:
    """Install; a caller waits until its event is kept, also where a busy machine takes more than its 50 ms for it."""
    installation = install()
    installation._queue._wait_s = 30.0
    return installation


def killed(count: int) -> None:
    """SIGKILL right after the last emit returned."""
    patient()
    begin = time.time_ns()
    emit(range(count))
    say(pid=os.getpid(), begin=begin, end=time.time_ns())
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in_the_middle(count: int) -> None:
    """Emits and says each number after its emit returned, until it is killed from outside."""
    patient()
    for number in range(count):
        emit(range(number, number + 1))
        say(n=number)


def exits(count: int) -> None:
    """Emits and ends as a program does; says how long the exit was held up."""
    times: dict[str, int] = {}
    # registered before ours, so it runs after it
    atexit.register(lambda: say(held_ns=time.monotonic_ns() - times["begin"], pid=os.getpid()))
    installation = install()
    emit(range(count))
    say(spool=str(installation.status.spool))
    wait_for_word()
    times["begin"] = time.monotonic_ns()


def exits_from_a_locked_spool(count: int) -> None:
    """As ``exits``, after one more event; what waits for a lock of the spool waits for ten minutes."""
    atexit.register(lambda: say(caller_ns=begin - asked, held_ns=time.monotonic_ns() - begin))
    installation = install()
    emit(range(count))
    spool = installation._runtime._owned.spool
    with spool._lock:
        spool._connection.execute("PRAGMA busy_timeout = 600000")
    say(spool=str(installation.status.spool))
    wait_for_word()
    asked = time.monotonic_ns()
    emit(range(1))
    begin = time.monotonic_ns()


def adopts(count: int) -> None:
    """Is there, and records nothing of its own."""
    install()
    say(ready=True)
    wait_for_word()


def emits_on_request(count: int) -> None:
    """Emits one event for each line that comes in, then ends."""
    install()
    say(ready=True)
    for number in range(count):
        wait_for_word()
        emit(range(number, number + 1))
        say(n=number)
    wait_for_word()


def forks(count: int) -> None:
    """Forks in a loop while exports run; each third child records, each third ends through its exit handlers."""
    installation = patient()
    statuses: list[int] = []
    for number in range(count):
        emit(range(number * 10, number * 10 + 10))
        time.sleep(random.random() * 0.02)
        child = os.fork()
        if child == 0:
            if number % 3 == 0:
                os._exit(0)
            if number % 3 == 1:
                emit(range(1_000_000 + number, 1_000_001 + number))
                os._exit(0)
            sys.exit(0)
        until = time.monotonic() + 90
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                statuses.append(os.waitstatus_to_exitcode(status))
                break
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                statuses.append(-99)
                break
            time.sleep(0.002)
    say(statuses=statuses, drained=installation.flush(20_000_000_000))


def leaves_the_host_alone(count: int) -> None:
    """Compares the host program's state before and after delivering and retrying."""
    import logging
    import socket

    def state() -> dict[str, Any]:
        return {
            "random": hash(random.getstate()),
            "root": [repr(handler) for handler in logging.getLogger().handlers],
            "level": logging.getLogger().level,
            "disabled": logging.root.manager.disable,
            "signals": [repr(signal.getsignal(number)) for number in range(1, 32)],
            "cwd": os.getcwd(),
            "umask": os.umask(0o022),
            "timeout": socket.getdefaulttimeout(),
            "switch": sys.getswitchinterval(),
            "excepthooks": [repr(sys.excepthook), repr(threading.excepthook), repr(sys.unraisablehook)],
            "wakeup": signal.set_wakeup_fd(-1),
        }

    os.umask(0o022)
    random.seed(7)
    before = state()
    installation = install()
    emit(range(count))
    say(ready=True)
    wait_for_word()
    delivered = installation.flush(10_000_000_000)
    after = state()
    from opentelemetry import _logs, metrics, trace

    providers = [_logs._internal._LOGGER_PROVIDER, metrics._internal._METER_PROVIDER, trace._TRACER_PROVIDER]
    say(
        changed=[name for name in before if before[name] != after[name]],
        delivered=delivered,
        failures=[route.failures for route in installation.status.routes],
        providers=[provider is not None for provider in providers],
    )


def hangs_in_sqlite(count: int) -> None:
    """A disk that stops answering: every step of SQLite blocks, in SQLite, with its locks held."""
    held: list[int] = []
    atexit.register(lambda: say(held_ns=time.monotonic_ns() - held[0]))
    installation = install()
    inlet = installation._queue
    wait_s, inlet._wait_s = inlet._wait_s, 30.0
    emit(range(count))  # kept, each of them
    inlet._wait_s = 1.0
    never = threading.Event()
    spool = installation._runtime._owned.spool
    spool._connection.set_progress_handler(lambda: never.wait() and 0, 1)
    begin = time.monotonic_ns()
    emit(range(1))
    waited = time.monotonic_ns()
    emit(range(1, count))
    others_ns = time.monotonic_ns() - waited
    say(wait_s=wait_s, first_ns=waited - begin, others_ns=others_ns, waiting=installation.status.waiting)
    held.append(time.monotonic_ns())


def disk_fills_up(count: int) -> None:
    """No file of this process may grow beyond 300 kB from some time on; then it goes on emitting."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    installation = install()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    emit(range(count))
    drained = installation._queue.flush(30)
    say(drained=drained, lost=installation.status.lost)
    wait_for_word()
    say(delivered=installation.flush(10_000_000_000))


class SignalException(Exception):
    """Named as torch's is, and not torch's: projects that vendor elastic have their own."""


SENDER = """
import os, random, sys, time
pid = int(sys.argv[1])
while os.getppid() == pid:
    os.kill(pid, 10)
    until = time.perf_counter() + random.random() * 0.0002
    while time.perf_counter() < until:
        pass
"""


def signal_storm(count: int) -> None:
    """A sibling sends SIGUSR1 at random; its handler raises, as torch's does, wherever the main thread is."""
    import logging
    import subprocess

    from torchelastic_otel import events
    from torchelastic_otel.events.handlers import get_logging_handler

    installation = install()
    inlet = installation._queue
    handler = get_logging_handler("null")
    emit(range(1))  # logging has looked up its levels
    caught = {"all": 0, "inside": 0}
    others: list[str] = []
    kept: list[str] = []
    beats: list[float] = []
    over: list[bool] = []  # no Event: its lock is one that a signal can leave behind

    def on_signal(number: int, frame: Any) -> None:
        """Raises wherever the calls under test are, and nowhere else: the loop around them must outlive the storm."""
        where = []
        while frame is not None:
            where.append(frame.f_code)
            frame = frame.f_back
        if over or one.__code__ not in where:
            return
        caught["all"] += 1
        if any(code.co_filename.endswith(("ingest/handler.py", "ingest/queue.py", "guard.py")) for code in where):
            caught["inside"] += 1
        if caught["inside"] >= count:
            over.append(True)
        raise SignalException

    def heartbeat() -> None:
        number = 0
        while not over:
            begin = time.monotonic()
            text = f"beat {number}"
            if inlet.submit("null", text):
                kept.append(text)
            beats.append(time.monotonic() - begin)
            number += 1
            time.sleep(0.002)

    def one(number: int) -> None:
        if number % 3 == 0:
            text = f"put {number}"
            if inlet.submit("null", text):
                kept.append(text)
        elif number % 3 == 1:
            handler.emit(logging.LogRecord("x", logging.INFO, "x", 1, "emit %d", (number,), None))
        else:
            events.record(events.Event(name=f"record {number}", source=events.EventSource.AGENT))

    beating = threading.Thread(target=heartbeat, daemon=True)
    beating.start()
    signal.signal(signal.SIGUSR1, on_signal)
    sender = subprocess.Popen([sys.executable, "-c", SENDER, str(os.getpid())])
    number = 0
    while not over:
        number += 1
        try:
            one(number)
        except SignalException:
            continue
        except BaseException as error:  # noqa: BLE001 - whatever comes out is the finding
            others.append(repr(error))
        if inlet.pending > 5_000:  # faster than any disk for a while: that is another test's matter
            time.sleep(0.01)
    sender.kill()
    sender.wait()
    beating.join(10)
    results: list[bool] = []
    inlet._wait_s = 10.0
    drained = inlet.flush(30)
    late = threading.Thread(target=lambda: results.append(inlet.submit("null", "late")), daemon=True)
    late.start()
    late.join(15)
    drained &= inlet.flush(30)
    stored = {json.loads(row.payload)[2] for row in installation._runtime._owned.spool.rows()}
    say(
        caught=caught,
        others=others[:5],
        beats=len(beats),
        slowest_beat_s=max(beats),
        drained=drained,
        late=results,
        kept=len(kept),
        missing=[text for text in kept if text not in stored][:5],
        lost=inlet.lost,
    )


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]))
