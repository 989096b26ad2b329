"""The one guard between internal errors and the host program.

Guarantees: an internal error never reaches torch; a signal always does. ``KeyboardInterrupt`` and ``SystemExit`` are no
``Exception`` and pass anyway. Torch's ``SignalException`` is one (raised in the main thread by its SIGTERM handler,
``torch.distributed.elastic.multiprocessing.api``, 1.13 to 2.15), and projects that vendor elastic have their own copy
of it: it is recognised by its name, not by its identity.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Literal

logger = logging.getLogger("torchelastic_otel")


def _add_prefix(record: logging.LogRecord) -> bool:
    """Torchrun prints warnings without the logger's name, among everything else on standard error."""
    if not str(record.msg).startswith("torchelastic-otel: "):
        record.msg = f"torchelastic-otel: {record.msg}"
    return True


logger.addFilter(_add_prefix)


def is_signal(error: BaseException) -> bool:
    """Whether the exception represents a signal and must never be suppressed."""
    return not isinstance(error, Exception) or any(base.__name__ == "SignalException" for base in type(error).__mro__)


class Guard:
    """A context manager that suppresses internal errors and lets signals pass. Shared; its only state is a count.

    Attributes:
        faults: How many exceptions it has suppressed since the start of the process.
    """

    __slots__ = ("_reported", "faults")

    def __init__(self) -> None:
        self.faults = 0
        self._reported: set[str] = set()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or is_signal(error):
            return False
        self.suppress(error)
        return True

    def suppress(self, error: BaseException) -> Literal[True]:
        """Count an error; log each kind of it once. Tests replace this to raise it at the end."""
        self.faults += 1
        text = f"{type(error).__name__}: {error}"
        if text not in self._reported and len(self._reported) < 64:
            self._reported.add(text)
            logger.warning("internal error suppressed (the job is unaffected): %s", text, exc_info=error)
        return True


guard = Guard()
