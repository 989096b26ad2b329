"""OTLP in JSON, the form that an OpenTelemetry Collector's ``file`` exporter writes and OTLP/HTTP accepts.

Guarantees (OTLP specification 1.x, "JSON Protobuf Encoding"): keys are lowerCamelCase, trace and span ids are
hex, 64-bit integers are strings, enum values are integers, an unset field is left out; one request is one line of
UTF-8 that contains no line feed. Decoding ignores unknown fields of a newer sender.

Not guaranteed: the order of keys. Ids in protobuf's own base64 are not OTLP and are an error.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf import json_format  # type: ignore[import-untyped]  # protobuf ships no types

_ID_FIELDS = frozenset({"traceId", "spanId", "parentSpanId"})

Message = TypeVar("Message")


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
