"""Questions to a spool that may hang, asked by somebody who must not: on one thread kept for them.

What always holds: who asks waits no longer than it says; a question that hangs makes the next ones wait in vain, each
for its own time; one that raises is answered at once with ``None``, and the thread goes on. The thread is begun in
time: while the interpreter ends none can be had (Python 3.12 refuses one before the first ``atexit`` function runs).
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.guard import guard
from torchelastic_otel.units import NS_PER_S

logger = logging.getLogger("torchelastic_otel")

MIN_TIMEOUT_NS: Final = 50_000_000
"""What a disk that answers is given to do so, also where nothing is left of the time."""

_T = TypeVar("_T")
_Asked = tuple[Callable[[], Any], "queue.SimpleQueue[Any]"]


class QueryRunner:
    """See the header of this file."""

    def __init__(self) -> None:
        self._queries: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._pid = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have the thread ready."""
        if self._pid != os.getpid():
            self._queries = queue.SimpleQueue()
            self._thread = threading.Thread(target=self._run_queries, name="torchelastic-otel-questions", daemon=True)
            self._thread.start()
            self._pid = os.getpid()

    def stop(self) -> None:
        """Let the thread go, once it has answered what was asked."""
        if self._pid == os.getpid():
            self._pid = 0
            self._queries.put(None)
            if self._thread is not None:
                self._thread.join(MIN_TIMEOUT_NS / NS_PER_S)

    def run(self, timeout_ns: int, question: Callable[[], _T]) -> _T | None:
        """The answer, if it comes in time and the spool can tell."""
        answer: queue.SimpleQueue[_T | None] = queue.SimpleQueue()
        try:
            self.start()
            self._queries.put((question, answer))
            return answer.get(timeout=max(timeout_ns, MIN_TIMEOUT_NS) / NS_PER_S)
        except (RuntimeError, queue.Empty):  # no thread can be had any more, or no answer came
            return None

    def _run_queries(self) -> None:
        asked = self._queries
        while (one := asked.get()) is not None:
            question, answer = one
            told: Any = None
            try:
                told = question()
            except (SpoolError, OSError) as error:  # of a disk, or of a folder that somebody has removed
                logger.debug("%s", error)
            except BaseException as error:  # noqa: BLE001 - no signal comes to this thread, and it must never end
                guard.suppress(error)
            finally:
                answer.put(told)


query_runner = QueryRunner()
run_with_timeout = query_runner.run
