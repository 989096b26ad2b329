"""The stages of ``make test``: together they run every test."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.conftest import PURE

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
STAGES = ("unit", "unit-torch", "build", "crash", "live", "backends-live")
MARKERS = ("torch", "config", "build", "live", "crash", "backends")


def recipe(target: str) -> str:
    """The lines of a target's recipe."""
    match = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert match, f"the Makefile has no target {target}"
    return match[1]


def selection(target: str) -> str:
    """The expression with which a stage selects tests by their markers."""
    if "pytest tests/backends " in recipe(target):
        return "backends"  # its conftest.py marks every test of the directory
    match = re.search(r'pytest .*-m (?:"([^"]+)"|(\w+))', recipe(target))
    assert match, f"make {target} selects no tests by marker"
    return match[1] or match[2]


COMBINATIONS = [
    dict(zip(MARKERS, marked, strict=True)) for marked in itertools.product((False, True), repeat=len(MARKERS))
]


@pytest.mark.parametrize(
    "marked",
    [
        each
        for each in COMBINATIONS
        if not (each["live"] and each["crash"]) and not (each["build"] and sum(each.values()) > 1)
    ],
    ids=lambda marked: "-".join(name for name, has in marked.items() if has) or "none",
)
def test_every_test_runs_in_one_stage(marked: dict[str, bool]) -> None:
    """A test whose markers no stage selects never runs, and one that two stages select costs its time twice."""
    markers = marked | {"torch_unloaded": False}
    selecting = [stage for stage in STAGES if eval(selection(stage), {}, markers)]
    assert len(selecting) == 1, selecting


def test_a_test_that_torch_is_not_imported_runs_with_and_without_torch() -> None:
    """Where torch is not installed, nothing can import it, and such a test cannot fail."""
    markers = dict.fromkeys(MARKERS, False) | {"torch_unloaded": True}
    assert [stage for stage in STAGES if eval(selection(stage), {}, markers)] == ["unit", "unit-torch"]


def test_make_test_runs_every_stage() -> None:
    """A stage that ``make test`` does not run is a stage that nobody runs."""
    match = re.search(r"^test:([^#\n]*)", MAKEFILE, re.MULTILINE)
    assert match
    assert set(STAGES) | {"lint", "types", "contracts", "pythons"} <= set(match[1].split())


def test_pure_tests_are_where_they_are_looked_for() -> None:
    """A directory that moved runs on every Python again, and nobody notices but the clock."""
    assert [directory for directory in PURE if not list(directory.glob("test_*.py"))] == []


def test_pure_tests_run_on_the_oldest_and_the_newest_python() -> None:
    """What changes between versions shows at both ends."""
    others, pure = (
        re.search(rf"^{name} := (.*)$", MAKEFILE, re.MULTILINE)[1].split()  # type: ignore[index]
        for name in ("OTHER_PYTHONS", "PURE_PYTHONS")
    )
    assert pure == [others[0], others[-1]]


@pytest.mark.parametrize(("stage", "marker"), [("CRASH_TESTS", "crash"), ("LIVE_TESTS", "live")])
def test_a_stage_that_names_files_names_every_file_with_its_marker(stage: str, marker: str) -> None:
    """A marked test in a file that the stage does not collect never runs."""
    match = re.search(rf"^{stage} := (.*)", MAKEFILE, re.MULTILINE)
    assert match
    named = [ROOT / path for path in match[1].split()]
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if f"mark.{marker}" in path.read_text()]
    here = Path(__file__)
    missing = [path for path in marked if path != here and not {path, *path.parents} & set(named)]
    assert len(marked) > 2
    assert missing == []
