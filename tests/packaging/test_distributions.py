"""The files that are published: what they contain, and that the wheel runs where nothing else is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from torchelastic_otel.version import __version__

pytestmark = pytest.mark.build

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
NOT_IN_SDIST = (".editorconfig", ".git", ".pre-commit-config.yaml", "/__pycache__/")
"""Files for work in a clone: git's, the forge's and the editor's."""


@pytest.fixture(scope="session")
def sdist() -> tarfile.TarFile:
    """The source distribution."""
    return tarfile.open(DIST / f"torchelastic_otel-{__version__}.tar.gz")


@pytest.fixture(scope="session")
def wheel() -> zipfile.ZipFile:
    """The wheel; ``make build`` builds it from the source distribution."""
    return zipfile.ZipFile(DIST / f"torchelastic_otel-{__version__}-py3-none-any.whl")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory, wheel: zipfile.ZipFile) -> Path:
    """The ``bin`` directory of an environment that has the wheel and its dependencies, and nothing else."""
    environment = tmp_path_factory.mktemp("wheel") / "environment"
    uv = Path(sys.executable).parent / "uv"
    python = environment / "bin" / "python"
    assert wheel.filename is not None
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "constraints.txt", wheel.filename],
        check=True,
    )
    return python.parent


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command outside the clone, so that it cannot import from there."""
    return subprocess.run(command, cwd="/", env=os.environ | environment, capture_output=True, text=True, check=False)


def tracked(*under: str) -> set[str]:
    """The files that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *under]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return set(listed.stdout.split("\0")) - {""}


def test_the_sdist_has_every_file_of_the_clone_that_builds_or_tests_it(sdist: tarfile.TarFile) -> None:
    """Linux distributions build and test from the sdist; a forgotten directory breaks them."""
    inside = {name.partition("/")[2] for name in sdist.getnames()} - {"PKG-INFO", ".gitignore"}
    assert inside == {name for name in tracked() if not name.startswith(NOT_IN_SDIST)}


def test_the_wheel_has_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """A test or a script that is installed is imported by accident."""
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {name.removeprefix("src/") for name in tracked("src")}
    assert "torchelastic_otel/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_the_metadata_names_the_supported_pythons_and_the_project(wheel: zipfile.ZipFile) -> None:
    """Package indexes show this; an upper bound keeps pip from installing it on the next Python."""
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {url.partition(",")[0] for url in metadata.get_all("Project-URL", [])} >= {"Homepage", "Issues", "Changelog"}


def test_the_command_starts_without_torch(programs: Path) -> None:
    """A sidecar has no torch."""
    assert run(programs / "python", "-c", "import torch").returncode == 1
    version = run(programs / "torchelastic-otel", "--version")
    assert (version.returncode, version.stdout) == (0, f"torchelastic-otel {__version__}\n")
    usage = run(programs / "torchelastic-otel", "--help")
    assert usage.returncode == 0
    assert "doctor" in usage.stdout
    doctor = run(programs / "torchelastic-otel", "doctor", TORCHELASTIC_OTEL_DESTINATIONS="memory")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "not installed" in doctor.stdout


def test_the_entry_points_are_installed_and_load(programs: Path) -> None:
    """Torchrun and OpenTelemetry find the bridge by these; a name that does not load is found by a user's job."""
    program = """
from importlib import metadata
for group, name in (("torchrun.handlers", "torchelastic_otel"), ("opentelemetry_resource_detector", "torchelastic")):
    [found] = metadata.entry_points(group=group, name=name)
    print(found.load().__name__)
print([each.name for each in metadata.entry_points(group="opentelemetry_instrumentor")])
"""
    done = run(programs / "python", "-c", program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["torchrun_handler", "TorchelasticResourceDetector", "['torchelastic']"]


def test_every_module_of_the_wheel_is_found(programs: Path) -> None:
    """A module that is in the clone alone is a traceback in a user's command."""
    program = (
        "import importlib.util, pkgutil, torchelastic_otel as t;"
        "print(sum(1 for _ in pkgutil.walk_packages(t.__path__, 'torchelastic_otel.')))"
    )
    done = run(programs / "python", "-c", program)
    assert done.returncode == 0, done.stderr
    package = "src/torchelastic_otel/"
    modules = [
        n for n in tracked("src") if n.startswith(package) and n.endswith(".py") and n != package + "__init__.py"
    ]
    assert int(done.stdout) == len(modules)


def test_a_worker_notes_its_exception(programs: Path, tmp_path: Path) -> None:
    """The start-up file must be in site-packages itself."""
    evidence = f"{os.getpid()}:{tmp_path / 'evidence'}"
    done = run(programs / "python", "-c", "raise ValueError('x')", TORCHELASTIC_OTEL_EVIDENCE_FILE=evidence)
    assert done.returncode == 1
    [path] = tmp_path.glob("evidence.*")
    assert '"ValueError"' in path.read_text()
