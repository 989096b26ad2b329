"""The last lines of a worker's standard error: the error that they end with, if the worker left nothing else.

Known forms: a Python traceback (``traceback.print_exception``, Python 3.10 to 3.14), the text of a C++ program that an
exception ends (``terminate called after throwing ...``, libstdc++; the watchdog of NCCL ends a process this way).

Guarantees: no text raises; a text of another form gives nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from torchelastic_otel import semconv
from torchelastic_otel.model.failure import Place
from torchelastic_otel.model.text import bounded
from torchelastic_otel.torch_events.error_files import from_text, from_traceback
from torchelastic_otel_evidence import is_library

if TYPE_CHECKING:
    from torchelastic_otel.model.event import AttributeValue

MAX_TAIL: Final = 8 * 1024
"""Bytes of the end that are read."""
_HEADER: Final = "Traceback (most recent call last):"
_MARGIN: Final = re.compile(r"[A-Za-z_][\w.]*(:\s|\Z)")
_FRAME: Final = re.compile(r'\s+File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)')
_TERMINATE: Final = re.compile(r"terminate called after throwing an instance of '(?P<type>[^']+)'")
_WHAT: Final = re.compile(r"\s*what\(\):\s*(?P<message>.*)")


def from_standard_error(text: str) -> dict[str, AttributeValue]:
    """Attributes of the last error in a text; empty if there is none.

    Args:
        text: The end of what a worker wrote, perhaps cut in its first line.
    """
    lines = text.splitlines()
    header = max((i for i, line in enumerate(lines) if line.rstrip() == _HEADER), default=-1)
    terminate = max((i for i, line in enumerate(lines) if _TERMINATE.match(line)), default=-1)
    if terminate > header:
        return _from_terminate(lines[terminate:])
    if header < 0:
        return {}
    end = next((i for i in range(header + 1, len(lines)) if _MARGIN.match(lines[i])), None)
    if end is None:
        return {}
    # a message may have more lines: up to what another one logs, which is no part of it for certain
    trace = "\n".join([*lines[header : end + 1]])
    return from_traceback(trace)


def place_of(trace: str) -> Place | None:
    """The innermost frame of a formatted traceback outside libraries, else its last; ``None`` if it has none."""
    frames = [found for line in trace.splitlines() if (found := _FRAME.match(line))]
    own = [found for found in frames if not is_library(found["file"])]
    if not frames:
        return None
    found = (own or frames)[-1]
    return Place(bounded(found["function"], 256), bounded(found["file"], 1024), int(found["line"]))


def _from_terminate(lines: list[str]) -> dict[str, AttributeValue]:
    found = _TERMINATE.match(lines[0])
    assert found is not None
    what = next((w["message"] for line in lines[1:3] if (w := _WHAT.match(line))), "")
    attributes = from_text(f"{found['type'].replace('::', '.')}: {what}")
    attributes[semconv.EXCEPTION_TYPE] = bounded(found["type"])
    return attributes
