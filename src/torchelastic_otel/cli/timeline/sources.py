"""The input of a timeline: files, directories and this node's spools, read into events.

Guarantees: nothing that is read is changed, locked for long or adopted. The format of a file is determined by its
content, not by its name. A path that was named and cannot be read is an error of one line; below a directory it is
reported and skipped. A process counts
as alive if it has its spool's lock, and as exited only if this node can know.
"""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from torchelastic_otel.cli.timeline.labels import count_of
from torchelastic_otel.cli.timeline.lines import SUPPORTED, read_lines
from torchelastic_otel.cli.timeline.otlp import with_sequences
from torchelastic_otel.errors import CommandError, OldSpoolError, SpoolError, SpoolGoneError
from torchelastic_otel.history.caveats import names_of
from torchelastic_otel.history.types import Run
from torchelastic_otel.model.event import Origin, StoredEvent
from torchelastic_otel.processing.stored_events import read_events, read_origin
from torchelastic_otel.spool import adoption, reader
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX, LOCK_SUFFIX, SPOOL_SUFFIX

_SUFFIXES: Final = (SPOOL_SUFFIX, DELIVERED_SUFFIX, ".jsonl", ".json", ".log", ".gz")
_SQLITE: Final = b"SQLite format 3\0"
Report = Callable[[str], object]
"""Receives a line about an input that was skipped."""


@dataclass(frozen=True, slots=True)
class MissingData:
    """A spool that lost its oldest events to retention.

    Attributes:
        process: Its process, for a person.
    """

    process: str
    events: int
    spool: str


@dataclass(slots=True)
class TimelineData:
    """The content of the input.

    Attributes:
        alive: Origin ids of processes that are alive.
        exited: Origin ids of processes that have exited.
        missing: Spools that lost their oldest events, by origin id.
        old: Spools of an older version, which were skipped.
    """

    events: list[StoredEvent] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)
    exited: set[str] = field(default_factory=set)
    missing: dict[str, MissingData] = field(default_factory=dict)
    old: list[Path] = field(default_factory=list)


def read_node(directory: Path, report: Report) -> TimelineData:
    """The spools of this node.

    Raises:
        CommandError: Their directory cannot be listed.
    """
    return read_spools(spools_in(directory), report)


def read_spools(paths: Iterable[Path], report: Report) -> TimelineData:
    """Spools of this node from an earlier listing; some may be delivered or deleted by now."""
    data = TimelineData()
    for path in paths:
        try:
            _read_spool(path, data, local=True)
        except SpoolGoneError:
            continue
        except OldSpoolError:
            data.old.append(path)
        except SpoolError as error:
            report(f"{error}; skipped")
    _report_old(data.old, report)
    return data


def read_paths(paths: Sequence[str], report: Report) -> TimelineData:
    """Everything in the files and directories.

    Args:
        paths: As given; ``-`` is stdin.
        report: Receives a line about each input that was skipped.

    Raises:
        CommandError: One of them cannot be read, or has no supported content.
    """
    data = TimelineData()
    lines: list[StoredEvent] = []
    for name in dict.fromkeys(paths):
        if not name:
            raise CommandError("an empty path is not allowed (an unset shell variable?); name files or directories")
        if name == "-":
            if sys.stdin is None:
                raise CommandError("<stdin>: it is closed")
            lines += read_lines(sys.stdin.buffer.read(), "<stdin>", report)
        elif os.path.isdir(name):  # pathlib raises without permission
            for file in _files_in(name, report):
                try:
                    lines += _read_file(file, data, report)
                except OldSpoolError:
                    data.old.append(file)
                except CommandError as error:
                    report(f"{error}; skipped")
        else:
            try:
                lines += _read_file(Path(name), data, report)
            except OldSpoolError as error:
                raise CommandError(f"{error}; that version can read it") from None
    _report_old(data.old, report)
    if lines:
        data.events += with_sequences(lines)
    return data


