"""Links in the repository's Markdown lead somewhere; nothing is asked of the network."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.markdown import ROOT, anchors, files, links

FILES = files(*(path.name for path in ROOT.glob("*.md")), "docs", "collector-config", "benchmarks")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    """A file that moved takes its links along; an anchor follows its heading."""
    broken = []
    for line, link in links(path):
        if link.startswith(("http:", "https:", "mailto:")):
            parts = urlsplit(link)
            if not (parts.scheme in ("https", "mailto") and (parts.netloc or parts.path) and " " not in link):
                broken.append(f"{line}: {link} is no https link")
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or not target.is_relative_to(ROOT):
            broken.append(f"{line}: {link}: there is no such file in the repository")
        elif anchor and anchor not in anchors(target):
            broken.append(f"{line}: {link}: there is no such heading")
    assert not broken, f"{path.relative_to(ROOT)}:{broken}"
