"""One attempt to export one batch: cut off from the program around it, bounded in time, and cuttable.

What always holds:

- An attempt runs in a context of its own, in which instrumentation libraries make no spans.
- It can be cut while it is under way, by its time limit or by ``abort()``; a cut never hits the attempt after it.
- What its exporter would do with a bad answer (log, draw random numbers, sleep, try again) does not happen: the
  answer flies past the exporter as :class:`Answered`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, detach, set_value

from torchelastic_otel.export.result import Disposition, ExportResult


class Answered(BaseException):
    """Carries an outcome through an exporter; no ``Exception``, so that no handler on the way keeps it.

    Attributes:
        outcome: What became of the batch.
    """

    def __init__(self, outcome: ExportResult) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def _quiet_context() -> Context:
    # Both keys that opentelemetry-instrumentation's suppress_instrumentation() sets; a contract test compares.
    context = set_value(_SUPPRESS_INSTRUMENTATION_KEY, True, Context())
    return set_value("suppress_instrumentation", True, context)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """An empty context but for the keys that tell instrumentation libraries to look away."""
    token = attach(_quiet_context())
    try:
        yield
    finally:
        detach(token)


class CancellationScope:
    """Cuts the attempt that is under way.

    Args:
        timeout_ns: How long one attempt may take, nanoseconds.
    """

    def __init__(self, timeout_ns: int) -> None:
        self.timeout_ns = timeout_ns
        self._lock = threading.Lock()
        self._number = 0
        self._thread: int | None = None
        self._why_cut = ""
        self._cut: Callable[[], None] = _nothing
        self.threads_can_be_had = True
        """Whether a thread could be started for this attempt: not while the interpreter ends, from Python 3.12 on."""

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Runs one attempt on this thread, under its time limit."""
        with self._lock:
            self._number += 1
            number, self._thread, self._why_cut = self._number, threading.get_ident(), ""
        limit = threading.Timer(
            self.timeout_ns / 1e9, self._cut_off, (f"no full answer within {self.timeout_ns / 1e9:g} s", number)
        )
        limit.daemon = True
        self.threads_can_be_had = True
        try:
            limit.start()
        except RuntimeError:
            self.threads_can_be_had = False  # the exporter's own timeouts still hold
        try:
            with quietly():
                yield
        finally:
            limit.cancel()
            with self._lock:
                self._thread = None

    def abort(self) -> None:
        """Cut the attempt that is under way, if one is."""
        self._cut_off("interrupted", None)

    def is_mine(self) -> bool:
        """Whether the calling thread is the one whose attempt is under way; a user may share an exporter."""
        return self._thread == threading.get_ident()

    def hold(self, cut: Callable[[], None]) -> None:
        """What cuts the attempt from now on, also later ones; called at once where this one was cut before."""
        with self._lock:
            self._cut = cut
            if self._thread is not None and self._why_cut:
                cut()

    def cut_outcome(self) -> ExportResult | None:
        """The outcome of this attempt if it was cut."""
        return ExportResult(Disposition.RETRY, self._why_cut) if self._why_cut else None

    def _cut_off(self, why: str, number: int | None) -> None:
        with self._lock:
            if self._thread is None or (number is not None and number != self._number):
                return
            self._why_cut = self._why_cut or why
            # Under the lock, so that the next attempt cannot begin in between and be hit.
            self._cut()


def _nothing() -> None:
    pass


def one_line(text: str, longest: int = 200) -> str:
    """What a server said, fit for a log line: printable, one line, bounded."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= longest else line[: longest - 3] + "..."
