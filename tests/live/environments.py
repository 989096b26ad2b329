"""The Pythons with other torches that the live tests run, one virtual environment each, beside the project's own.

    python tests/live/environments.py            make what is missing
    python tests/live/environments.py --check    only say whether all are there; exit 1 where one is not

What always holds: an environment that is up to date is left alone, so a second run takes no time; one that could
not be finished is made anew by the next run; one line says what is missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
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
        packages: What is installed beside the project.
        python_below: The first Python (major, minor) that this torch has no wheel for.
    """

    torch: str
    folder: str = ""
    packages: tuple[str, ...] = ()
    python_below: tuple[int, int] = (3, 14)

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
        """Whether it is there, as this file and the project's metadata now say."""
        if not self.folder:
            return True
        stamp = PROJECT / self.folder / ".complete"
        try:
            return stamp.read_text() == self._wanted() and self.python.exists()
        except OSError:
            return False

    def make(self) -> None:
        """Make it, with uv where that is installed (its cache is hard-linked), else with venv and pip.

        Raises:
            subprocess.CalledProcessError: A package cannot be had.
        """
        folder = PROJECT / self.folder
        shutil.rmtree(folder, ignore_errors=True)
        fits = sys.version_info[:2] < self.python_below
        uv = shutil.which("uv")
        project = f"{PROJECT}[instrument]"
        if uv is not None:
            # uv finds another Python, or gets one, where this one is too new for an old torch
            _run(uv, "venv", "--quiet", "--python", sys.executable if fits else "3.11", str(folder))
            _run(uv, "pip", "install", "--quiet", "--python", str(self.python), *self.packages, "--editable", project)
        else:
            _run(sys.executable if fits else "python3.11", "-m", "venv", str(folder))
            _run(str(self.python), "-m", "pip", "install", "--quiet", *self.packages, "--editable", project)
        (folder / ".complete").write_text(self._wanted())

    def _wanted(self) -> str:
        # all but the tools' settings, which change no environment
        project = (PROJECT / "pyproject.toml").read_text().partition("\n[tool.")[0]
        return "\n".join((*self.packages, project))


NEWEST = Environment("newest")
"""The torch of the Python that runs the tests."""
OLDEST = Environment("2.2", ".venv-torch2.2", ("torch==2.2.2", "numpy<2"), (3, 13))
"""The oldest torch that is supported."""
ENVIRONMENTS = (NEWEST, Environment("2.8", ".venv-torch2.8", ("torch==2.8.0", "numpy")), OLDEST)
"""All of them: the oldest supported, the first one with ``--event-log-handler``, the newest."""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, env={**os.environ, "UV_HTTP_TIMEOUT": "300"})


def main() -> int:
    """Make what is missing; 1 where something is missing in the end."""
    parser = argparse.ArgumentParser(description="Make the virtual environments with other torches for tests/live.")
    parser.add_argument("--check", action="store_true", help="make nothing; exit 1 where one is missing")
    check = parser.parse_args().check
    missing = [environment for environment in ENVIRONMENTS if not environment.complete]
    for environment in missing:
        if check:
            print(f"no environment with torch {environment.torch} in {environment.folder}: run `make environments`")
            continue
        print(f"making {environment.folder} ({', '.join(environment.packages)}; some GB, once) ...", flush=True)
        try:
            environment.make()
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{environment.folder} could not be made: {error}; is there a network?", file=sys.stderr)
            return 1
    return 1 if check and missing else 0


if __name__ == "__main__":
    sys.exit(main())
