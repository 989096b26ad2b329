"""Errors in torch's three forms to OpenTelemetry's exception attributes.

The forms (torch 1.13 to 2.15): a rendezvous event's ``error_trace`` and an agent's ``raw_error`` are tracebacks as
``traceback.format_exc`` writes them; a worker's ``raw_error`` is the JSON text of its error file, whose ``message`` is
a mapping with ``message`` and ``extraInfo.py_callstack``, or a plain string.

Guarantees: no text raises, whatever a worker has written into its error file.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.model.text import MAX_STACKTRACE, bounded

if TYPE_CHECKING:
    from torchelastic_otel.model.event import AttributeValue

_TYPE_AND_MESSAGE: Final = re.compile(r"(?P<type>[A-Za-z_][\w.]*)(?::\s*(?P<message>.*))?\Z", re.DOTALL)
_AT_THE_MARGIN: Final = re.compile(r"[A-Za-z_][\w.]*(:|\Z)")
_NO_EXCEPTION: Final = "NoneType: None"
"""The result of ``traceback.format_exc()`` while no exception is handled."""
_NO_MESSAGE: Final = "<NONE>"
"""Torch's message if a worker left no error file (``ProcessFailure``, 2.13)."""


def from_text(text: str) -> dict[str, AttributeValue]:
    """Attributes of ``T: message``, the form of an exception's last line; empty where it is not of that form."""
    found = _TYPE_AND_MESSAGE.match(text.strip())
    if found is None or text.strip() == _NO_EXCEPTION:
        return {}
    name = found["type"]
    attributes: dict[str, AttributeValue] = {
        semconv.EXCEPTION_TYPE: bounded(name),
        semconv.ERROR_TYPE: bounded(name.rpartition(".")[2]),
    }
    if found["message"]:
        attributes[semconv.EXCEPTION_MESSAGE] = bounded(found["message"])
    return attributes


def from_traceback(trace: str) -> dict[str, AttributeValue]:
    """Attributes of a formatted traceback; the first line at the margin behind its last frame names the exception."""
    if not trace.strip() or trace.strip() == _NO_EXCEPTION:
        return {}
    lines = trace.rstrip().splitlines()
    last_frame = max((i for i, line in enumerate(lines) if line.lstrip().startswith('File "')), default=-1)
    named = next((i for i in range(last_frame + 1, len(lines)) if _AT_THE_MARGIN.match(lines[i])), None)
    attributes = {} if named is None else from_text("\n".join(lines[named:]))
    attributes[semconv.EXCEPTION_STACKTRACE] = bounded(trace, MAX_STACKTRACE)
    return attributes


def from_error_file(raw: str) -> dict[str, AttributeValue]:
    """Attributes of a worker's ``raw_error``; what is not of a known shape becomes the message, whole."""
    try:
        return _from_json(json.loads(raw))
    except (ValueError, RecursionError):  # no JSON, or so deep that it is neither read nor written
        return {semconv.EXCEPTION_MESSAGE: bounded(raw)}


def _from_json(content: Any) -> dict[str, AttributeValue]:
    message = content.get("message") if isinstance(content, dict) else content
    if isinstance(message, dict):
        extra = message.get("extraInfo")
        stack = extra.get("py_callstack") if isinstance(extra, dict) else None
        attributes = from_text(str(message.get("message", "")))
        if not attributes:
            attributes = {semconv.EXCEPTION_MESSAGE: bounded(str(message.get("message", "")))}
        if isinstance(stack, str):
            attributes[semconv.EXCEPTION_STACKTRACE] = bounded(stack, MAX_STACKTRACE)
        return attributes
    if message is None or message == _NO_MESSAGE:
        return {}
    return {semconv.EXCEPTION_MESSAGE: bounded(str(message))}
