"""One program that is started, asked, killed and started again."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tests.support.ports import free_port

START_S = 90.0
"""The longest that a start may take; on 2 busy cores the slowest took some seconds."""
STOP_S = 60.0
POLL_S = 0.05
TAIL = 40
_OF_NO_CONCERN = ("OTEL_", "TORCHELASTIC_", "PET_", "GOGC", "GOMEMLIMIT", "JAEGER_", "BADGER_", "SPAN_STORAGE_")

Answer = TypeVar("Answer")
Me = TypeVar("Me", bound="Server")


class NotReady(AssertionError):
    """A program did not come up, or what was waited for did not come; says what was seen instead."""


_NOT_YET = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    AssertionError,
    subprocess.SubprocessError,
    http.client.HTTPException,
)


def eventually(ask: Callable[[], Answer], deadline_s: float = 60.0, poll_s: float = 0.1) -> Answer:
    """The first answer that is true; asks again until then. Raises :class:`NotReady` with the last one, or its error.

    What a question raises counts as "not yet": a backend that has never heard of a service refuses to search for it.
    """
    until = time.monotonic() + deadline_s
    while True:
        try:
            answer = ask()
            if answer:
                return answer
            last: object = answer
        except _NOT_YET as error:
            last = error
        if time.monotonic() > until:
            raise NotReady(f"not within {deadline_s} s; last: {last!r}") from (
                last if isinstance(last, BaseException) else None
            )
        time.sleep(poll_s)


class Server(ABC):
    """A program with a folder of its own: ``folder/data`` is its data, ``folder/<name>.log`` what it says.

    As a context manager it is started, and killed at the end.

    Args:
        program: What is run.
        folder: Made where it is missing.
        env: Set in its environment beside what this process has; nothing of OpenTelemetry is handed on unsaid.
    """

    name: str

    def __init__(self, program: Path, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.program = program
        self.folder = folder
        self.env = dict(env or {})
        self.data = folder / "data"
        self.log = folder / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.data.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it takes and answers, by its own word."""

    def environment(self) -> dict[str, str]:
        """All of its environment."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_OF_NO_CONCERN)}
        return {**kept, **self.env}

    def start(self: Me, deadline_s: float = START_S) -> Me:
        """Start it and wait until it is ready. Raises :class:`NotReady` with the end of its log."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            # a group of its own: an interrupt at the terminal is for the tests, which then stop it in their order
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + deadline_s
        while not self.is_ready():
            status = self.process.poll()
            if status is not None:
                raise NotReady(f"{self.name} ended with status {status} at its start:\n{self.tail()}")
            if time.monotonic() > until:
                self.kill()
                raise NotReady(f"{self.name} was not ready within {deadline_s} s:\n{self.tail()}")
            time.sleep(POLL_S)
        return self

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns. Its data and ports stay."""
        if self.process is not None and self.running:
            self.process.kill()
        if self.process is not None:
            self.process.wait()

    def stop(self, deadline_s: float = STOP_S) -> int:
        """SIGTERM, and wait for its end. Its exit status; killed, and :class:`NotReady`, where it takes too long."""
        assert self.process is not None, f"{self.name} was not started"
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NotReady(f"{self.name} did not end within {deadline_s} s of SIGTERM:\n{self.tail()}") from None

    def restart(self: Me) -> Me:
        """Stop it in order, and start it on the same data and ports."""
        self.stop()
        return self.start()

    def text(self) -> str:
        """All that it said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = TAIL) -> str:
        """The end of it, and where the rest is."""
        return "\n".join([*self.text().splitlines()[-lines:], f"(all of it: {self.log})"])

    def __enter__(self: Me) -> Me:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


def loopback() -> str:
    """``127.0.0.1`` and a port that is ours."""
    return f"127.0.0.1:{free_port()}"
