"""collector-config/README.md says of the Collectors' settings what their files say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / "collector-config"
README = (CONFIGS / "README.md").read_text()
FILES = ("agent", "gateway", "gateway-kafka", "consumer")
KINDS = {"all": FILES, "gateways": ("gateway", "gateway-kafka")}
_ROW = re.compile(r"^\| `(\w+)` \|\s*([^|]*?)\s*\|\s*([^|]*?)\s*\| .+ \|$", re.MULTILINE)
_USE = re.compile(r"\$\{env:(\w+)(?::-((?:[^{}]|\{[^{}]*\})*))?\}")


def said() -> dict[tuple[str, str], str]:
    """The default of each variable in each file that the table names; an empty one where it must be set."""
    found = {}
    for variable, default, where in _ROW.findall(README):
        for file in (file for word in where.split(", ") for file in KINDS.get(word, (word,))):
            found[file, variable] = default.strip("`")
            for value, words in re.findall(r"`([^`]+)` ((?:\w+)(?: and \w+)*)", default):
                if any(file in KINDS.get(word, (word,)) for word in words.split(" and ")):
                    found[file, variable] = value
    return found


def used() -> dict[tuple[str, str], str]:
    """The same, of the files."""
    return {
        (file, variable): default
        for file in FILES
        for line in (CONFIGS / f"{file}.yaml").read_text().splitlines()
        if not line.strip().startswith("#")
        for variable, default in _USE.findall(line)
    }


def test_every_variable_is_in_the_table_with_its_default() -> None:
    """Who sets a variable that no file reads, or does not set one that must be, finds out in production."""
    assert said() == used()


@pytest.mark.parametrize("file", FILES)
def test_the_head_of_each_file_names_its_variables(file: str) -> None:
    """Who opens the file first sees what it needs."""
    head = (CONFIGS / f"{file}.yaml").read_text().partition("\n\n")[0]
    assert {variable for name, variable in used() if name == file} - set(re.findall(r"\w+", head)) == set()


def test_the_table_of_losses_names_tests_that_are_there() -> None:
    """A line of the table without a test behind it is a guess."""
    assert (CONFIGS.parent / "tests" / "backends" / "test_collector_loss.py").is_file()
    assert "What is lost when" in README


def test_sizing_has_been_measured() -> None:
    """benchmarks/collector.py writes it; an empty place would be shipped as easily as a full one."""
    part = README.partition("<!-- sizing: begin -->")[2].partition("<!-- sizing: end -->")[0]
    assert "| 10,000 |" in part
    assert "Extrapolated" in part
