"""The ``file`` exporters: OTLP JSON lines in size-bounded files, as a Collector's ``file`` exporter writes them.

What always holds:

- A line is written whole by one write and stands in one file; a write that came up short is taken back.
- A file belongs to one process and signal: ``<stem>-<host>-<pid>.<number>.jsonl`` for logs, with ``traces.`` or
  ``metrics.`` before the number for the others; created new, mode 0600, never through a symbolic link. What a killed
  process tore stays at the end of its own file.
- When a line would make the file larger than ``max_file_bytes``, the next file begins. A line that is larger alone
  gets a file of its own.
- Of the files with this process's name only the newest ``max_files`` stay; THE OLDEST IS DELETED. A process that has
  the host name and pid of an earlier one (containers) takes over its count.
- No fault of the disk is raised: the batch is answered with ``FAILURE`` and nothing of it stays written.

Not promised: that what was written survives a power loss (no fsync), and that files of other processes are ever
deleted: a directory that many jobs share needs its own cleaning.
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

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from torchelastic_otel.export.otel.otlp_json import encode_line, to_json_line
from torchelastic_otel.model.signals import Signal

logger = logging.getLogger("torchelastic_otel")

MIB = 1024 * 1024
_NEW_FILE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class OtlpJsonFiles:
    """Lines in files; these are opened at the first line, not before."""

    infix: ClassVar[str] = ""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        stem: str = "torchelastic",
        max_file_bytes: int = 100 * MIB,
        max_files: int = 10,
    ) -> None:
        """Nothing is touched on the disk yet.

        Args:
            directory: Where the files go; created with its parents, mode 0700. One that exists keeps its mode.
            stem: How file names begin; host name and pid are added.
            max_file_bytes: Size of a file, bytes, at least 1.
            max_files: How many files of this process stay, at least 1.

        Raises:
            ValueError: A bound is below 1, or the stem is empty or contains a path separator.
        """
        super().__init__()  # an exporter's, which comes after this class
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
        self._said = ""
        self._begin(os.getpid())

    @property
    def path(self) -> str | None:
        """The file that is written now; ``None`` before the first export and after :meth:`shutdown`."""
        return self._path

    def write_line(self, line: bytes) -> bool:
        """Write one line; whether the disk took it. Never, after :meth:`shutdown`."""
        if os.getpid() != self._pid:
            # A forked child: the parent's file and lock are the parent's.
            self._begin(os.getpid())
        with self._lock:
            if self._closed:
                return False
            try:
                self._write(line)
            except OSError as error:
                self._say(error)
                return False
            self._said = ""
            return True

    def force_flush(self, timeout_millis: float = 30000) -> bool:
        """Nothing is held back: always ``True``."""
        return True

    def shutdown(self, timeout_millis: float = 30000, **kwargs: Any) -> None:
        """Close the file; what is exported later is answered with ``FAILURE``."""
        with self._lock:
            self._closed = True
            self._close()

    def _begin(self, pid: int) -> None:
        self._pid = pid
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._path: str | None = None
        self._size = 0
        self._prefix = f"{self._stem}-{_host()}-{pid}.{self.infix}"

    def _write(self, line: bytes) -> None:
        descriptor = self._descriptor
        if descriptor is not None and os.fstat(descriptor).st_nlink == 0:
            # Someone deleted or cleaned away the file: what goes there would be lost.
            self._close()
            descriptor = None
        if descriptor is None or (self._size and self._size + len(line) > self._max_file_bytes):
            descriptor = self._open_next()
        try:
            written = os.write(descriptor, line)
        except OSError:
            self._take_back(descriptor)
            raise
        if written != len(line):
            self._take_back(descriptor)
            raise OSError(f"{written} of {len(line)} bytes written to {self._path}; is the disk full?")
        self._size += written

    def _take_back(self, descriptor: int) -> None:
        try:
            os.ftruncate(descriptor, self._size)
        except OSError:
            # What stands after the torn line would be lost with it: leave this file alone from here on.
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
                self._say(error)
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
                self._say(error)

    def _say(self, error: OSError) -> None:
        said = str(error)
        if said != self._said:
            self._said = said
            logger.warning("destination file: cannot write to %s: %s", self._directory, said)


class OtlpJsonFileExporter(OtlpJsonFiles, LogRecordExporter):
    """Log records as ``{"resourceLogs": [...]}`` lines."""

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Write the batch as one line.

        Returns:
            ``FAILURE`` when the disk did not take it (try again) or after :meth:`shutdown`.

        Raises:
            ValueError: The batch cannot be encoded; nothing is written.
        """
        kept = not batch or self.write_line(encode_line(batch))
        return LogRecordExportResult.SUCCESS if kept else LogRecordExportResult.FAILURE


class OtlpJsonSpanFileExporter(OtlpJsonFiles, SpanExporter):
    """Spans as ``{"resourceSpans": [...]}`` lines."""

    infix = "traces."

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """As :meth:`OtlpJsonFileExporter.export`."""
        kept = not spans or self.write_line(to_json_line(encode_spans(spans)))
        return SpanExportResult.SUCCESS if kept else SpanExportResult.FAILURE


class OtlpJsonMetricFileExporter(OtlpJsonFiles, MetricExporter):
    """Snapshots, cumulative, as ``{"resourceMetrics": [...]}`` lines."""

    infix = "metrics."

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """As :meth:`OtlpJsonFileExporter.export`."""
        kept = not metrics_data.resource_metrics or self.write_line(to_json_line(encode_metrics(metrics_data)))
        return MetricExportResult.SUCCESS if kept else MetricExportResult.FAILURE


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
