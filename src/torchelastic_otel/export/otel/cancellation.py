"""One attempt to export one batch: isolated from the program around it, limited in time, and cancellable.

Guarantees:

- An attempt runs in a context of its own, in which instrumentation libraries make no spans.
- A running attempt can be cancelled, by its time limit or by ``cancel()``; a cancellation never hits the next attempt.
- What its exporter would do with a failure (log, draw random numbers, sleep, retry) does not happen: the result passes
  through the exporter as :class:`AttemptFinished`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, detach, set_value

from torchelastic_otel.export.result import Disposition, ExportResult


class AttemptFinished(BaseException):
    """Carries a result through an exporter; not an ``Exception``, so that no handler on the way catches it.

    Attributes:
        result: The result of the attempt.
    """

    def __init__(self, result: ExportResult) -> None:
        super().__init__(result.reason)
        self.result = result


@contextlib.contextmanager
def without_instrumentation() -> Iterator[None]:
    """A context that is empty except for the keys by which instrumentation libraries are suppressed."""
    # Both keys that opentelemetry-instrumentation's suppress_instrumentation() sets; a contract test compares.
    context = set_value(_SUPPRESS_INSTRUMENTATION_KEY, True, Context())
    token = attach(set_value("suppress_instrumentation", True, context))
    try:
        yield
    finally:
        detach(token)


class CancellationScope:
    """Cancels the running attempt.

    Args:
        timeout_ns: How long one attempt may take, nanoseconds.

    Attributes:
        can_start_threads: Whether a thread could be started for this attempt; Python 3.12 and newer start none while
            the interpreter exits.
    """

    def __init__(self, timeout_ns: int) -> None:
        self.timeout_ns = timeout_ns
        self.can_start_threads = True
        self._lock = threading.Lock()
        self._number = 0
        self._thread: int | None = None
        self._reason = ""
        self._callback: Callable[[], object] | None = None

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Runs one attempt on this thread, with its time limit."""
        with self._lock:
            self._number += 1
            number, self._thread, self._reason = self._number, threading.get_ident(), ""
        limit = threading.Timer(
            self.timeout_ns / 1e9, self._cancel, (f"no complete response within {self.timeout_ns / 1e9:g} s", number)
        )
        limit.daemon = True
        self.can_start_threads = True
        try:
            limit.start()
        except RuntimeError:
            self.can_start_threads = False  # the exporter's own timeouts apply
        try:
            with without_instrumentation():
                yield
        finally:
            limit.cancel()
            with self._lock:
                self._thread = None

    def cancel(self) -> None:
        """Cancel the running attempt, if there is one."""
        self._cancel("cancelled", None)

    def is_current_thread(self) -> bool:
        """Whether the attempt runs on the calling thread; a user may use the same exporter on others."""
        return self._thread == threading.get_ident()

    def on_cancel(self, callback: Callable[[], object] | None) -> None:
        """What cancels attempts from now on; called at once if the running one was cancelled before."""
        with self._lock:
            self._callback = callback
            if self._thread is not None and self._reason and callback is not None:
                callback()

    def cancelled_result(self) -> ExportResult | None:
        """The result of this attempt if it was cancelled."""
        return ExportResult(Disposition.RETRY, self._reason) if self._reason else None

    def _cancel(self, reason: str, number: int | None) -> None:
        with self._lock:
            if self._thread is None or (number is not None and number != self._number):
                return
            self._reason = self._reason or reason
            # under the lock, so that the next attempt cannot begin in between and be cancelled
            if self._callback is not None:
                self._callback()


def one_line(text: str, longest: int = 200) -> str:
    """A server's text for a log line: printable, one line, bounded."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= longest else line[: longest - 3] + "..."