def spools_in(directory: Path) -> list[Path]:
    """The spools in a directory, also delivered ones, which are kept as history; none if it does not exist.

    Raises:
        CommandError: It cannot be listed.
    """
    try:
        return sorted(directory / name for name in os.listdir(directory) if _is_spool(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CommandError(_reason(directory, error)) from None


def with_missing_data(run: Run, missing: Mapping[str, MissingData]) -> Run:
    """The run with one more unknown: the oldest events that its spools lost.

    Args:
        run: The run.
        missing: Spools that lost events, by the origin id of their process.
    """
    origins = dict.fromkeys(agent.origin.id for agent in run.agents)
    lost = [missing[origin] for origin in origins if origin in missing]
    if not lost:
        return run
    if len(lost) == 1:
        [one] = lost
        sentence = f"the first {count_of(one.events, 'event')} of {one.process}: deleted to make room in {one.spool}"
    else:
        names = names_of([f"{each.process} ({each.events})" for each in lost])
        sentence = f"the first events of {len(lost)} agents: deleted to make room in their spools: {names}"
    return replace(run, unknown=(*run.unknown, sentence))


def _files_in(directory: str, report: Report) -> list[Path]:
    """The files in a directory and below it that may have events, by their suffixes."""

    def on_error(error: OSError) -> None:
        if error.filename == directory:
            raise CommandError(_reason(directory, error))
        report(f"{_reason(error.filename, error)}; skipped")

    found = [Path(base) / name for base, _, names in os.walk(directory, onerror=on_error) for name in names]
    files = sorted(path for path in found if path.suffix in _SUFFIXES)
    if not files:
        raise CommandError(f"{directory}: nothing to read in this directory; {SUPPORTED}")
    return files


def _is_spool(name: str) -> bool:
    return name.endswith((SPOOL_SUFFIX, DELIVERED_SUFFIX))


def _reason(path: object, error: OSError | ValueError) -> str:
    return f"{path}: {getattr(error, 'strerror', None) or error}"


def _report_old(old: Sequence[Path], report: Report) -> None:
    """All of them in one line: a directory may have a week of them."""
    if len(old) == 1:
        report(f"{old[0]} was written by an older version of torchelastic-otel; skipped")
    elif old:
        report(
            f"{len(old)} spools were written by an older version of torchelastic-otel, the first is {old[0]}; skipped"
        )


def _read_file(path: Path, data: TimelineData, report: Report) -> list[StoredEvent]:
    """Read a file: a spool into ``data``, the events of lines to be numbered together with those of other files."""
    if path.suffix == SPOOL_SUFFIX and not os.path.lexists(path):
        delivered = path.with_suffix(DELIVERED_SUFFIX)
        path = delivered if os.path.lexists(delivered) else path
    try:
        with path.open("rb") as file:
            content = file.read(len(_SQLITE))
            is_spool = content == _SQLITE or _is_spool(path.name)
            if not is_spool:
                content += file.read()
    except (OSError, ValueError) as error:
        raise CommandError(_reason(path, error)) from None
    if not is_spool:
        return read_lines(content, str(path), report)
    try:
        _read_spool(path, data, local=False)
    except OldSpoolError:
        raise
    except SpoolError as error:
        raise CommandError(str(error)) from None
    return []


def _read_spool(path: Path, data: TimelineData, *, local: bool) -> None:
    """Read one spool; nothing if its owner has not written to it yet.

    Args:
        path: Its file.
        data: Receives its content.
        local: Whether it is in this node's spool directory, and was not copied from elsewhere.

    Raises:
        OldSpoolError: An older version wrote it.
        SpoolGoneError: It does not exist.
        SpoolError: It cannot be read.
    """
    try:
        # the lock first: if its owner ends in between, the state is too old, but never too new
        owned = os.path.exists(path.with_suffix(LOCK_SUFFIX)) and adoption.is_owned(path)
        contents = reader.read_spool(path)
    except SpoolError as error:
        if "no such column" in str(error) and isinstance(error.__cause__, sqlite3.OperationalError):
            raise OldSpoolError(f"spool {path} was written by an older version of torchelastic-otel") from error
        if os.path.lexists(path):
            raise
        delivered = path.with_suffix(DELIVERED_SUFFIX)
        if path.suffix == SPOOL_SUFFIX and os.path.lexists(delivered):
            return _read_spool(delivered, data, local=local)
        raise SpoolGoneError(f"{path}: {os.strerror(errno.ENOENT)}") from None
    origin = read_origin(contents)
    if not contents.rows and origin is None:
        return None
    origin = origin or Origin(path.stem, "unknown", 0, 0)
    data.events += [StoredEvent(sequence, event, origin) for sequence, event in read_events(contents)]
    alive = _is_alive(path, origin, owned, local)
    if alive is not None:
        (data.alive if alive else data.exited).add(origin.id)
    first = contents.rows[0].sequence if contents.rows else 1
    if first > 1:
        data.missing[origin.id] = MissingData(f"{origin.host_name} pid {origin.pid}", first - 1, path.name)
    return None


def _is_alive(path: Path, origin: Origin, owned: bool, local: bool) -> bool | None:
    here = origin.host_name == socket.gethostname()
    if owned:
        # another process may have the lock of a dead one's spool, to deliver it
        return not here or not origin.pid or Path(f"/proc/{origin.pid}").exists()
    if path.suffix == DELIVERED_SUFFIX:
        return False
    return False if (local or here) and os.path.exists(path.with_suffix(LOCK_SUFFIX)) else None
