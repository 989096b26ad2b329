"""The files that a path names, and what is in one, unpacked.

What always holds: nothing is changed; what was named and cannot be read is an error of one line; what cannot be read
below a directory that was named, where nobody chose file by file, is said and passed over.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from torchelastic_otel.errors import CommandError
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX, SPOOL_SUFFIX

_SUFFIXES: Final = (SPOOL_SUFFIX, DELIVERED_SUFFIX, ".jsonl", ".json", ".log", ".gz")
_GZIP: Final = b"\x1f\x8b"
_PIECE: Final = 4_096
"""Bytes that are unpacked at once where a stream is damaged: so much before the damage may be lost."""
KNOWN: Final = (
    "allowed are spools, OTLP JSON lines, captures and torch's JSON lines, plain or gzip, and directories of those"
)


def files_in(directory: str, say: Callable[[str], object]) -> list[Path]:
    """The files of a directory, and of those in it, that may hold something of ours, by their names.

    Raises:
        CommandError: It cannot be looked into, or there is none.
    """

    def refuse(error: OSError) -> None:
        if error.filename == directory:
            raise CommandError(why(directory, error))
        say(f"{why(error.filename, error)}; left out")

    found = [Path(base) / name for base, _, names in os.walk(directory, onerror=refuse) for name in names]
    files = sorted(path for path in found if path.suffix in _SUFFIXES)
    if not files:
        raise CommandError(f"{directory}: nothing to read in this directory; {KNOWN}")
    return files


def spools_in(directory: Path) -> list[Path]:
    """The spools of a folder, delivered ones too: they stay as history. A folder that is not there has none.

    Raises:
        CommandError: It cannot be looked into.
    """
    try:
        return sorted(directory / name for name in os.listdir(directory) if is_spool(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CommandError(why(directory, error)) from None


def is_spool(name: str) -> bool:
    """Whether a file is called as our spools are."""
    return name.endswith((SPOOL_SUFFIX, DELIVERED_SUFFIX))


def why(path: object, error: OSError | ValueError) -> str:
    """Why a path cannot be read, in one line."""
    return f"{path}: {getattr(error, 'strerror', None) or error}"


def unpacked(data: bytes, shown: str, say: Callable[[str], object]) -> bytes:
    """What is in a gzip stream, as far as it is whole; other data as it is.

    Args:
        data: A file's content.
        shown: What a person calls the file.
        say: Takes that a part of it cannot be read.

    Raises:
        CommandError: Nothing of it can be read.
    """
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        pass  # torn by a kill, or still being written: what is whole counts
    whole = bytearray()
    while data:
        unpacker, at = zlib.decompressobj(zlib.MAX_WBITS | 16), 0
        try:
            while at < len(data) and not unpacker.eof:
                whole += unpacker.decompress(data[at : at + _PIECE])
                at += _PIECE
        except zlib.error:
            break
        data = unpacker.unused_data + data[at:]
    if not whole:
        raise CommandError(f"{shown}: begins as gzip, and nothing of it can be read")
    say(f"{shown}: the gzip stream is damaged or torn; what came before is read")
    return bytes(whole)
