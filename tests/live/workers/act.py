"""A worker that does what the test orders, and writes down what it is and what it does; the truth of a scenario.

Arguments: a directory that all agents share, and words: ``deaf`` (it ignores SIGTERM), ``slow`` (it takes 0.7 s to
stop), ``training`` (it says that training began).

It appends to ``diary``, one line of JSON each, and looks for its orders in ``orders/<its process id>``: a JSON object
with ``what`` to do, and optionally how long (``pause_s``) after the end of which process (``after``). Without any it
waits until the file ``done`` is there or its agent is gone.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

directory, words = Path(sys.argv[1]), sys.argv[2:]
agent = os.getppid()


def write(what: str) -> None:
    """One line of the diary."""
    known = {name.lower(): int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE")}
    line = {"what": what, "at_ns": time.time_ns(), "agent": agent, "pid": os.getpid(), **known}
    descriptor = os.open(directory / "diary", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (json.dumps(line) + "\n").encode())
    os.close(descriptor)


def stop(number: int, frame: object) -> None:
    """What torch sends first."""
    write("told to stop")
    if "slow" in words:
        time.sleep(0.7)
    os._exit(0)


def lives(pid: int) -> bool:
    """Whether a process has not ended; one that its agent has not asked for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def obey(what: str) -> None:
    """Do what was ordered; all but ``done`` is an end in tears."""
    if what == "raise":
        from torch.distributed.elastic.multiprocessing.errors import record

        @record
        def train() -> None:
            write(what)
            raise ValueError("the loss is not a number")

        train()
    write(what)
    if what == "abort":
        os.abort()
    if what.startswith("exit "):
        os._exit(int(what.removeprefix("exit ")))


if "deaf" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif "slow" in words:
    signal.signal(signal.SIGTERM, stop)
if "training" in words:
    from torchelastic_otel import training_started

    write("is about to train")
    training_started()
write("began")
orders, end = directory / "orders" / str(os.getpid()), time.monotonic() + 600
while time.monotonic() < end and os.getppid() == agent:
    if orders.exists():
        order = json.loads(orders.read_text())
        if "after" in order:
            while lives(order["after"]):
                time.sleep(0.001)
            time.sleep(order["pause_s"])
        obey(order["what"])
        break
    if (directory / "done").exists():
        write("done")
        break
    time.sleep(0.02)
