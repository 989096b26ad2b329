"""Recorded event streams, for ``replay`` and ``timeline``.

A line has one of two forms, in any order, plain or gzip: ``{"t": seconds, "dest": destination, "event": event}``, or
torch's own JSON as its ``console`` handler writes it (torch 1.13 to 2.15).

Guarantees: a time is exact to the last digit; a line of neither form is reported with its number and changes nothing
else.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from torchelastic_otel.errors import NotAnEventError, UnreadableError
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.processing.enrichment import AgentContext, enrich
from torchelastic_otel.torch_events.parser import parse
from torchelastic_otel.units import NS_PER_S

_GZIP: Final = b"\x1f\x8b"
_LATEST_S: Final = 9_223_372_036  # OTLP's times are 64 bits of nanoseconds


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """One event of a file.

    Attributes:
        number: Its line, from 1.
        destination: The destination that it was recorded to.
        text: What torch recorded.
        time_ns: Its time, nanoseconds since the epoch; ``None`` if the line has none.
    """

    number: int
    destination: str
    text: str
    time_ns: int | None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not an event.

    Attributes:
        number: The line, from 1.
        why: The reason.
    """

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Capture:
    """One file: the events of one agent.

    Attributes:
        digest: 32 hex digits of its content (decompressed).
        recorded: Its events.
        bad: Its other lines.
        host_name: The host in the events; ``unknown`` if there is none.
        pid: The agent's process id in its rendezvous events; 0 if there is none.
    """

    digest: str
    recorded: tuple[RecordedEvent, ...]
    bad: tuple[BadLine, ...]
    host_name: str
    pid: int

    def events(self, observed_ns: int | None = None) -> tuple[list[ElasticEvent], AgentContext]:
        """The events as an agent would have stored them, and what it knew at the end.

        Args:
            observed_ns: When they are observed, nanoseconds since the epoch; by default at their own times.
        """
        context = AgentContext(restart_count=0)
        events = []
        for each in self.recorded:
            seen_ns = (each.time_ns or 0) if observed_ns is None else observed_ns
            event = parse(each.text, each.destination, time_ns=each.time_ns, observed_ns=seen_ns)
            context, event = enrich(context, event)
            events.append(event)
        return events, context


def read(data: bytes) -> Capture:
    """The events of a file's content.

    Raises:
        UnreadableError: It begins like gzip and is damaged.
    """
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UnreadableError(f"damaged gzip: {error}") from error
    recorded, bad = [], []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            recorded.append(_event(number, line.decode("utf-8").strip()))
        except UnicodeDecodeError:
            bad.append(BadLine(number, "not UTF-8"))
        except (ValueError, RecursionError) as error:
            bad.append(BadLine(number, str(error) if isinstance(error, NotAnEventError) else "not JSON"))
    host_name, pid = _find_origin(recorded)
    return Capture(hashlib.sha256(data).hexdigest()[:32], tuple(recorded), tuple(bad), host_name, pid)


def _event(number: int, line: str) -> RecordedEvent:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise NotAnEventError("JSON, but not an event")
    if "event" in found and "t" in found:
        event, destination = found["event"], found.get("dest", "null")
        if not isinstance(event, (dict, str)) or not isinstance(destination, str):
            raise NotAnEventError('JSON, but not a capture: "event" is the event, "dest" the name of its destination')
        text = event if isinstance(event, str) else json.dumps(event)
        return RecordedEvent(number, destination, text, _nanoseconds(line))
    if isinstance(found.get("node_state"), str) and isinstance(found.get("message"), str):
        return RecordedEvent(number, "dynamic_rendezvous", line, None)
    if isinstance(found.get("source"), str) and isinstance(found.get("name"), str):
        return RecordedEvent(number, "console", line, None)
    raise NotAnEventError("JSON, but not one of torch's events")


def _nanoseconds(line: str) -> int | None:
    """The time of a line from its decimal text: a float is exact to about 240 ns only."""
    seconds: Any = json.loads(line, parse_float=Decimal)["t"]
    if seconds is None:
        return None
    if not isinstance(seconds, (int, Decimal)) or isinstance(seconds, bool) or not 0 <= seconds < _LATEST_S:
        raise NotAnEventError('JSON, but not a capture: "t" is seconds since the epoch')
    whole = int(seconds)
    return whole * NS_PER_S + int((Decimal(seconds) - whole) * NS_PER_S)


def _find_origin(recorded: Iterable[RecordedEvent]) -> tuple[str, int]:
    """The most frequent host and pid: agents' events have the host, rendezvous events the pid as well."""
    hosts: Counter[str] = Counter()
    pids: Counter[int] = Counter()
    for each in recorded:
        try:
            event = json.loads(each.text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(event, dict):
            continue
        metadata = event.get("metadata")
        host = metadata.get("hostname") if isinstance(metadata, dict) else event.get("hostname")
        if isinstance(host, str) and host:
            hosts[host] += 1
        pid = event.get("pid")
        if isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 1 << 31:
            pids[pid] += 1
    return (hosts.most_common(1) or [("unknown", 0)])[0][0], (pids.most_common(1) or [(0, 0)])[0][0]
