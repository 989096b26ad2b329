"""How Sphinx builds this folder into a site: ``make docs``.

Two things are added to MyST, both so that a page reads the same in the repository and on the site:

- A page may include a README from elsewhere in the repository (``{include}``). Its links are read from its own folder.
- A link to a file that is no page of the site leads to the repository.
"""

import os
import re
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent


def _first(pattern: str, path: str, default: str = "") -> str:
    """What the first group of a pattern matches in a file of the repository."""
    found = re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
    return found.group(1) if found else default


project = "torchelastic-otel"
author = "The torchelastic-otel authors"
project_copyright = "The torchelastic-otel authors, Apache-2.0"
release = version = _first(r'^__version__(?:: \w+)? = "([^"]+)"', "src/torchelastic_otel/version.py")
repository = _first(
    r'^(?:Source|Repository) = "([^"]+)"', "pyproject.toml", "https://git.example.org/torchelastic-otel"
)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
myst_heading_anchors = 4
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
# the reference has what users may import; what its docstrings name from other modules has no page to link to
_internal = sorted({path.stem for path in (ROOT / "src" / "torchelastic_otel").iterdir()} - {"events"})
nitpick_ignore_regex = [("py:.*", rf"(?!torchelastic_otel\b).*|torchelastic_otel\.({'|'.join(_internal)})(\..*)?")]

_INCLUDE = re.compile(r"^```\{include\} (\S+)\n```$", re.MULTILINE)
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^(```+|~~~+).*?^\1$", re.MULTILINE | re.DOTALL)


def _included() -> dict[Path, Path]:
    """Each file that a page includes, and the page."""
    return {
        (page.parent / name).resolve(): page
        for page in DOCS.rglob("*.md")
        if "_build" not in page.parts
        for name in _INCLUDE.findall(page.read_text())
    }


def _links(text: str, home: Path, page: Path, pages: dict[Path, Path]) -> str:
    """The text of a file in folder ``home``, with its links as ``page`` has to write them."""

    def link(match: re.Match[str]) -> str:
        opening, name, anchor, closing = match.groups()
        target = (home / name).resolve()
        target = pages.get(target, target)
        if target.is_relative_to(DOCS):
            where = os.path.relpath(target, page.parent)
        elif target.exists():
            where = f"{repository}/blob/main/{target.relative_to(ROOT)}"
        else:
            where = name  # Sphinx warns
        return f"{opening}{where}{anchor or ''}{closing}"

    parts, at = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(link, text[at : fence.start()]), fence.group()]
        at = fence.end()
    return "".join([*parts, _LINK.sub(link, text[at:])])


def _read(app: Any, docname: str, source: list[str]) -> None:
    page = DOCS / f"{docname}.md"
    pages = _included()

    def include(match: re.Match[str]) -> str:
        path = (page.parent / match.group(1)).resolve()
        app.env.note_dependency(str(path))
        _, _, body = path.read_text().partition("\n")  # its title is the page's
        return _links(body, path.parent, page, pages)

    own = _INCLUDE.split(source[0])[::2]
    included = [include(match) for match in _INCLUDE.finditer(source[0])]
    texts = [_links(text, page.parent, page, pages) for text in own]
    source[0] = "".join(text for pair in zip(texts, [*included, ""], strict=True) for text in pair)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    # Pygments knows neither LogQL nor LogsQL, and its PromQL has no colon in a metric's name, as recording rules have
    for language in ("logql", "logsql", "promql"):
        app.add_lexer(language, TextLexer)
    app.connect("source-read", _read)
