"""What a timeline is told from: paths to events, whatever they hold.

What always holds: nothing that is read is changed; a file is told by its content, not by its name; a path that cannot
be read, or holds nothing of ours, is an error of one line; a bad line in a good file is named and passed over.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torchelastic_otel.cli import captures
from torchelastic_otel.cli.command import CommandError
from torchelastic_otel.cli.timeline.otlp import deliveries_of, is_request
from torchelastic_otel.cli.timeline.spools import read_spool, spools_in
from torchelastic_otel.model.event import Delivery, Origin
from torchelastic_otel.model.normalise import normalise
from torchelastic_otel.model.standing import Standing, enrich
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX, SPOOL_SUFFIX
from torchelastic_otel.spool.faults import SpoolError

_SQLITE: Final = b"SQLite format 3\0"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SUFFIXES: Final = (SPOOL_SUFFIX, DELIVERED_SUFFIX, ".jsonl", ".json", ".log", ".gz")
_KNOWN: Final = (
    "allowed are spools, OTLP JSON lines, captures and torch's JSON lines, plain or gzip, and directories of those"
)
_MAX_NAMED: Final = 5


@dataclass(slots=True)
class Told:
    """What the paths hold.

    Attributes:
        deliveries: The events.
        living: Origin ids of processes that live.
        gone: Origin ids of processes that are gone.
        notes: What is known to be missing, by origin id.
        read: How many files were read.
    """

    deliveries: list[Delivery] = field(default_factory=list)
    living: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    read: int = 0


def read_node(directory: Path, say: Callable[[str], object]) -> Told:
    """The spools of this node."""
    told = Told()
    for path in spools_in(directory):
        try:
            _take_spool(path, told, ours=True)
        except FileNotFoundError:
            continue  # retired in this moment
        except SpoolError as error:
            say(f"{error}; left out")
    return told


def read_paths(paths: Sequence[str], say: Callable[[str], object]) -> Told:
    """Everything in the files and directories.

    Args:
        paths: As given; ``-`` is stdin.
        say: Takes what there is to say of what was passed over.

    Raises:
        CommandError: One of them cannot be read, or holds nothing that is known.
    """
    told = Told()
    for name in dict.fromkeys(paths):
        path = Path(name)
        if name == "-":
            _take_data(sys.stdin.buffer.read(), "<stdin>", told, say)
        elif path.is_dir():
            files = _files(path)
            if not files:
                raise CommandError(f"{name}: nothing to read in this directory; {_KNOWN}")
            for file in files:
                try:
                    _take_file(file, told, say)
                except CommandError as error:
                    say(f"{error}; left out")
        else:
            _take_file(path, told, say)
    return told


def _files(directory: Path) -> list[Path]:
    found = [Path(base) / name for base, _, names in os.walk(directory) for name in names]
    return sorted(path for path in found if path.suffix in _SUFFIXES)


def _take_file(path: Path, told: Told, say: Callable[[str], object]) -> None:
    try:
        with path.open("rb") as file:
            data = file.read(len(_SQLITE))
            if data != _SQLITE and path.suffix not in (SPOOL_SUFFIX, DELIVERED_SUFFIX):
                data += file.read()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}") from None
    if data.startswith(_SQLITE) or path.suffix in (SPOOL_SUFFIX, DELIVERED_SUFFIX):
        try:
            _take_spool(path, told, ours=False)
        except SpoolError as error:
            raise CommandError(str(error)) from None
    else:
        _take_data(data, str(path), told, say)


def _take_spool(path: Path, told: Told, *, ours: bool) -> None:
    spool = read_spool(path, ours)
    told.read += 1
    if spool is None:
        return
    told.deliveries += spool.deliveries
    if spool.alive is not None:
        (told.living if spool.alive else told.gone).add(spool.origin_id)
    if spool.notes:
        told.notes[spool.origin_id] = spool.notes


def _take_data(data: bytes, shown: str, told: Told, say: Callable[[str], object]) -> None:
    told.read += 1
    if data.startswith(_ZSTD):
        raise CommandError(f"{shown}: packed with zstd; unpack it first: zstd -d {shown}")
    data = _unpacked(data, shown, say)
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
            told.deliveries += deliveries_of(request, i + 1)
            lines[i] = b""  # an empty line, so that the others keep their numbers
            requests += 1
    capture = captures.read(b"\n".join(lines) if requests else data)
    if not requests and not capture.recorded and capture.bad:
        raise CommandError(
            f"{shown}: nothing that is known (line {capture.bad[0].number}: {capture.bad[0].why}); {_KNOWN}"
        )
    for bad in capture.bad[:_MAX_NAMED]:
        say(f"{shown}:{bad.number}: {bad.why}; skipped")
    if len(capture.bad) > _MAX_NAMED:
        say(f"{shown}: {len(capture.bad) - _MAX_NAMED} more such lines")
    told.deliveries += _recorded(capture)


def _unpacked(data: bytes, shown: str, say: Callable[[str], object]) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        pass  # torn by a kill, or still being written: what is whole counts
    whole = bytearray()
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    while data:
        try:
            whole += unpacker.decompress(data)
        except zlib.error:
            break
        data = unpacker.unused_data
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    say(f"{shown}: the gzip stream is damaged or torn; what came before is read")
    return bytes(whole)


def _recorded(capture: captures.Capture) -> list[Delivery]:
    """A recording's events, as capture would have kept them."""
    times = [each.time_ns for each in capture.recorded if each.time_ns is not None]
    host_name = socket.gethostname() if capture.host_name == "" else capture.host_name
    origin = Origin(capture.digest, host_name, capture.pid, min(times, default=0))
    standing = Standing(restart_count=0)
    deliveries = []
    for sequence, each in enumerate(capture.recorded, 1):
        event = normalise(each.text, each.destination, time_ns=each.time_ns, observed_ns=each.time_ns or 0)
        standing, event = enrich(standing, event)
        deliveries.append(Delivery(sequence, event, origin))
    return deliveries
