"""``scripts/backends``: what it says and leaves behind, on a stand-in for Go; other tests run what it really builds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "backends"
NAMES = {
    "collector": "otelcol-torchelastic",
    "prometheus": "prometheus",
    "promtool": "promtool",
    "jaeger": "jaeger-all-in-one",
    "victorialogs": "victoria-logs",
    "vmalert": "vmalert",
}
GO = """#!/bin/sh
PATH=/usr/bin:/bin
if [ "$1" = env ]; then echo "${GO_VERSION:-go1.99}"; echo linux; echo amd64; exit 0; fi
echo "go $*" >>"$CALLS"
case "$*" in *"$FAILS"*) echo half >"$OUT_OF_PLACE"; echo "no such module" >&2; exit 1 ;; esac
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\n' >"$2"
chmod +x "$2"
"""


class Machine:
    """A user's machine: a cache, and a PATH with nothing on it but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.path, self.cache, self.calls = folder / "bin", folder / "cache", folder / "calls"
        self.path.mkdir()
        self.calls.touch()
        self.kept = self.cache / "torchelastic-otel" / "backends"

    def install(self, name: str, text: str = "#!/bin/sh\n") -> Path:
        """A program on PATH."""
        program = self.path / name
        program.write_text(text)
        program.chmod(0o755)
        return program

    def run(
        self, *arguments: str, fails: str = "nothing fails", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """The script, run by the user."""
        return subprocess.run(
            [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False,
            env={
                "PATH": str(self.path), "HOME": str(self.cache), "XDG_CACHE_HOME": str(self.cache),
                "CALLS": str(self.calls), "FAILS": fails, "OUT_OF_PLACE": os.devnull, **environment,
            },
        )  # fmt: skip

    def places(self) -> set[str]:
        """What is in the cache, without logs and lock."""
        return {path.name for path in self.kept.iterdir() if path.name not in ("logs", ".lock")}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One without Go."""
    return Machine(tmp_path)


@pytest.mark.parametrize("arguments", [[], ["--paths"]])
def test_without_go_one_line_says_how_to_get_it(machine: Machine, arguments: list[str]) -> None:
    """The only reason to go on without these tests has a status of its own, which the Makefile and the tests know."""
    ran = machine.run(*arguments)
    assert ran.returncode == 3
    (line,) = ran.stderr.splitlines()
    assert "Go 1." in line
    assert line.endswith("then: make backends")
    assert ran.stdout == ""


def test_a_go_that_is_too_old_is_no_go(machine: Machine) -> None:
    """Where Go itself refuses the module's version there is nothing to build with, and its own words say why."""
    machine.install("go", "#!/bin/sh\necho 'go.mod requires go >= 1.26' >&2\nexit 1\n")
    ran = machine.run()
    assert ran.returncode == 3
    assert "requires go >= 1.26" in ran.stderr


def test_programs_on_path_are_used_and_it_says_so(machine: Machine) -> None:
    """Whoever has the programs needs no Go, and must see that it is not our builds that were tested."""
    paths = {name: machine.install(called) for name, called in NAMES.items()}
    ran = machine.run()
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("(from PATH)") == len(NAMES)
    told = dict(line.split("=") for line in machine.run("--paths").stdout.splitlines())
    assert told == {name: str(path) for name, path in paths.items()}
    paths["collector"].rename(machine.path / "otelcol-contrib")
    assert f"collector={machine.path / 'otelcol-contrib'}\n" in machine.run("--paths").stdout


def test_what_is_built_once_is_found_again(machine: Machine) -> None:
    """A second run, also of another clone, must cost a second and not twelve minutes."""
    machine.install("go", GO)
    assert machine.run("--paths").returncode == 4
    ran = machine.run()
    assert ran.returncode == 0, ran.stderr
    assert len(machine.places()) == len(NAMES)
    built = machine.calls.read_text()
    assert built.count("-mod=readonly") == len(NAMES) + 1  # and the Collector's builder
    told = dict(line.split("=") for line in machine.run("--paths").stdout.splitlines())
    assert {name: Path(path).name for name, path in told.items()} == NAMES
    assert machine.run().returncode == 0
    assert machine.calls.read_text() == built


def test_another_go_builds_anew_beside_the_old(machine: Machine) -> None:
    """A program that was built by another version is another program; the old one may be another clone's."""
    machine.install("go", GO)
    machine.run()
    before = machine.places()
    assert machine.run("--paths", GO_VERSION="go1.100").returncode == 4
    assert machine.run(GO_VERSION="go1.100").returncode == 0
    assert len(machine.places() - before) == len(NAMES)
    assert before < machine.places()


def test_a_failed_build_names_its_log_and_leaves_nothing_half_made(machine: Machine) -> None:
    """Half a program that looks whole would fail tests for no reason that anybody can see."""
    machine.install("go", GO)
    ran = machine.run(fails="jaeger", OUT_OF_PLACE="/dev/null")
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert "jaeger did not build: no such module" in last
    assert "no such module" in Path(last.rpartition(" ")[2]).read_text()
    assert {place.split("-")[0] for place in machine.places()} == {
        "collector",
        "victorialogs",
        "vmalert",
        "prometheus",
        "promtool",
    }
    assert machine.run().returncode == 0


def test_an_interrupted_build_is_not_taken_for_a_whole_one(machine: Machine) -> None:
    """Killed in the middle, by hand or by a full CI machine, the next run starts over."""
    machine.install("go", GO)
    machine.run()
    (whole,) = machine.kept.glob("vmalert-*")
    whole.rename(whole.with_name(f"{whole.name}.part"))  # as it is until the last moment
    assert machine.run("--paths").returncode == 4
    assert machine.run().returncode == 0
    assert whole.is_dir()
    assert list(machine.kept.glob("*.part")) == []
