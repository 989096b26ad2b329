"""The ``file`` exporters: OTLP JSON lines in size-bounded files, as a Collector's ``file`` exporter writes them.

Guarantees:

- A line is written by one write into one file; an incomplete write is truncated.
- A file belongs to one process and signal: ``<stem>-<host>-<pid>.<number>.jsonl`` for logs, with ``traces.`` or
  ``metrics.`` before the number for the others; created new, mode 0600, never through a symbolic link. The
  incomplete line of a killed process stays at the end of its own file.
- When a line would make the file larger than ``max_file_bytes``, the next file begins. A line that is larger alone
  gets a file of its own.
- Of the files with this process's name only the newest ``max_files`` stay; THE OLDEST IS DELETED. A process that has
  the host name and pid of an earlier one (containers) takes over its count.
- No error of the disk is raised: the result of the batch is ``FAILURE`` and nothing of it stays written.

Not guaranteed: durability at a power loss (no fsync), and deletion of other processes' files: a directory that many
jobs share needs its own cleaning.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from torchelastic_otel.export.otel.otlp_json import to_json_line
from torchelastic_otel.export.otel.projection import encode
from torchelastic_otel.model.signals import Signal

logger = logging.getLogger("torchelastic_otel")

MIB = 1024 * 1024
_NEW_FILE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class OtlpJsonFiles:
    """Lines in files, which are opened at the first line."""

    signal: ClassVar[Signal]

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        stem: str = "torchelastic",
        max_file_bytes: int = 100 * MIB,
        max_files: int = 10,
    ) -> None:
        """Nothing is written yet.

        Args:
            directory: The directory; created with its parents, mode 0700. One that exists keeps its mode.
            stem: The beginning of file names; host name and pid are added.
            max_file_bytes: Size of a file, bytes, at least 1.
            max_files: The number of this process's files that are kept, at least 1.

        Raises:
            ValueError: A bound is below 1, or the stem is empty or contains a path separator.
        """
        super().__init__()  # of the exporter class, which follows this one
        for name, value in (("max_file_bytes", max_file_bytes), ("max_files", max_files)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not stem or "/" in stem or os.sep in stem or "\0" in stem:
            raise ValueError(f"stem is {stem!r}; it must be the beginning of a file name, without a path separator")
        self._directory = os.fspath(directory)
        self._stem = stem
        self._max_file_bytes = max_file_bytes
        self._max_files = max_files
        self._closed = False
        self._logged = ""
        self._reset(os.getpid())

    @property
    def path(self) -> str | None:
        """The file that is written now; ``None`` before the first export and after :meth:`shutdown`."""
        return self._path

    def write_line(self, line: bytes) -> bool:
        """Write one line; whether that succeeded. It fails after :meth:`shutdown`."""
        if os.getpid() != self._pid:
            # a forked child: the file and the lock are the parent's
            self._reset(os.getpid())
        with self._lock:
            if self._closed:
                return False
            try:
                self._write(line)
            except OSError as error:
                self._log_once(error)
                return False
            self._logged = ""
            return True

    def force_flush(self, timeout_millis: float = 30000) -> bool:
        """Nothing is buffered: always ``True``."""
        return True

    def shutdown(self, timeout_millis: float = 30000, **kwargs: Any) -> None:
        """Close the file; later exports fail."""
        with self._lock:
            self._closed = True
            self._close()

    def _reset(self, pid: int) -> None:
        self._pid = pid
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._path: str | None = None
        self._size = 0
        self._prefix = f"{self._stem}-{_host()}-{pid}." + (
            "" if self.signal is Signal.LOGS else f"{self.signal.value}."
        )

    def _write(self, line: bytes) -> None:
        descriptor = self._descriptor
        if descriptor is not None and os.fstat(descriptor).st_nlink == 0:
            # the file was deleted: what is written to it would be lost
            self._close()
            descriptor = None
        if descriptor is None or (self._size and self._size + len(line) > self._max_file_bytes):
            descriptor = self._open_next()
        try:
            written = os.write(descriptor, line)
        except OSError:
            self._truncate(descriptor)
            raise
        if written != len(line):
            self._truncate(descriptor)
            raise OSError(f"{written} of {len(line)} bytes written to {self._path}; is the disk full?")
        self._size += written

    def _truncate(self, descriptor: int) -> None:
        try:
            os.ftruncate(descriptor, self._size)
        except OSError:
            # a reader would lose what follows the incomplete line: write to another file from here on
            self._close()

    def _open_next(self) -> int:
        _make_private(self._directory)
        numbers = self._numbers()
        number = max(numbers, default=0) + 1
        path = self._path_of(number)
        descriptor = os.open(path, _NEW_FILE, 0o600)
        self._close()
        self._descriptor, self._path, self._size = descriptor, path, 0
        for old in sorted(numbers)[: max(0, len(numbers) + 1 - self._max_files)]:
            try:
                os.unlink(self._path_of(old))
            except FileNotFoundError:
                continue
            except OSError as error:
                self._log_once(error)
        return descriptor

    def _numbers(self) -> list[int]:
        name = re.compile(re.escape(self._prefix) + r"(\d{6,})\.jsonl")
        return [int(found[1]) for entry in os.listdir(self._directory) if (found := name.fullmatch(entry))]

    def _path_of(self, number: int) -> str:
        return os.path.join(self._directory, f"{self._prefix}{number:06d}.jsonl")

    def _close(self) -> None:
        descriptor, self._descriptor, self._path, self._size = self._descriptor, None, None, 0
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError as error:
                self._log_once(error)

    def _log_once(self, error: OSError) -> None:
        text = str(error)
        if text != self._logged:
            self._logged = text
            logger.warning("destination file: cannot write to %s: %s", self._directory, text)


class OtlpJsonFileExporter(OtlpJsonFiles, LogRecordExporter):
    """Log records as ``{"resourceLogs": [...]}`` lines."""

    signal = Signal.LOGS

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Write the batch as one line.

        Returns:
            ``FAILURE`` if the disk did not accept it (retry) or after :meth:`shutdown`.

        Raises:
            ValueError: The batch cannot be encoded; nothing is written.
        """
        written = not batch or self.write_line(to_json_line(encode(self.signal, batch)))
        return LogRecordExportResult.SUCCESS if written else LogRecordExportResult.FAILURE


