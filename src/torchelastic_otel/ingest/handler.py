"""A ``logging.Handler`` for torch's event loggers, safe wherever torch calls it.

What always holds: it never raises, but for the signal that torch raised in the middle of it; it has no lock
(torch shares one handler between its main and its heartbeat thread, and a lock that a signal leaks would
stop the heartbeats); it does not wait longer than the inlet lets it.
"""

from __future__ import annotations

import logging

from torchelastic_otel.guard import guard
from torchelastic_otel.ingest.queue import IngestQueue


class SpoolHandler(logging.Handler):
    """Puts what is logged into the inlet, as recorded to one destination."""

    def __init__(self, destination: str, queue: IngestQueue) -> None:
        super().__init__(logging.NOTSET)
        self.destination = destination
        self._queue = queue

    def createLock(self) -> None:
        """No lock: see the header of this file."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """As ``logging.Handler.handle``, which from Python 3.13 on cannot do without a lock."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the record's message over."""
        with guard:
            self._queue.submit(self.destination, record.getMessage())
