"""The Pythons with other torches that the live tests run, one virtual environment each, beside the project's own.

`make environments` makes them (scripts/environment); a test that needs one that is not there fails and says so.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Environment:
    """One Python with a torch in it.

    Attributes:
        torch: The torch's version as tests name it.
        folder: Its folder in the project; empty for the Python that runs this.
    """

    torch: str
    folder: str = ""

    @property
    def python(self) -> Path:
        """Its interpreter, which may not be there yet."""
        return PROJECT / self.folder / "bin" / "python" if self.folder else Path(sys.executable)

    @property
    def loads_entry_points(self) -> bool:
        """Whether this torch loads the entry-point group ``torchrun.handlers``, and has ``--event-log-handler``."""
        return self.torch != "2.2"

    @property
    def complete(self) -> bool:
        """Whether it is there; its stamp is written last."""
        return not self.folder or (PROJECT / self.folder / ".wanted").exists()


NEWEST = Environment("newest")
"""The torch of the Python that runs the tests."""
OLDEST = Environment("2.2", ".venv-torch2.2")
"""The oldest torch that is supported."""
ENVIRONMENTS = (NEWEST, Environment("2.8", ".venv-torch2.8"), OLDEST)
"""All of them: the oldest supported, the first one with ``--event-log-handler``, the newest."""
COPY = Environment("newest", ".venv-nvrx")
"""A newer Python, with NVIDIA's resiliency extension, whose launcher brings a copy of torch's elastic."""
