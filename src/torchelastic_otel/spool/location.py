"""The directory of this user's spools on this node, and the warnings if there can be none on a disk.

Guarantees: a directory that cannot be used is reported with the reason; the temporary directory is tried next; nothing
raises.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from torchelastic_otel.errors import SpoolUnavailableError
from torchelastic_otel.settings import Settings
from torchelastic_otel.spool.directory import prepare_directory, user_directory


def spool_directory(settings: Settings, warn: Callable[[str], object]) -> Path | None:
    """The folder of this user's spools; ``None``, with a warning, if there can be none."""
    temporary = Path(tempfile.gettempdir())
    asked = Path(settings.spool_dir) if settings.spool_dir else temporary
    trouble: SpoolUnavailableError | None = None
    for base in dict.fromkeys((asked, temporary)):
        try:
            directory = prepare_directory(base, os.geteuid())
        except SpoolUnavailableError as error:
            trouble = trouble or error
        else:
            if trouble is not None:
                warn(f"{trouble}; using {user_directory(temporary, os.geteuid())}")
            return directory
    warn_memory_only(trouble, warn)
    return None


def warn_memory_only(why: Exception | None, warn: Callable[[str], object]) -> None:
    """Warn that there is no spool on a disk, and what that means."""
    warn(f"no spool on disk: {why}; events are kept in memory and are lost if the agent is killed")