class OtlpJsonSpanFileExporter(OtlpJsonFiles, SpanExporter):
    """Spans as ``{"resourceSpans": [...]}`` lines."""

    signal = Signal.TRACES

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """As :meth:`OtlpJsonFileExporter.export`."""
        written = not spans or self.write_line(to_json_line(encode(self.signal, spans)))
        return SpanExportResult.SUCCESS if written else SpanExportResult.FAILURE


class OtlpJsonMetricFileExporter(OtlpJsonFiles, MetricExporter):
    """Snapshots, cumulative, as ``{"resourceMetrics": [...]}`` lines."""

    signal = Signal.METRICS

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """As :meth:`OtlpJsonFileExporter.export`."""
        written = not metrics_data.resource_metrics or self.write_line(to_json_line(encode(self.signal, metrics_data)))
        return MetricExportResult.SUCCESS if written else MetricExportResult.FAILURE


EXPORTERS: Final = {
    Signal.LOGS: OtlpJsonFileExporter,
    Signal.TRACES: OtlpJsonSpanFileExporter,
    Signal.METRICS: OtlpJsonMetricFileExporter,
}


def _make_private(directory: str) -> None:
    # os.makedirs gives its mode to the last directory only; a parent that others may enter can be the spool's own.
    if not os.path.isdir(directory):
        parent = os.path.dirname(os.path.abspath(directory))
        if parent != directory:
            _make_private(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", socket.gethostname()) or "localhost"
