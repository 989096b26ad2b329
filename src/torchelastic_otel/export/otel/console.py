"""The ``console`` destination: one line a person can read for each log record.

Guarantees: a record is one line, whatever its body contains (line breaks become spaces, other control characters are
escaped, so that a body cannot control a terminal); lines of a batch are written together; colour only on a terminal,
and not with ``NO_COLOR`` set.

Not guaranteed: that every attribute is shown. Output to a stream that is closed, or to a pipe without a reader, counts
as delivered, because no retry can succeed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TextIO

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult

from torchelastic_otel import semconv
from torchelastic_otel.model.event import Severity
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.units import NS_PER_S

_PREFIX = "torchelastic."
_COLOURS = ((Severity.ERROR, "\x1b[31m"), (Severity.WARN, "\x1b[33m"), (Severity.INFO, ""), (Severity.DEBUG, "\x1b[2m"))
_PLAIN = "\x1b[0m"


def format_line(
    *,
    time_ns: int,
    severity: int,
    event_name: str,
    body: str,
    attributes: Mapping[str, Any],
    resource: Mapping[str, Any],
    localtime: Callable[[float], time.struct_time] = time.localtime,
    colour: bool = False,
) -> str:
    """One record as one line, without a line feed.

    Args:
        time_ns: The time of the event, nanoseconds since the epoch.
        severity: Severity number of the OpenTelemetry log data model, 1 to 24; 0 if unknown.
        event_name: The event's name; its ``torchelastic.`` is not shown.
        body: The message.
        attributes: The record's attributes; node rank, world size and round are shown, ``-`` if unknown.
        resource: The resource's attributes; the host name is shown.
        localtime: Seconds since the epoch to local time.
        colour: Whether to colour by severity.
    """
    seconds, below = divmod(time_ns, NS_PER_S)
    clock = time.strftime("%H:%M:%S", localtime(seconds))
    rank, world, round_ = (
        attributes.get(name, "-") for name in (semconv.GROUP_RANK, semconv.GROUP_WORLD_SIZE, semconv.RENDEZVOUS_ROUND)
    )
    name = event_name.removeprefix(_PREFIX) or "-"
    host = str(resource.get(semconv.HOST_NAME, "-"))
    line = (
        f"{clock}.{below // 1_000_000:03d} {_severity_name(severity):<5} {_one_line(host):<12} "
        f"node {f'{rank}/{world}':<5} round {round_!s:<2} {_one_line(name):<30} {_one_line(body)}"
    ).rstrip()
    if colour:
        code = next((code for least, code in _COLOURS if severity >= least), "")
        return f"{code}{line}{_PLAIN}" if code else line
    return line


class ConsoleLineExporter(LogRecordExporter):
    """Print each log record as one line, to the current ``sys.stderr`` by default."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        localtime: Callable[[float], time.struct_time] = time.localtime,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Nothing is written yet.

        Args:
            stream: The output; ``None`` is ``sys.stderr``, looked up at each write.
            localtime: Seconds since the epoch to local time.
            environment: Contains ``NO_COLOR``.
        """
        self._stream = stream
        self._localtime = localtime
        self._environment = environment
        self._closed = False
        self._lock = threading.Lock()

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Write the batch, one line a record.

        Returns:
            ``FAILURE`` if the stream may accept it later (a full disk), or after ``shutdown``.
        """
        if self._closed:
            return LogRecordExportResult.FAILURE
        stream = self._stream if self._stream is not None else sys.stderr
        if stream is None or getattr(stream, "closed", False):
            return LogRecordExportResult.SUCCESS
        colour = stream.isatty() and not self._environment.get("NO_COLOR")
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = "".join(self._line(record, colour) + "\n" for record in batch)
        try:
            with self._lock:
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
                stream.flush()
        except (BrokenPipeError, ValueError):
            # there is no reader, or another thread has closed the stream
            return LogRecordExportResult.SUCCESS
        except OSError:
            return LogRecordExportResult.FAILURE
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is buffered: always ``True``."""
        return True

    def shutdown(self) -> None:
        """Write no more; the stream stays open."""
        self._closed = True

    def _line(self, readable: ReadableLogRecord, colour: bool) -> str:
        record = readable.log_record
        return format_line(
            time_ns=record.timestamp or record.observed_timestamp or 0,
            severity=record.severity_number.value if record.severity_number is not None else 0,
            event_name=record.event_name or "",
            body="" if record.body is None else str(record.body),
            attributes=record.attributes or {},
            resource=readable.resource.attributes,
            localtime=self._localtime,
            colour=colour,
        )


EXPORTERS: Final = {Signal.LOGS: ConsoleLineExporter}


def _severity_name(severity: int) -> str:
    # Each name covers four numbers: INFO is 9 to 12 (log data model, "Severity Fields").
    if not 1 <= severity <= 24:
        return "-"
    return ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")[(severity - 1) // 4]


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    joined = " ".join(part.strip() for part in text.splitlines())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in joined)
