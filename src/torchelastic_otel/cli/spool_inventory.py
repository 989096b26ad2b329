"""The files of the spool directory, for ``flush`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torchelastic_otel.cli.command import process_label
from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export.destinations import EPHEMERAL_EXPORTERS
from torchelastic_otel.processing.stored_events import read_origin, run_id_of
from torchelastic_otel.spool import adoption
from torchelastic_otel.spool.directory import CORRUPT_SUFFIX, DELIVERED_SUFFIX
from torchelastic_otel.spool.reader import read_spool
from torchelastic_otel.spool.records import CursorState


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """A spool that is not retired.

    Attributes:
        path: Its file.
        live: Whether a running process owns it.
        host_name: The host of its process; empty if unknown.
        pid: Its process; 0 if unknown.
        run_id: The run of its newest event; empty if unknown.
        events: Events in the file, delivered or not.
        cursors: The progress of each exporter, by its name.
        error: Why it cannot be read, or empty.
    """

    path: Path
    live: bool
    host_name: str = ""
    pid: int = 0
    run_id: str = ""
    events: int = 0
    cursors: Mapping[str, CursorState] = field(default_factory=dict)
    error: str = ""

    @property
    def pending(self) -> dict[str, int]:
        """Pending events by exporter, without those of ephemeral exporters."""
        return {
            name: cursor.pending
            for name, cursor in self.cursors.items()
            if cursor.pending and name not in EPHEMERAL_EXPORTERS
        }

    @property
    def label(self) -> str:
        """The process, for a person."""
        return process_label(self.host_name, self.pid, self.run_id, self.path.name)


def list_spools(directory: Path) -> list[SpoolEntry]:
    """The spools of a directory that are not retired, oldest first."""
    entries = map(_read_entry, adoption.undelivered_spools(directory))
    return [entry for entry in entries if entry is not None]


def _read_entry(path: Path) -> SpoolEntry | None:
    """One spool, unchanged; ``None`` if it has just been retired."""
    # the lock first: if the owner ends in between, the result is an older state, never one that is too good
    live = path.exists() and adoption.is_owned(path)
    try:
        contents = read_spool(path, newest_only=True)
    except SpoolError as error:
        return SpoolEntry(path, live, error=str(error)) if path.exists() or path.is_symlink() else None
    origin = read_origin(contents)
    process = ("", 0, "") if origin is None else (origin.host_name, origin.pid, run_id_of(contents))
    return SpoolEntry(path, live, *process, contents.row_count, contents.cursors)


def read_run_id(path: Path) -> str:
    """The run of a spool's newest event, also if it was retired meanwhile; empty if unknown."""
    for file in (path, path.with_suffix(DELIVERED_SUFFIX)):
        try:
            return run_id_of(read_spool(file, newest_only=True))
        except SpoolError:
            continue
    return ""


def delivered_sizes(directory: Path) -> list[int]:
    """The sizes of the delivered spools that are kept, bytes."""
    sizes = []
    for path in directory.glob("*" + DELIVERED_SUFFIX):
        try:
            sizes.append(path.lstat().st_size)
        except FileNotFoundError:
            continue  # deleted in this moment, because it has expired
    return sizes


def corrupt_files(directory: Path) -> list[Path]:
    """The quarantined files."""
    return sorted(directory.glob("*" + CORRUPT_SUFFIX))
