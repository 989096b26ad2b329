"""Our Collector's manifest and the go.mod that is built from it, held in step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION = ROOT / "collector-config" / "distribution"
MODULES = [DISTRIBUTION, DISTRIBUTION / "builder", *sorted((ROOT / "tests/backends/programs").iterdir())]
OF_EVERY_COLLECTOR = re.compile(
    r"go\.opentelemetry\.io/collector/(component|confmap|connector|exporter|extension|otelcol|processor|receiver|service)$"
    r"|golang\.org/x/sys$"
)
"""What the builder adds to every distribution: the frame that components are put into."""


def required(module: Path) -> dict[str, str]:
    """What a go.mod requires by itself, and at which version."""
    lines = (module / "go.mod").read_text().splitlines()
    wanted = (re.match(r"(?:require )?\s*(\S+/\S+) (v\S+)$", line) for line in lines)
    return {one[1]: one[2] for one in wanted if one}


def test_what_is_built_is_what_the_manifest_lists() -> None:
    """A component that was added to one file alone would be missing, or at another version than is said."""
    manifest = yaml.safe_load((DISTRIBUTION / "manifest.yaml").read_text())
    parts = [part for kind, parts in manifest.items() if kind != "dist" for part in parts]
    listed = dict(part["gomod"].split() for part in parts)
    built = required(DISTRIBUTION)
    assert listed == {name: version for name, version in built.items() if not OF_EVERY_COLLECTOR.search(name)}
    (builder,) = required(DISTRIBUTION / "builder").values()
    assert {version for version in listed.values() if version.startswith("v0.")} == {builder}
    assert f"v{manifest['dist']['version']}" == builder
    assert f"module {manifest['dist']['module']}\n" in (DISTRIBUTION / "go.mod").read_text()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_every_module_is_pinned_by_checksum(module: Path) -> None:
    """A required version without its checksum would be whatever is answered on the day of the build."""
    sums = (module / "go.sum").read_text()
    replaced = set(re.findall(r"^replace (\S+) =>", (module / "go.mod").read_text(), re.M))
    assert required(module)
    for name, version in required(module).items():
        assert name in replaced or f"{name} {version} h1:" in sums
    for name, version in re.findall(r"^replace \S+ => (\S+) (\S+)$", (module / "go.mod").read_text(), re.M):
        assert not name.startswith("."), "a folder of one machine"
        assert version.startswith("v")
