"""The caller of a function: a frame look-up in place of ``inspect.stack()``.

Guarantees: only the requested frame is read and no source file, so that a look-up takes well under a microsecond
(``inspect.stack()`` takes about a millisecond at an agent's depth); the names are those of ``inspect.stack()``; a stack
that is too short is no error; no frame outlives the call.

``depth`` counts as ``inspect.stack()`` does inside the function that is called here: 0 is that function itself, 1 is
its caller, 2 is the caller of that one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType

GetFrame = Callable[[int], FrameType]

NO_FILE = "no_file"
NO_METHOD = "no_method_name"


def caller(depth: int = 2, get_frame: GetFrame = sys._getframe) -> tuple[str, str]:
    """The file and the function of a frame below.

    Args:
        depth: Which frame; by default the caller of the calling function.
        get_frame: Returns the frame at a depth, or raises ``ValueError`` if the stack is shorter.

    Returns:
        The file's base name and the function's name, as torch's ``construct_and_record_rdzv_event``
        (``torch.distributed.elastic.events``, 1.13 to 2.15) puts them into an event's name;
        ``("no_file", "")`` if the stack is too short.
    """
    try:
        code = get_frame(depth).f_code
    except ValueError:
        return NO_FILE, ""
    return os.path.basename(code.co_filename), code.co_name


def method_name(depth: int = 2, get_frame: GetFrame = sys._getframe) -> str:
    """The name of the function at a depth: torch's ``get_method_name`` without its stack walks.

    Args:
        depth: Which frame; by default the caller of the calling function, so that a ``_record`` wrapper gets the name
            of the function for which it records.
        get_frame: Returns the frame at a depth, or raises ``ValueError`` if the stack is shorter.

    Returns:
        The function's name, or ``"no_method_name"`` if the stack is too short, as in
        ``torch.distributed.elastic.rendezvous.dynamic_rendezvous`` (1.13 to 2.15).
    """
    try:
        return get_frame(depth).f_code.co_name
    except ValueError:
        return NO_METHOD
