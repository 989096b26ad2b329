"""OTLP in JSON, the form that an OpenTelemetry Collector's ``file`` exporter writes and OTLP/HTTP accepts.

What always holds (OTLP specification 1.x, "JSON Protobuf Encoding"): keys are lowerCamelCase, trace and span ids are
hex, 64-bit integers are strings, enum values are integers, an unset field is left out; one request is one line of
UTF-8 that contains no line feed. Decoding also takes what a newer sender adds and we do not know.

Not promised: the order of keys. A file with the ids in protobuf's own base64 is not OTLP and is refused.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, TypeVar, cast

from google.protobuf import json_format  # type: ignore[import-untyped]  # protobuf ships no types
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import ReadableLogRecord

_ID_FIELDS = frozenset({"traceId", "spanId", "parentSpanId"})
_GZIP_MAGIC = b"\x1f\x8b"

Message = TypeVar("Message")


def encode_line(batch: Sequence[ReadableLogRecord]) -> bytes:
    """One ``{"resourceLogs": [...]}`` line, line feed included.

    Args:
        batch: Log records, grouped by resource and scope in the order in which those first appear.

    Raises:
        ValueError: A string is not valid Unicode (a lone surrogate).
        Exception: Whatever OpenTelemetry's encoder raises on a value that OTLP cannot carry.
    """
    return to_json_line(encode_logs(batch))


def to_json_line(message: Any) -> bytes:
    """Any OTLP request (logs, traces, metrics) as one line of JSON, line feed included."""
    tree = json_format.MessageToDict(message, use_integers_for_enums=True)
    text = json.dumps(_with_ids(tree, _base64_to_hex), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n"


def from_json(text: str | bytes, message: Message) -> Message:
    """Fill an empty OTLP request from its JSON.

    Args:
        text: One JSON object.
        message: The empty request (protobuf) to fill, for example ``ExportLogsServiceRequest()``.

    Returns:
        The same message.

    Raises:
        ValueError: It is not JSON, or not such a request.
    """
    try:
        tree = json.loads(text)
        if not isinstance(tree, dict):
            raise ValueError(f"not an OTLP JSON request: an object was expected, not {type(tree).__name__}")
        json_format.ParseDict(_with_ids(tree, _hex_to_base64), message, ignore_unknown_fields=True)
    except (json_format.ParseError, RecursionError) as error:
        raise ValueError(f"not an OTLP JSON request: {error}") from error
    return message


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


def _with_ids(node: Any, convert: Callable[[str], str]) -> Any:
    # Attribute names are values of "key", never keys themselves: a field name found here is the field.
    if isinstance(node, dict):
        return {
            key: convert(value) if key in _ID_FIELDS and isinstance(value, str) else _with_ids(value, convert)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_with_ids(item, convert) for item in node]
    return node


def _base64_to_hex(value: str) -> str:
    return base64.b64decode(value).hex()


def _hex_to_base64(value: str) -> str:
    try:
        return base64.b64encode(binascii.unhexlify(value)).decode()
    except ValueError as error:
        raise ValueError(f"not an OTLP id in hex: {value[:40]!r}") from error
