"""A worker that obeys the test's commands and writes down what it is and what it does.

Arguments: a directory that all agents share, and words: ``deaf`` (it ignores SIGTERM), ``slow`` (it takes 0.7 s to
stop), ``training`` (it reports that training began).

It appends to ``worker-log``, one line of JSON each, and reads its command from ``commands/<its process id>``: a JSON
object with ``what`` to do, and optionally how long (``pause_s``) after the end of which process (``after``). Without a
command it waits until the file ``done`` exists or its agent is gone.
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
    """Append one line to the log."""
    known = {name.lower(): int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE")}
    line = {"what": what, "at_ns": time.time_ns(), "agent": agent, "pid": os.getpid(), **known}
    descriptor = os.open(directory / "worker-log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (json.dumps(line) + "\n").encode())
    os.close(descriptor)


def stop(number: int, frame: object) -> None:
    """Handle SIGTERM."""
    write("told to stop")
    if "slow" in words:
        time.sleep(0.7)
    os._exit(0)


def is_running(pid: int) -> bool:
    """Whether a process has not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def obey(what: str) -> None:
    """Do what was commanded; everything but ``done`` is a failure."""
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
commands, end = directory / "commands" / str(os.getpid()), time.monotonic() + 600
while time.monotonic() < end and os.getppid() == agent:
    if commands.exists():
        command = json.loads(commands.read_text())
        if "after" in command:
            while is_running(command["after"]):
                time.sleep(0.001)
            time.sleep(command["pause_s"])
        obey(command["what"])
        break
    if (directory / "done").exists():
        write("done")
        break
    time.sleep(0.02)
