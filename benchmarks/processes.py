"""The processes that are measured: started with nothing of OpenTelemetry, of torchrun or of ours but what is asked.

What always holds: every process has its own spool directory unless it is given one, is a leader of its own group,
and is gone, with its workers, when the block that started it ends; every wait is bounded.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).resolve().parent / "programs"
SOURCES = Path(__file__).resolve().parent.parent / "src"
PATIENCE_S = 120.0
_FOREIGN = (
    "OTEL_",
    "TORCHELASTIC",
    "PET_",
    "TORCH_",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_",
    "LOGLEVEL",
    "PYTHON",
    "BENCH_",
)


class BenchmarkError(Exception):
    """A process that was to be measured did not do what it was asked; the text has what it said."""


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that is gone afterwards, whatever died in it."""
    with tempfile.TemporaryDirectory(prefix="torchelastic-otel-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def environment(place: Path, **variables: str) -> dict[str, str]:
    """This environment without anything that would change what is measured, with a spool directory of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    clean.update(PYTHONPATH=str(SOURCES), TMPDIR=str(place), OMP_NUM_THREADS="1")
    clean.update(variables)
    return clean


@contextmanager
def started(
    program: str, arguments: Sequence[str], environ: Mapping[str, str], place: Path
) -> Iterator[subprocess.Popen[str]]:
    """A program of ours in a process of its own, its standard output a pipe, its standard error a file."""
    with open(place / f"{program}.stderr", "ab") as errors:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / program), *arguments],
            env=dict(environ),
            cwd=place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # it died with something unread


def told(process: subprocess.Popen[str], place: Path, kind: str) -> dict[str, Any]:
    """The next line that the process says of this kind, as JSON; other lines are passed over.

    Raises:
        BenchmarkError: It ended without saying so.
    """
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            said: dict[str, Any] = json.loads(line)
            if said.get("kind") == kind:
                return said
    raise BenchmarkError(f"the process ended ({process.wait(10)}) before it said {kind!r}:\n{errors_of(place)}")


def errors_of(place: Path) -> str:
    """What the processes of a directory wrote to standard error, its end."""
    return "".join(path.read_text(errors="replace")[-4000:] for path in sorted(place.glob("*.stderr")))


def ended_ns(process: subprocess.Popen[str]) -> int:
    """Wait for the end; the monotonic clock's nanoseconds then.

    Raises:
        BenchmarkError: It did not end in time.
    """
    # not by process.wait(timeout): it looks every 50 ms at last, and so adds up to 50 ms
    descriptor = os.pidfd_open(process.pid)
    try:
        ended, _, _ = select.select([descriptor], [], [], PATIENCE_S)
        at = time.monotonic_ns()
    finally:
        os.close(descriptor)
    if not ended:
        raise BenchmarkError(f"still running after {PATIENCE_S:g} s")
    process.wait()
    return at


def free_port() -> int:
    """A loopback port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def torchrun_arguments(worker: Path) -> list[str]:
    """A job of one node and one worker by the dynamic rendezvous on loopback."""
    return [
        *("--nnodes", "1", "--nproc-per-node", "1", "--max-restarts", "0", "--rdzv-backend", "c10d"),
        *("--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "bench", "--local-addr", "127.0.0.1"),
        *("--monitor-interval", "0.1", str(worker)),
    ]
