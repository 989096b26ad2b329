"""What a worker's hooks wrote about its end: see :mod:`torchelastic_otel_evidence`, which defines the file's format.

Guarantees: no content raises; a torn or foreign file gives what can be read of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any, Final

from torchelastic_otel.agent.worker_files import read_regular
from torchelastic_otel.model.failure import Place
from torchelastic_otel.model.inferred_event import ClockReading
from torchelastic_otel.model.text import MAX_STACKTRACE, bounded
from torchelastic_otel_evidence import MARK, is_library

_MAX_FILE: Final = 256 * 1024
_MAX_FILES: Final = 8
_THREAD: Final = re.compile(r"(?P<current>Current thread|Thread) (?P<id>0x[0-9a-f]+)[^\n]*\(most recent call first\):")
_FRAME: Final = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)')
_FATAL: Final = "Fatal Python error: "
_TIMEOUT: Final = "Timeout ("
_CURRENT: Final = "Current thread "
"""A time-out is written by a thread of its own, so that only a signal has a current thread."""
_COLLECTIVE: Final = re.compile(
    r"/torch/distributed/(distributed_c10d|_functional_collectives|rendezvous|c10d_logger)\.py$"
    r"|/torch/nn/parallel/distributed\.py$"
)
"""Files of torch (2.2 to 2.15) whose frames call or await a collective or the other ranks."""
_MAY_BE_COLLECTIVE: Final = re.compile(r"/torch/(autograd|cuda|_dynamo|fx|_inductor)/|/torch/_tensor\.py$")
"""Native code below these may run hooks that await a collective, or a device that does."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The stacks of a process at one moment.

    Attributes:
        text: All threads, as ``faulthandler`` writes them, bounded.
        place: The innermost frame of the program itself in the thread that matters: at a fatal signal the one that got
            it, at SIGTERM the main thread.
        in_collective: Whether that thread called or awaited other ranks; ``None`` if that cannot be known.
        reason: The text of a fatal error; empty at SIGTERM.
    """

    text: str
    place: Place | None
    in_collective: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RaisedException:
    """An unhandled exception.

    Attributes:
        at: When it left the program's last frame.
        late: Whether it was raised before that, at an unknown time.
        type: Its class, with the module unless that is the program itself or ``builtins``.
        message: Its text.
        stack: The traceback, with causes and notes.
        place: The innermost frame of the program itself.
        thread: The thread's name.
    """

    at: ClockReading
    late: bool
    type: str
    message: str
    stack: str
    place: Place | None
    thread: str


@dataclass(frozen=True, slots=True)
class ProgramExit:
    """A call of ``sys.exit`` with an error status.

    Attributes:
        at: When.
        code: The exit status.
        text: The text that Python wrote to the standard error in place of a status.
        place: Where in the program.
    """

    at: ClockReading
    code: int
    text: str | None
    place: Place | None


@dataclass(frozen=True, slots=True)
class WorkerEvidence:
    """What one process of a worker wrote.

    Attributes:
        exception: The unhandled exception of the main thread.
        thread_exceptions: Those of other threads, which do not end a process.
        exit: The call of ``sys.exit`` that ended it.
        fatal: The stacks at a fatal signal.
        stop: The stacks at the first SIGTERM.
        stuck: The stacks some time after the exception, if the process had not ended.
    """

    exception: RaisedException | None = None
    thread_exceptions: tuple[RaisedException, ...] = ()
    exit: ProgramExit | None = None
    fatal: Stack | None = None
    stop: Stack | None = None
    stuck: Stack | None = None


def read(prefix: str, pid: int) -> WorkerEvidence | None:
    """The evidence of a worker; ``None`` if no process of it wrote a file.

    Args:
        prefix: The path without the process id.
        pid: The worker's process id; a wrapper has no file, its children have.
    """
    own = _read_file(f"{prefix}.{pid}")
    if own is not None:
        return own
    folder, name = os.path.split(prefix)
    found: list[WorkerEvidence] = []
    with contextlib.suppress(OSError):
        names = sorted(each for each in os.listdir(folder) if each.startswith(name + "."))
        found = [each for n in names[:_MAX_FILES] if (each := _read_file(os.path.join(folder, n))) is not None]
    raised = [each for each in found if each.exception is not None]
    if raised:
        return max(raised, key=lambda each: each.exception.at.monotonic_ns if each.exception else 0)
    return next((each for each in found if each != WorkerEvidence()), found[0] if found else None)


def _read_file(path: str) -> WorkerEvidence | None:
    content = read_regular(path, _MAX_FILE)
    return None if content is None else parse(content[0].decode("utf-8", "replace"))


def parse(text: str) -> WorkerEvidence:
    """The evidence in the text of a file."""
    exceptions: list[RaisedException] = []
    threads: list[RaisedException] = []
    exits: list[ProgramExit] = []
    stacks: list[str] = []
    for line in text.split("\n"):
        if not line.startswith(MARK):
            stacks.append(line)
            continue
        record = _record(line[len(MARK) :])
        if record is None:
            continue
        kind = record.get("kind")
        if kind == "exit":
            exits.append(_exit(record))
        elif kind in ("exception", "thread_exception"):
            (exceptions if kind == "exception" else threads).append(_exception(record))
    fatal, stop, stuck = _stacks("\n".join(stacks))
    return WorkerEvidence(
        exceptions[0] if exceptions else None, tuple(threads), exits[-1] if exits else None, fatal, stop, stuck
    )


def _record(text: str) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
        times = record["time_ns"], record["monotonic_ns"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    return record if all(type(time) is int for time in times) else None


def _at(record: dict[str, Any]) -> ClockReading:
    return ClockReading(record["time_ns"], record["monotonic_ns"])


def _exception(record: dict[str, Any]) -> RaisedException:
    return RaisedException(
        _at(record),
        record.get("late") is True,
        bounded(str(record.get("type") or "")),
        bounded(str(record.get("message") or "")),
        bounded(str(record.get("stack") or ""), MAX_STACKTRACE),
        _place(record.get("place")),
        bounded(str(record.get("thread") or "")),
    )


def _exit(record: dict[str, Any]) -> ProgramExit:
    code, text = record.get("code"), record.get("text")
    return ProgramExit(
        _at(record),
        code & 0xFF if type(code) is int else 1,
        bounded(str(text)) if text is not None else None,
        _place(record.get("place")),
    )


def _place(value: Any) -> Place | None:
    if isinstance(value, list) and len(value) == 3 and type(value[1]) is int:
        return Place(bounded(str(value[2])), bounded(str(value[0])), value[1])
    return None


def _stacks(text: str) -> tuple[Stack | None, Stack | None, Stack | None]:
    """The stacks at a fatal signal, at the first SIGTERM, and at a time-out; a second SIGTERM writes the same again."""
    before, fatal, after = text.partition(_FATAL)
    reason, _, dump = after.partition("\n")
    first, timeout, later = before.partition(_TIMEOUT)
    stuck = _stack(later, "", current=False) if timeout else None
    stop = _stack(first, "", current=False)
    if stop is None and timeout:  # stopped after the time-out: its threads are listed a second time
        second = later.find(_CURRENT)
        stop = _stack(later[second:], "", current=False) if second >= 0 else None
    return _stack(dump, bounded(reason), current=True) if fatal else None, stop, stuck


def _stack(text: str, reason: str, *, current: bool) -> Stack | None:
    threads: dict[str, tuple[int, int, bool]] = {}
    found = list(_THREAD.finditer(text))
    end = len(text)
    for number, thread in enumerate(found):
        if thread["id"] in threads:
            end = thread.start()
            break
        until = found[number + 1].start() if number + 1 < len(found) else len(text)
        threads[thread["id"]] = thread.end(), until, thread["current"] == "Current thread"
    if not threads:
        return Stack("", None, None, reason) if reason else None
    # the interpreter lists its threads from the newest to the first, which is the main thread
    spans = list(threads.values())
    begin, until, _ = next((span for span in spans if span[2]), spans[-1]) if current else spans[-1]
    frames = [_FRAME.fullmatch(line) for line in text[begin : min(until, end)].splitlines()]
    known = [
        Place(bounded(frame["function"]), bounded(frame["file"]), int(frame["line"]))
        for frame in frames
        if frame is not None and frame["line"] != "???"
    ]
    own = next((place for place in known if not is_library(place.file)), None)
    return Stack(
        bounded(text[found[0].start() : end].strip(), MAX_STACKTRACE),
        own or (known[0] if known else None),
        _in_collective(known),
        reason,
    )


def _in_collective(frames: list[Place]) -> bool | None:
    if not frames:
        return None
    if any(_COLLECTIVE.search(frame.file) for frame in frames):
        return True
    return None if any(_MAY_BE_COLLECTIVE.search(frame.file) for frame in frames) else False
