"""Files of OTLP JSON lines, written and read as their consumers do."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, cast

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import ReadableLogRecord

from torchelastic_otel.export.otel.otlp_json import from_json, to_json_line

_GZIP_MAGIC = b"\x1f\x8b"


def encode_line(batch: Sequence[ReadableLogRecord]) -> bytes:
    """One ``{"resourceLogs": [...]}`` line, line feed included."""
    return to_json_line(encode_logs(batch))


def read_lines(path: str | os.PathLike[str]) -> Iterator[ExportLogsServiceRequest]:
    """The log requests of a file, one for each line; plain or gzip, told apart by content.

    An empty line is skipped. A last line without its line feed that does not parse was torn by a kill and is left
    out, as is the torn end of a gzip stream.

    Raises:
        ValueError: Any other line is not a log request; the text names file and line.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as raw:
        zipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if zipped else raw
        for number, line in enumerate(_lines(stream), start=1):
            if not line.strip():
                continue
            try:
                yield from_json(line, ExportLogsServiceRequest())
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise ValueError(f"{os.fspath(path)}:{number}: {error}") from error


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from stream
    except (EOFError, zlib.error):
        return
