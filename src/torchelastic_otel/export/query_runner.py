"""Calls on a spool that may hang, for callers that must not block: on one thread of their own.

Guarantees: a caller waits no longer than its timeout; a call that hangs makes the next ones time out, each after its
own time; a call that raises returns ``None`` at once, and the thread goes on. The thread is started early: while the
interpreter exits none can be started (Python 3.12 refuses one before the first ``atexit`` function runs).
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
"""The time that a working disk gets, also if nothing is left of the caller's time."""

_T = TypeVar("_T")
_Query = tuple[Callable[[], Any], "queue.SimpleQueue[Any]"]


class QueryRunner:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._queries: queue.SimpleQueue[_Query | None] = queue.SimpleQueue()
        self._pid = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, if this process has none."""
        if self._pid != os.getpid():
            self._queries = queue.SimpleQueue()
            self._thread = threading.Thread(target=self._run_queries, name="torchelastic-otel-queries", daemon=True)
            self._thread.start()
            self._pid = os.getpid()

    def stop(self) -> None:
        """Stop the thread, once it has run all queries."""
        if self._pid == os.getpid():
            self._pid = 0
            self._queries.put(None)
            if self._thread is not None:
                self._thread.join(MIN_TIMEOUT_NS / NS_PER_S)

    def run(self, timeout_ns: int, query: Callable[[], _T]) -> _T | None:
        """The result of the query; ``None`` if it raises or takes longer."""
        result: queue.SimpleQueue[_T | None] = queue.SimpleQueue()
        try:
            self.start()
            self._queries.put((query, result))
            return result.get(timeout=max(timeout_ns, MIN_TIMEOUT_NS) / NS_PER_S)
        except (RuntimeError, queue.Empty):  # no thread can be started any more, or the time is over
            return None

    def _run_queries(self) -> None:
        queries = self._queries
        while (each := queries.get()) is not None:
            query, results = each
            result: Any = None
            try:
                result = query()
            except (SpoolError, OSError) as error:  # of a disk, or of a directory that was removed
                logger.debug("%s", error)
            except BaseException as error:  # noqa: BLE001 - no signal reaches this thread, and it must never end
                guard.suppress(error)
            finally:
                results.put(result)


query_runner = QueryRunner()
run_with_timeout = query_runner.run
