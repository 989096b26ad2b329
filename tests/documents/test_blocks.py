"""Each code block of the documentation is run by a test, or is marked as not run, with the reason.

A marker is an HTML comment before the block: ``<!-- run by: tests/x.py -->`` or ``<!-- not run: reason -->``.
Without a marker a block is checked here: Python is run, YAML, JSON and TOML are parsed, and shell lines may have the
commands of this package, of make and of the shell itself only, which are parsed. ``text`` is output or a diagram.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.markdown import ROOT, Block, blocks, files
from torchelastic_otel.cli import make_parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOTS = (*(path.name for path in ROOT.glob("*.md")), "docs", "collector-config", "benchmarks")
BLOCKS = [block for path in files(*ROOTS) for block in blocks(path) if not block.language.startswith("{")]
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SHELL = {"export", "unset", "cd"}
"""Commands of the shell that have no effect beyond it."""
_SEPARATORS = {"|", "||", "&&", ";", "&", "(", ")", "\n"}


def of(*languages: str, marked: bool = False) -> list[Block]:
    """The blocks in these languages, with or without those that have a marker."""
    return [
        block for block in BLOCKS if block.language in languages and (marked or not (block.run_by or block.not_run))
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell script, each as its words, without assignments before it."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "\n"]:
            if word not in _SEPARATORS:
                words.append(word)
                continue
            while words and re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
                del words[0]
            if words:
                yield words
            words = []


def ours(words: list[str]) -> list[str] | None:
    """The arguments of ``torchelastic-otel`` in a command, also behind ``srun`` or ``--``."""
    if "torchelastic-otel" not in words or (words[0] in ("pip", "kubectl") and "--" not in words):
        return None
    return words[words.index("torchelastic-otel") + 1 :]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_has_a_language_that_is_checked_or_a_marker(block: Block) -> None:
    """Nobody copies a block that no test has seen."""
    checked = ("text", "python", "sh", "yaml", "json", "toml")
    assert block.language in checked or block.run_by or block.not_run or block.generated, f"{block}: {block.language!r}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.run_by], ids=str)
def test_the_test_that_runs_a_block_exists_and_reads_its_page(block: Block) -> None:
    """A marker that names another test is no check."""
    path = ROOT / block.run_by
    assert path.is_file(), f"{block}: there is no {block.run_by}"
    assert block.path.name in path.read_text(), f"{block}: {block.run_by} does not name {block.path.name}"


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_runs(block: Block, tmp_path: Path) -> None:
    """An example is a program that ends with status 0."""
    dropped = ("OTEL_", "TORCHELASTIC", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", block.text],
        cwd=tmp_path, env={**environment, "TORCHELASTIC_OTEL_SPOOL_DIR": str(tmp_path)}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}: {done.stderr}"
    assert "Traceback" not in done.stderr, f"{block}: {done.stderr}"


@pytest.mark.parametrize("block", of("yaml", "json", "toml"), ids=str)
def test_data_is_parsed(block: Block) -> None:
    """What is copied into a configuration is read there; JSON is one document, or one on each line."""
    if block.language == "yaml":
        assert all(document is not None for document in yaml.safe_load_all(block.text)), block
    elif block.language == "toml":
        assert tomllib.loads(block.text), block
    else:
        try:
            json.loads(block.text)
        except ValueError:
            assert [json.loads(line) for line in block.text.splitlines()], block


@pytest.mark.parametrize("block", of("sh", marked=True), ids=str)
def test_shell_is_parsed_by_the_shell_and_by_our_commands(block: Block) -> None:
    """Syntax, options and arguments are right, also in a block that needs a cluster."""
    text = re.sub(r" \.\.\.(?= |$)", "", block.text, flags=re.MULTILINE)  # arguments that are the reader's
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}: {done.stderr}"
    for words in commands(text):
        arguments = ours(words)
        if arguments is not None and arguments[:1] != ["run"]:  # the rest is torchrun's
            try:
                make_parser().parse_args(arguments)
            except Exception as error:
                raise AssertionError(f"{block}: {' '.join(words)}: {error}") from error
        if words[0] == "make":
            assert set(words[1:]) <= TARGETS, f"{block}: {words}"


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_a_shell_block_with_other_programs_has_a_marker(block: Block) -> None:
    """Where another program is started, somebody says by which test, or why by none."""
    for words in commands(block.text):
        known = ours(words) is not None or words[0] in {"make", *SHELL}
        piped = words[0] in ("jq",)  # reads what a command of ours prints
        assert known or piped, f"{block}: {' '.join(words)}"
