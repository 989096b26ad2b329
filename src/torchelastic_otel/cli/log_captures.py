"""Recorded event streams to the texts that torch recorded, with their times: for ``replay``.

Two forms of a line, in any order, plain or gzip: ``{"t": seconds, "dest": destination, "event": event}``, and
torch's own JSON as its ``console`` handler writes it (torch 1.13 to 2.15). What always holds: a time is exact to
the last digit written; a line that is neither form is told with its number and changes nothing else.
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
from torchelastic_otel.units import NS_PER_S

_GZIP: Final = b"\x1f\x8b"
_LATEST_S: Final = 9_223_372_036  # OTLP's times are 64 bits of nanoseconds


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event of a file.

    Attributes:
        number: Its line, from 1.
        destination: The destination it was recorded to.
        text: What torch recorded.
        time_ns: When, nanoseconds since the epoch; ``None`` where the line does not say.
    """

    number: int
    destination: str
    text: str
    time_ns: int | None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that holds no event.

    Attributes:
        number: The line, from 1.
        why: What is wrong with it.
    """

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Capture:
    """One file: the events of one agent.

    Attributes:
        digest: 32 hex digits of its content (decompressed); the same content, the same digest.
        recorded: Its events.
        bad: Its other lines.
        host_name: The host that the events name; ``unknown`` where none does.
        pid: The agent's process id that its rendezvous events name; 0 where none does.
    """

    digest: str
    recorded: tuple[Recorded, ...]
    bad: tuple[BadLine, ...]
    host_name: str
    pid: int


def read(data: bytes) -> Capture:
    """The events of a file's content.

    Raises:
        UnreadableError: It begins as gzip and is none.
    """
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UnreadableError(f"begins as gzip and is damaged: {error}") from error
    recorded, bad = [], []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            recorded.append(_event(number, line.decode("utf-8").strip()))
        except UnicodeDecodeError:
            bad.append(BadLine(number, "no UTF-8"))
        except (ValueError, RecursionError) as error:
            bad.append(BadLine(number, str(error) if isinstance(error, NotAnEventError) else "no JSON"))
    host_name, pid = _whose(recorded)
    return Capture(hashlib.sha256(data).hexdigest()[:32], tuple(recorded), tuple(bad), host_name, pid)


def _event(number: int, line: str) -> Recorded:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise NotAnEventError("JSON, and no event")
    if "event" in found and "t" in found:
        event, destination = found["event"], found.get("dest", "null")
        if not isinstance(event, (dict, str)) or not isinstance(destination, str):
            raise NotAnEventError('JSON, and no capture: "event" is the event, "dest" the name of its destination')
        text = event if isinstance(event, str) else json.dumps(event)
        return Recorded(number, destination, text, _nanoseconds(line))
    if isinstance(found.get("node_state"), str) and isinstance(found.get("message"), str):
        return Recorded(number, "dynamic_rendezvous", line, None)
    if isinstance(found.get("source"), str) and isinstance(found.get("name"), str):
        return Recorded(number, "console", line, None)
    raise NotAnEventError("JSON, and no event of torch's")


def _nanoseconds(line: str) -> int | None:
    """The time of a line from its decimal text: a float holds an epoch to about 240 ns only."""
    seconds: Any = json.loads(line, parse_float=Decimal)["t"]
    if seconds is None:
        return None
    if not isinstance(seconds, (int, Decimal)) or isinstance(seconds, bool) or not 0 <= seconds < _LATEST_S:
        raise NotAnEventError('JSON, and no capture: "t" is seconds since the epoch')
    whole = int(seconds)
    return whole * NS_PER_S + int((Decimal(seconds) - whole) * NS_PER_S)


def _whose(recorded: Iterable[Recorded]) -> tuple[str, int]:
    """The host and the pid that the events name most; agents tell the host, rendezvous events the pid as well."""
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
