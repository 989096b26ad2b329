"""Files of JSON lines to events: OTLP requests, captures and torch's own JSON, plain or gzip, in any mixture.

Guarantees: a damaged gzip stream is read up to the damage; a bad line is reported and skipped. A file of captures or of
torch's own lines is one agent's; a file with the lines of several agents is reported, since no line
identifies its agent reliably.
"""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from torchelastic_otel.cli import log_captures
from torchelastic_otel.cli.log_captures import Capture, RecordedEvent
from torchelastic_otel.cli.timeline.otlp import events_in, is_request
from torchelastic_otel.errors import CommandError, UnreadableError
from torchelastic_otel.history.caveats import names_of
from torchelastic_otel.model.event import Origin, StoredEvent

SUPPORTED: Final = (
    "allowed are spools, OTLP JSON lines, captures and torch's JSON lines, plain or gzip, and directories of those"
)
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_CHUNK: Final = 4_096
"""Bytes decompressed at once in a damaged stream: so many before the damage may be lost."""
_MAX_REPORTED: Final = 5


def read_lines(data: bytes, name: str, report: Callable[[str], object]) -> list[StoredEvent]:
    """The events in a file.

    Args:
        data: Its content.
        name: Its name for a person.
        report: Receives a line about what was skipped.

    Raises:
        CommandError: It has no supported content.
    """
    if data.startswith(_ZSTD):
        raise CommandError(f"{name}: compressed with zstd; decompress it first: zstd -d {name}")
    data = _decompress(data, name, report)
    events: list[StoredEvent] = []
    lines = data.split(b"\n")
    requests = 0
    for i, line in enumerate(lines):
        if b'"resource' not in line:
            continue
        try:
            request: Any = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if is_request(request):
            events += events_in(request)
            lines[i] = b""  # an empty line preserves the numbers of the others
            requests += 1
    try:
        capture = log_captures.read(b"\n".join(lines) if requests else data)
    except UnreadableError as error:
        raise CommandError(f"{name}: compressed twice: {error}") from None
    if not requests and not capture.recorded and capture.bad:
        raise CommandError(
            f"{name}: no supported content (line {capture.bad[0].number}: {capture.bad[0].why}); {SUPPORTED}"
        )
    for bad in capture.bad[:_MAX_REPORTED]:
        report(f"{name}:{bad.number}: {bad.why}; skipped")
    if len(capture.bad) > _MAX_REPORTED:
        report(f"{name}: {len(capture.bad) - _MAX_REPORTED} more such lines")
    agents = _mixed_agents(capture)
    if agents:
        names = names_of(agents, _MAX_REPORTED)
        report(
            f"{name}: the lines of several agents are mixed ({names}); give one file for each agent, otherwise the"
            " timeline is wrong"
        )
    return events + _recorded_events(capture)


def _decompress(data: bytes, name: str, report: Callable[[str], object]) -> bytes:
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        pass  # cut off by a kill, or still being written
    intact = bytearray()
    while data:
        inflate, at = zlib.decompressobj(zlib.MAX_WBITS | 16), 0
        try:
            while at < len(data) and not inflate.eof:
                intact += inflate.decompress(data[at : at + _CHUNK])
                at += _CHUNK
        except zlib.error:
            break
        data = inflate.unused_data + data[at:]
    if not intact:
        raise CommandError(f"{name}: begins as gzip, but nothing of it can be decompressed")
    report(f"{name}: the gzip stream is damaged or incomplete; only the part before that is read")
    return bytes(intact)


def _recorded_events(capture: Capture) -> list[StoredEvent]:
    times = [each.time_ns for each in capture.recorded if each.time_ns is not None]
    host_name = socket.gethostname() if capture.host_name == "" else capture.host_name
    origin = Origin(capture.digest, host_name, capture.pid, min(times, default=0))
    return [StoredEvent(sequence, event, origin) for sequence, event in enumerate(capture.events()[0], 1)]


@dataclass(frozen=True, slots=True)
class _Writer:
    """The agent that a line names as its writer.

    Attributes:
        kind: The kind of line; each writes the host's name in its own way.
        detail: What else distinguishes the agent.
    """

    kind: str
    host: str
    detail: str


def _mixed_agents(capture: Capture) -> tuple[str, ...]:
    """The agents whose lines are mixed in a recording; none if it is one agent's.

    Agents that ran one after the other on one host are not mixed: a job's log continues with the next job's lines.
    Agents of several hosts are, in any order, since a recording has one host.
    """
    kinds: dict[str, list[_Writer]] = {}
    for each in capture.recorded:
        writer = _writer(each)
        if writer is not None:
            writers = kinds.setdefault(writer.kind, [])
            if writers[-1:] != [writer]:
                writers.append(writer)
    for writers in kinds.values():
        if len({writer.host for writer in writers}) > 1 or len(set(writers)) < len(writers):
            return tuple(f"{writer.host} {writer.detail}".rstrip() for writer in dict.fromkeys(writers))
    return ()


def _writer(each: RecordedEvent) -> _Writer | None:
    try:
        event = json.loads(each.text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    if isinstance(event.get("hostname"), str):
        return _Writer("rendezvous", event["hostname"], f"pid {event.get('pid')}")
    metadata = event.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("hostname"), str):
        return None
    if metadata.get("rdzv_backend") != "static":
        return _Writer("agent", metadata["hostname"], "")  # its rank changes from round to round
    rank = metadata.get("group_rank")
    return None if rank is None else _Writer("agent", metadata["hostname"], f"node {rank} of {metadata.get('run_id')}")
