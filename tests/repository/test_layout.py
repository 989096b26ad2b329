"""Tests are packages that mirror the packages of ``src``."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "torchelastic_otel"
PACKAGES = sorted(path.parent.relative_to(SOURCE) for path in SOURCE.rglob("*/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_a_package_of_src_has_a_package_of_tests(package: Path) -> None:
    """A reader finds the tests of a package where its source is."""
    tests = ROOT / "tests" / package
    assert (tests / "__init__.py").exists()
    assert list(tests.rglob("test_*.py"))


def test_every_folder_with_tests_is_a_package() -> None:
    """Two test files of one name in folders that are no packages would be one module."""
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
