"""What a timeline is told from: paths to events, whatever they hold.

What always holds: nothing that is read is changed; a file is told by its content, not by its name; a path that cannot
be read, or holds nothing of ours, is an error of one line; a bad line in a good file is named and passed over.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torchelastic_otel.cli import log_captures
from torchelastic_otel.cli.timeline.files import KNOWN, files_in, is_spool, spools_in, unpacked, why
from torchelastic_otel.cli.timeline.otlp import deliveries_of, is_request, numbered
from torchelastic_otel.cli.timeline.recordings import mixed, recorded
from torchelastic_otel.cli.timeline.spools import MissingData, read_spool
from torchelastic_otel.errors import CommandError, OldSpoolError, SpoolError, SpoolGoneError, UnreadableError
from torchelastic_otel.history.ranges import named
from torchelastic_otel.model.event import StoredEvent
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX, SPOOL_SUFFIX

_SQLITE: Final = b"SQLite format 3\0"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MAX_NAMED: Final = 5


@dataclass(slots=True)
class TimelineData:
    """What the paths hold.

    Attributes:
        deliveries: The events.
        living: Origin ids of processes that live.
        gone: Origin ids of processes that are gone.
        short: Spools that lost their oldest events, by origin id.
        old: Spools that an older version wrote; they are left out.
    """

    deliveries: list[StoredEvent] = field(default_factory=list)
    living: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    short: dict[str, MissingData] = field(default_factory=dict)
    old: list[Path] = field(default_factory=list)


def read_node(directory: Path, say: Callable[[str], object]) -> TimelineData:
    """The spools of this node.

    Raises:
        CommandError: Their folder cannot be looked into.
    """
    return read_spools(spools_in(directory), say)


def read_spools(paths: Iterable[Path], say: Callable[[str], object]) -> TimelineData:
    """Spools of this node, by a listing of a moment ago: some may be retired by now."""
    told = TimelineData()
    for path in paths:
        try:
            _take_spool(path, told, ours=True)
        except SpoolGoneError:
            continue  # its time as history was over
        except OldSpoolError:
            told.old.append(path)
        except SpoolError as error:
            say(f"{error}; left out")
    _say_old(told.old, say)
    return told


def read_paths(paths: Sequence[str], say: Callable[[str], object]) -> TimelineData:
    """Everything in the files and directories.

    Args:
        paths: As given; ``-`` is stdin.
        say: Takes what there is to say of what was passed over.

    Raises:
        CommandError: One of them cannot be read, or holds nothing that is known.
    """
    told = TimelineData()
    for name in dict.fromkeys(paths):
        if not name:
            raise CommandError(
                "an empty name is no path (a shell variable that is not set?); name files or directories"
            )
        if name == "-":
            _take_data(_stdin(), "<stdin>", told, say)
        elif os.path.isdir(name):  # a pathlib path would raise where one may not look
            for file in files_in(name, say):
                try:
                    _take_file(file, told, say)
                except OldSpoolError:
                    told.old.append(file)
                except CommandError as error:
                    say(f"{error}; left out")
        else:
            try:
                _take_file(Path(name), told, say)
            except OldSpoolError as error:
                raise CommandError(f"{error}; that version can read it") from None
    _say_old(told.old, say)
    told.deliveries = numbered(told.deliveries)
    return told


def _say_old(old: Sequence[Path], say: Callable[[str], object]) -> None:
    """All of them in one line: a folder may hold a week of them."""
    if len(old) == 1:
        say(f"{old[0]} was written by an older version of torchelastic-otel; left out")
    elif old:
        say(f"{len(old)} spools were written by an older version of torchelastic-otel, the first is {old[0]}; left out")


def _stdin() -> bytes:
    if sys.stdin is None:
        raise CommandError("<stdin>: it is closed")
    return sys.stdin.buffer.read()


def _take_file(path: Path, told: TimelineData, say: Callable[[str], object]) -> None:
    if path.suffix == SPOOL_SUFFIX and not os.path.lexists(path):
        retired = path.with_suffix(DELIVERED_SUFFIX)
        path = retired if os.path.lexists(retired) else path
    try:
        with path.open("rb") as file:
            data = file.read(len(_SQLITE))
            if data != _SQLITE and not is_spool(path.name):
                data += file.read()
    except (OSError, ValueError) as error:
        raise CommandError(why(path, error)) from None
    if data != _SQLITE and not is_spool(path.name):
        _take_data(data, str(path), told, say)
        return
    try:
        _take_spool(path, told, ours=False)
    except OldSpoolError:
        raise
    except SpoolError as error:
        raise CommandError(str(error)) from None


def _take_spool(path: Path, told: TimelineData, *, ours: bool) -> None:
    spool = read_spool(path, ours)
    if spool is None:
        return
    told.deliveries += spool.deliveries
    if spool.alive is not None:
        (told.living if spool.alive else told.gone).add(spool.origin_id)
    if spool.short is not None:
        told.short[spool.origin_id] = spool.short


def _take_data(data: bytes, shown: str, told: TimelineData, say: Callable[[str], object]) -> None:
    if data.startswith(_ZSTD):
        raise CommandError(f"{shown}: packed with zstd; unpack it first: zstd -d {shown}")
    data = unpacked(data, shown, say)
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
            told.deliveries += deliveries_of(request)
            lines[i] = b""  # an empty line, so that the others keep their numbers
            requests += 1
    try:
        capture = log_captures.read(b"\n".join(lines) if requests else data)
    except UnreadableError as error:
        raise CommandError(f"{shown}: packed twice, and {error}") from None
    if not requests and not capture.recorded and capture.bad:
        raise CommandError(
            f"{shown}: nothing that is known (line {capture.bad[0].number}: {capture.bad[0].why}); {KNOWN}"
        )
    for bad in capture.bad[:_MAX_NAMED]:
        say(f"{shown}:{bad.number}: {bad.why}; skipped")
    if len(capture.bad) > _MAX_NAMED:
        say(f"{shown}: {len(capture.bad) - _MAX_NAMED} more such lines")
    told.deliveries += recorded(capture)
    agents = mixed(capture)
    if agents:
        names = named(agents, _MAX_NAMED)
        say(f"{shown}: several agents' lines are mixed ({names}); give one file for each agent, or the story is wrong")
