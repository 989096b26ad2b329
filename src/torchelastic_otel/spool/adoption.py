"""Ownership of spools: creating one, adopting orphaned ones, retiring delivered ones.

Guarantees: a spool whose owner lives is never changed; one process at a time adopts a spool; a corrupt one is
quarantined under another name, unchanged; a delivered one stays as history until it expires or its space is needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torchelastic_otel.errors import SpoolCorruptError, SpoolError
from torchelastic_otel.spool import store
from torchelastic_otel.spool.directory import CORRUPT_SUFFIX, DELIVERED_SUFFIX, LOCK_SUFFIX, SPOOL_SUFFIX
from torchelastic_otel.spool.lock import SpoolLock, acquire
from torchelastic_otel.units import NS_PER_S

logger = logging.getLogger("torchelastic_otel")

RETENTION_NS: Final = 7 * 24 * 3_600 * NS_PER_S
"""How long a delivered spool of a dead process stays, nanoseconds."""
_COMPANIONS: Final = ("-wal", "-shm")


@dataclass(frozen=True, slots=True)
class OwnedSpool:
    """A spool and its lock."""

    spool: store.Spool
    path: Path
    lock: SpoolLock

    def release(self, *, incomplete: bool = False) -> None:
        """Close the spool; retire it if everything is delivered, else leave it to the next adopter.

        Args:
            incomplete: Whether something other than rows is not delivered.

        Raises:
            SpoolError: The spool cannot be read or closed; it is released all the same.
            OSError: It cannot be renamed; likewise.
        """
        delivered = False
        try:
            delivered = self.spool.pending() == 0 and not incomplete
        finally:
            try:
                self.spool.close()
                if delivered:
                    os.replace(self.path, self.path.with_suffix(DELIVERED_SUFFIX))
            finally:
                # whatever went wrong: a lock that stays keeps everybody else from trying
                self.lock.release(remove=delivered)

    def refresh(self) -> None:
        """Touch its files, and restore its lock if it was removed: cleaners delete by age (tmpfiles.d).

        Raises:
            OSError: The spool is gone, or somebody else has its lock.
        """
        os.utime(self.path, follow_symlinks=False)  # first: without the spool, its lock is of no use
        self.lock.refresh()
        for companion in _COMPANIONS:
            with contextlib.suppress(OSError):  # missing, or on a disk that fails, as the writer reports
                os.utime(f"{self.path}{companion}", follow_symlinks=False)

    def discard(self) -> None:
        """Close an empty spool, and remove its file."""
        try:
            self.spool.close()
            self.path.unlink()
        except (SpoolError, OSError) as error:
            logger.debug("%s", error)
        self.lock.release(remove=True)

    def quarantine(self, why: str) -> None:
        """Close a corrupt spool, and quarantine it."""
        try:
            self.spool.close()
        except SpoolError:
            pass  # it is quarantined as it is
        quarantine(self.path, why)
        self.lock.release(remove=True)


def create(directory: Path, spool_id: str, max_bytes: int) -> OwnedSpool:
    """A new spool of this process.

    Raises:
        SpoolError: It cannot be made.
    """
    path = directory / (spool_id + SPOOL_SUFFIX)
    try:
        ownership = acquire(path.with_suffix(LOCK_SUFFIX))
    except OSError as error:
        raise SpoolError(f"spool {path}: {error.strerror or error}") from error
    if ownership is None:
        raise SpoolError(f"spool {path} belongs to another process")
    try:
        return OwnedSpool(store.create(path, max_bytes), path, ownership)
    except SpoolError:
        ownership.release(remove=True)
        raise


def undelivered_spools(directory: Path) -> list[Path]:
    """Spool files that are not retired, oldest first; some may have living owners."""
    found: list[tuple[int, Path]] = []
    for path in directory.glob("*" + SPOOL_SUFFIX):
        try:
            found.append((path.lstat().st_mtime_ns, path))
        except FileNotFoundError:
            continue  # retired in this moment
    return [path for _, path in sorted(found)]


def is_owned(path: Path) -> bool:
    """Whether a living process (or this one) owns the spool at ``path``."""
    try:
        ownership = acquire(path.with_suffix(LOCK_SUFFIX))
    except OSError:
        return False
    if ownership is None:
        return True
    ownership.release()
    return False


def adopt(directory: Path, max_bytes: int) -> Iterator[OwnedSpool]:
    """Take over, one after the other, the spools whose processes are gone.

    The caller releases each. A file that is not a spool is quarantined as ``*.corrupt`` with one warning.
    """
    for path in undelivered_spools(directory):
        try:
            ownership = acquire(path.with_suffix(LOCK_SUFFIX))
        except OSError as error:
            logger.warning("spool %s cannot be adopted: %s", path, error)
            continue
        if ownership is None:
            continue
        if not path.exists():
            ownership.release(remove=True)  # another adopter was faster, from start to end
            continue
        try:
            spool = store.open_file(path, max_bytes)
        except SpoolCorruptError as error:
            quarantine(path, str(error))
            ownership.release(remove=True)
        except SpoolError as error:
            logger.warning("%s; left as it is", error)
            ownership.release()
        else:
            yield OwnedSpool(spool, path, ownership)


def quarantine(path: Path, why: str) -> None:
    """Rename a file that is not a spool, with its log; nothing is deleted."""
    for companion in ("", *_COMPANIONS):
        try:
            os.replace(f"{path}{companion}", f"{path.with_suffix(CORRUPT_SUFFIX)}{companion}")
        except FileNotFoundError:
            continue
    logger.warning("%s; quarantined as %s", why, path.with_suffix(CORRUPT_SUFFIX))


def delete_expired(directory: Path, now_ns: int, max_bytes: int) -> int:
    """Delete delivered spools that are older than a week, then the oldest while they take more than ``max_bytes``.

    Returns:
        How many were deleted.
    """
    found: list[tuple[int, int, Path]] = []
    for path in directory.glob("*" + DELIVERED_SUFFIX):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        found.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    deleted = 0
    for modified_ns, size, path in sorted(found):
        if modified_ns > now_ns - RETENTION_NS and total <= max_bytes:
            break
        for companion in ("", *_COMPANIONS):
            Path(f"{path}{companion}").unlink(missing_ok=True)
        total -= size
        deleted += 1
    return deleted
