"""A ``logging.Handler`` for torch's event loggers, safe on each of torch's threads.

Guarantees: it never raises, except for a signal that torch turns into an exception meanwhile; it has no lock (torch
shares one handler between its main and its heartbeat thread, and a lock that a signal leaks would stop the heartbeats);
it waits no longer than :meth:`~torchelastic_otel.ingest.queue.IngestQueue.submit` does.
"""

from __future__ import annotations

import logging

from torchelastic_otel.guard import guard
from torchelastic_otel.ingest.queue import IngestQueue


class SpoolHandler(logging.Handler):
    """Submits the message of each log record to the ingest queue, as recorded to one destination."""

    def __init__(self, destination: str, queue: IngestQueue) -> None:
        super().__init__(logging.NOTSET)
        self.destination = destination
        self._queue = queue

    def createLock(self) -> None:
        """No lock: see the header of this file."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """As ``logging.Handler.handle``, which needs a lock from Python 3.13 on."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Submit the record's message."""
        with guard:
            self._queue.submit(self.destination, record.getMessage())
