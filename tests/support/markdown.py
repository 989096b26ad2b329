"""The repository's Markdown files as data: code blocks with their markers, headings, links.

Guarantees: a fence is a block however it is indented; what is inside a fence or an HTML comment is neither a heading
nor a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NOT_OURS = {"_build", "node_modules"}
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)$")
_MARKER = re.compile(r"^<!-- (run by|not run): (.+?) -->$")
_PAGE_MARKER = re.compile(r"^<!-- every (\w+) block is (run by|not run): (.+?) -->$", re.MULTILINE)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)(?: \"[^\"]*\")?\)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        path: The file.
        line: The line of its opening fence, counted from 1.
        language: The first word after the fence; empty where there is none.
        text: What is between the fences.
        run_by: The test that runs it, by a marker before it; empty without.
        not_run: The reason why it is not run, by a marker before it; empty without.
        generated: Whether cog writes it.
    """

    path: Path
    line: int
    language: str
    text: str
    run_by: str = ""
    not_run: str = ""
    generated: bool = False

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def files(*roots: str) -> list[Path]:
    """The Markdown files below these files and folders of the repository, without hidden folders and build outputs."""
    found: set[Path] = set()
    for root in roots:
        path = ROOT / root
        found |= {path} if path.is_file() else set(path.rglob("*.md"))
    return sorted(
        path for path in found
        if not any(part.startswith(".") or part in _NOT_OURS for part in path.relative_to(ROOT).parts)
    )  # fmt: skip


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a file, in order.

    Raises:
        ValueError: A fence is not closed.
    """
    text = path.read_text()
    of_page = {language: (kind, what) for language, kind, what in _PAGE_MARKER.findall(text)}
    found: list[Block] = []
    opening: re.Match[str] | None = None
    marker, generated, begun, inside = ("", ""), False, 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if opening is None:
            generated = (generated or "]]] -->" in line) and "[[[end]]]" not in line
            if opening := _FENCE.match(line):
                begun, inside = number, []
            elif line.strip():
                found_marker = _MARKER.match(line.strip())
                marker = (found_marker[1], found_marker[2]) if found_marker else ("", "")
        elif line.strip().startswith(opening["fence"]) and not line.strip().strip("`~"):
            language = (opening["info"].split() or [""])[0]
            kind, what = marker if marker[0] else of_page.get(language, ("", ""))
            cut = len(opening["indent"])
            body = "".join(f"{each[cut:]}\n" for each in inside)
            run_by, not_run = (what if kind == "run by" else "", what if kind == "not run" else "")
            found.append(Block(path, begun, language, body, run_by, not_run, generated))
            opening, marker = None, ("", "")
        else:
            inside.append(line)
    if opening is not None:
        raise ValueError(f"{path}:{begun}: the fence is not closed")
    return found


def prose(path: Path) -> str:
    """The text without fenced blocks and HTML comments; each line is where it was."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match.group().count("\n")

    text = re.sub(r"^( *)(`{3,}|~{3,})[^\n]*\n.*?^ *\2[`~]*$", blank, path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", blank, text, flags=re.DOTALL)


def links(path: Path) -> Iterator[tuple[int, str]]:
    """Each link's line, counted from 1, and its destination; images, too."""
    text = re.sub(r"`[^`]*`", lambda code: re.sub(r"\S", "x", code.group()), prose(path))
    for match in _LINK.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group(1)


def anchors(path: Path) -> set[str]:
    """The anchors of a file's headings, as forges and MyST make them."""
    found: set[str] = set()
    for title in re.findall(r"^#{1,6} +(.+?) *#*$", prose(path), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(next(name for name in _numbered(slug) if name not in found))
    return found


def _numbered(slug: str) -> Iterator[str]:
    yield slug
    number = 0
    while True:
        yield f"{slug}-{(number := number + 1)}"
