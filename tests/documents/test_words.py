"""Prose uses the field's terms. A word of the list is reported with its file, its line and what to write instead.

Checked is prose: Markdown without code, and the whole of source files. Names on disk and on the wire are code
(``own_view``), and no word of the list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.markdown import ROOT, prose

MANUALS: Final = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "collector-config").rglob("*.md")))
ROOTS: Final = (*sorted(path.name for path in ROOT.glob("*.md")), "docs", "src", "scripts", *MANUALS)
"""Files and folders that are checked."""

WORDS: Final = (
    (r"\bhouse\b", "architecture"),
    (r"\brooms\b|\b(one|this|which|each) room\b", "package"),
    (r"\bwalls\b", "layer rules"),
    (r"\bstairs?\b", "ingest and export pipelines"),
    (r"\blandings?\b", "process runtime"),
    (r"\bstory\b|\bstories\b", "job history"),
    (r"\bown views?\b", "local view"),
    (r"\bspeaks? for\b|\bspoke for\b", "job reporter"),
    (r"\braw rows?\b", "unprocessed record"),
    (r"\bsettl(e|es|ed|ing)\b", "process"),
    (r"\bsets? aside\b|\bsetting aside\b", "quarantine"),
    (r"\bcaretaker\b", "maintenance thread"),
    (r"\bdead agents? left\b", "orphaned spool"),
    (r"\btells?\b|\btelling\b|\btold\b", "report, emit, identify, distinguish"),
    (r"\bsays?\b|\bsaid\b|\bsaying\b", "state, report, mean, emit"),
    (r"\bstands?\b(?! (for|by|out)\b|$)", "is, is stored"),
    (r"\bwhoever\b", "the one that"),
    (r"\bwho asks\b", "the caller"),
    (r"\b(of|from|by) (ours|theirs)\b", "the bridge's, or leave it out"),
    (r"\b(of|from|by) torch's\b(?! (own )?\w)", "torch's, before the noun"),
    (r"\bgo(es|ing)? by\b", "use, identify by"),
    (r"\b[Ww]hat always holds\b", "Guarantees"),
    (r"\bnobody knows\b", "is unknown"),
    (r"\bfor company\b", "for the batch to fill"),
    (r"\bkept from the job\b", "suppressed"),
    (r"\b(can|could) be had\b", "is available, can be started"),
    (r"\bwithout a word\b", "without reporting an end"),
    (r"\bowes?\b|\bowed\b", "has to deliver"),
    (r"\blets? go of\b|\blet it go\b", "release"),
    (r"\bas one (likes|pleases)\b", "freely"),
    (r"\bat night\b", "on call"),
)
"""What is not written, as a regular expression, and what is written instead. Case is ignored."""
KEYS: Final = ('"told"', '"own_view"')
"""Keys and values on disk and on the wire, as source files write them: they are not renamed."""
_PATTERNS: Final = [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in WORDS]


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
    for kind in ("*.md", "*.py", "*.yaml", "*.sh"):
        yield from root.rglob(kind)


FILES: Final = sorted(
    path for root in ROOTS for path in _files(ROOT / root)
    if not {"_build", "__pycache__"} & set(path.parts)
)  # fmt: skip


def checked(path: Path, *, generated: bool) -> Iterator[tuple[int, str]]:
    """The lines that are checked, counted from 1.

    Args:
        path: A file.
        generated: Whether what cog wrote into a Markdown file is checked, too: its words are the code's.
    """
    if path.suffix != ".md":
        for number, line in enumerate(path.read_text().splitlines(), 1):
            yield number, re.sub("|".join(map(re.escape, KEYS)), "", line)
        return
    code = re.compile(r"`[^`]*`|\]\([^)]*\)")
    words = code.sub(lambda match: "\n" * match.group().count("\n"), prose(path)).splitlines()
    inside = False
    for number, (line, text) in enumerate(zip(words, path.read_text().splitlines(), strict=False), 1):
        inside = (inside or "]]] -->" in text) and "[[[end]]]" not in text
        if generated or not inside:
            yield number, line


def found(lines: Iterator[tuple[int, str]]) -> list[str]:
    """Each word of the list, as ``line: word: what to write``."""
    return [
        f"{number}: {match.group()!r}: write {instead!r}"
        for number, line in lines
        for pattern, instead in _PATTERNS
        for match in pattern.finditer(line)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_uses_the_terms_of_the_field(path: Path) -> None:
    """A stranger who knows OpenTelemetry and torch elastic understands every sentence."""
    words = found(checked(path, generated="src" in ROOTS))
    assert not words, "\n".join(f"{path.relative_to(ROOT)}:{word}" for word in words)


@pytest.mark.parametrize(
    "sentence",
    [
        "torch says that the worker failed", "What stands in the spool is told once.",
        "This agent goes by its own view.",
        "the one agent that speaks for the job", "a class of ours", "a fault of torch's, repaired in 2.4",
        "A raw row is settled.", "What always holds: nothing.", "the walls of the house", "whoever asks",
    ],
)  # fmt: skip
def test_a_word_of_the_list_is_found(sentence: str) -> None:
    """The list must be able to fail."""
    assert found(iter([(1, sentence)]))


@pytest.mark.parametrize(
    "sentence",
    [
        "ClickHouse stores logs.", "There is room for 64 MiB.", "The standard understands this.", "read row 7",
        "exporters of torch's own metrics", "A grandstand stands for nothing.", "the history of a job",
        "bystanders and outstanding data", "RUN stands for the run id",
    ],
)  # fmt: skip
def test_other_english_is_not_found(sentence: str) -> None:
    """A list that reports good English is switched off by the next person."""
    assert not found(iter([(1, sentence)]))
