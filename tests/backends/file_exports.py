"""What agents wrote to files, OTLP JSON lines of the destination ``file``, read without any code of ours.

Nothing is filtered: duplicates appear twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOGS = ("Log", "scopeLogs", "logRecords")
SPANS = ("Span", "scopeSpans", "spans")


@dataclass(frozen=True)
class Written:
    """One log record or span as an agent wrote it to its file.

    Attributes:
        name: The event's or the span's name.
        time_ns: When it happened, or began.
        attributes: Its attributes, by plain values.
        resource: Its resource's attributes.
        trace_id: 32 hex digits; empty for none.
        span_id: 16 hex digits; empty for none.
        parent_id: Of a span: 16 hex digits; empty for a root and for a record.
        body: A record's body.
        failed: Whether a span says that it failed.
    """

    name: str
    time_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    trace_id: str
    span_id: str
    parent_id: str = ""
    body: str = ""
    failed: bool = False

    @property
    def uid(self) -> str:
        """A record's ``log.record.uid``."""
        return str(self.attributes["log.record.uid"])


def written(files: Sequence[Path], kind: str, scopes: str, items: str) -> Iterator[Written]:
    """What is in files of OTLP JSON lines, of one kind (``Log`` or ``Span``), in their order."""
    for path in files:
        # one that is being written may end in half a line
        for line in path.read_text().rpartition("\n")[0].splitlines():
            for group in json.loads(line).get(f"resource{kind}s", []):
                resource = plain(group["resource"].get("attributes", []))
                for scope in group[scopes]:
                    for item in scope[items]:
                        yield Written(
                            item.get("eventName") or item.get("name", ""),
                            int(item.get("timeUnixNano") or item["startTimeUnixNano"]),
                            plain(item.get("attributes", [])),
                            resource,
                            item.get("traceId", ""),
                            item.get("spanId", ""),
                            item.get("parentSpanId", ""),
                            str(item.get("body", {}).get("stringValue", "")),
                            item.get("status", {}).get("code") == 2,
                        )


def plain(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """OTLP JSON's attributes as a dictionary; whole numbers come as text there."""

    def value(said: dict[str, Any]) -> Any:
        ((kind, what),) = said.items()
        if kind == "arrayValue":
            return [value(each) for each in what.get("values", [])]
        return int(what) if kind == "intValue" else what

    return {pair["key"]: value(pair["value"]) for pair in pairs}
