"""What is in the spool directory, and whose it is: for ``flush`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export.destinations import EPHEMERAL_EXPORTERS
from torchelastic_otel.processing.stored_events import read_origin, run_id_of
from torchelastic_otel.spool import adoption
from torchelastic_otel.spool.directory import CORRUPT_SUFFIX, DELIVERED_SUFFIX
from torchelastic_otel.spool.reader import SpoolContents, read_spool
from torchelastic_otel.spool.records import CursorState


@dataclass(frozen=True, slots=True)
class SpoolView:
    """One spool that is not retired.

    Attributes:
        path: Its file.
        live: Whether the process that writes it, or another that delivers it, is there.
        host_name: The capturing host; empty where nobody has said yet.
        pid: The capturing process; 0 where nobody has said yet.
        run_id: The run of its newest event; empty where that is not known.
        events: Events in the file, delivered or not.
        cursors: How far each exporter got, by its name.
        trouble: Why it cannot be read; else empty.
    """

    path: Path
    live: bool
    host_name: str = ""
    pid: int = 0
    run_id: str = ""
    events: int = 0
    cursors: Mapping[str, CursorState] = field(default_factory=dict)
    trouble: str = ""

    @property
    def pending(self) -> dict[str, int]:
        """Events that wait, by exporter; what only a living process can show is left out."""
        return {
            name: cursor.pending
            for name, cursor in self.cursors.items()
            if cursor.pending and name not in EPHEMERAL_EXPORTERS
        }

    @property
    def whose(self) -> str:
        """The process in words, for a person."""
        if not self.host_name:
            return self.path.name
        return f"{self.host_name} pid {self.pid or '?'}" + (f" run {self.run_id}" if self.run_id else "")


def survey(directory: Path, ours: Collection[Path] = ()) -> list[SpoolView]:
    """The spools that are not retired, oldest first.

    Args:
        directory: The user's spool folder.
        ours: Spools that this process owns itself; they are left out.
    """
    return [
        view for path in adoption.undelivered_spools(directory) if path not in ours and (view := look(path)) is not None
    ]


def look(path: Path) -> SpoolView | None:
    """One spool, without touching it; ``None`` where it has just been retired."""
    # first the lock: an owner that ends in between leaves a state that is too old, never one that is too good
    live = path.exists() and adoption.is_owned(path)
    try:
        return _view(path, live, read_spool(path, newest_only=True))
    except SpoolError as error:
        return SpoolView(path, live, trouble=str(error)) if path.exists() or path.is_symlink() else None


def run_of(path: Path) -> str:
    """The run of a spool's newest event, also where it was retired by now; empty where that cannot be told."""
    for file in (path, path.with_suffix(DELIVERED_SUFFIX)):
        try:
            return run_id_of(read_spool(file, newest_only=True))
        except SpoolError:
            continue
    return ""


@dataclass(frozen=True, slots=True)
class Retired:
    """What else lies in the spool directory.

    Attributes:
        delivered: Delivered spools that stay as history.
        delivered_bytes: Their size, bytes.
        corrupt: Files that were set aside.
    """

    delivered: int
    delivered_bytes: int
    corrupt: tuple[Path, ...]


def retired(directory: Path) -> Retired:
    """The history and what was set aside."""
    sizes = []
    for path in directory.glob("*" + DELIVERED_SUFFIX):
        try:
            sizes.append(path.lstat().st_size)
        except FileNotFoundError:
            continue  # its time was over in this moment
    return Retired(len(sizes), sum(sizes), tuple(sorted(directory.glob("*" + CORRUPT_SUFFIX))))


def _view(path: Path, live: bool, contents: SpoolContents) -> SpoolView:
    origin = read_origin(contents)
    host_name, pid, run_id = ("", 0, "") if origin is None else (origin.host_name, origin.pid, run_id_of(contents))
    return SpoolView(path, live, host_name, pid, run_id, contents.row_count, contents.cursors)
