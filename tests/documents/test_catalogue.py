"""What docs/contributing asks for is done, for every event, metric, exporter and launcher.

Each test is parametrised over a list in the code. A new entry fails until all places of its checklist have it.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.markdown import ROOT
from torchelastic_otel import semconv
from torchelastic_otel.cli.run import LAUNCHERS
from torchelastic_otel.export.destinations import BUILT_IN_DESTINATIONS, BUILT_IN_EXPORTERS
from torchelastic_otel.instrument import arming
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.processing.metrics.catalogue import METRICS as DEFINITIONS

sys.path.insert(0, str(ROOT / "scripts"))
import event_table
import prometheus_names

PACKAGE = ROOT / "src" / "torchelastic_otel"
REFERENCE = ROOT / "docs" / "reference"
WITHOUT_A_PANEL = {
    "torchelastic.rendezvous.duration": "the dashboards read the rendezvous phase of a restart, and the states of time",
    "torchelastic.export.delivered": "a loss is what failed or was rejected; delivery itself is no question of a panel",
}
"""Metrics that no dashboard, rule or alert reads, and why."""


def section(kind: str) -> dict[str, str]:
    """The constants of semconv.py below its headings that begin so: constant to name."""
    found: dict[str, str] = {}
    inside = False
    for line in (PACKAGE / "semconv.py").read_text().splitlines():
        if line.startswith("# --- "):
            inside = line.startswith(f"# --- {kind}")
        elif inside and (match := re.match(r"([A-Z]\w+): Final = ", line)):
            value = getattr(semconv, match[1])
            if isinstance(value, str) and value.startswith("torchelastic."):
                found[match[1]] = value
    return found


EVENTS = section("events")
METRICS = section("metrics")


@cache
def texts_of_tests() -> tuple[str, ...]:
    """The texts of all tests but those of the documents."""
    paths = (path for path in (ROOT / "tests").rglob("*.py") if "documents" not in path.parts)
    return tuple(path.read_text() for path in paths)


def named_in_a_test(constant: str, name: str) -> bool:
    """Whether a test uses the constant or the name; a test of the parser may leave out what is before the last dot."""
    pattern = re.compile(rf"\bsemconv\.{constant}\b|\b{re.escape(name)}\b|\"{re.escape(name.partition('.')[2])}\"")
    last = f'"{name.rpartition(".")[2]}"'
    return any(pattern.search(text) or ("torch_events" in text and last in text) for text in texts_of_tests())


def rows(page: str) -> set[str]:
    """The names in backticks in the tables of a page of the reference."""
    lines = (line for line in (REFERENCE / f"{page}.md").read_text().splitlines() if line.startswith("|"))
    return {name for line in lines for name in re.findall(r"`([^`]+)`", line)}


def test_the_lists_are_not_empty() -> None:
    """A heading of semconv.py that was renamed must not switch this file off."""
    assert len(EVENTS) > 40
    assert len(METRICS) > 20
    assert EVENTS.keys().isdisjoint(METRICS)


@pytest.mark.parametrize("constant", EVENTS)
def test_an_event_is_done(constant: str) -> None:
    """docs/contributing/event.md: severity, text or pattern, row, test."""
    name = EVENTS[constant]
    of_torch = {row[1].strip("`"): row for row in event_table.rows()}
    inferred = {row[0].strip("`"): row for row in event_table.inferred_rows()}
    assert name in of_torch or name in inferred, f"{name} has no pattern and no message"
    for row in filter(None, (of_torch.get(name), inferred.get(name))):
        assert f"| {' | '.join(row)} |" in (REFERENCE / "events.md").read_text(), f"{name}: run make tables"
    assert named_in_a_test(constant, name), f"no test names {name}"


@pytest.mark.parametrize("constant", METRICS)
def test_a_metric_is_done(constant: str) -> None:
    """docs/contributing/metric.md: row in the catalogue, in the reference, a test, and somebody who reads it."""
    name = METRICS[constant]
    if name.endswith("."):  # the prefix of torch's own
        return
    known = {row.name for row in DEFINITIONS} | {row[0] for row in prometheus_names.OF_DELIVERY}
    if name not in known:
        assert any(name in dict(row.dimensions) for row in DEFINITIONS) or _is_attribute(constant), f"{name}: no row"
        return
    assert name in rows("metrics"), f"{name}: run make tables"
    assert named_in_a_test(constant, name), f"no test names {name}"
    read = any(series in _panels_and_rules() for series in prometheus_names.series_names()[name])
    assert read is (name not in WITHOUT_A_PANEL), f"{name}: no panel or rule reads it; if that is right, say why here"


def _is_attribute(constant: str) -> bool:
    return not constant.startswith("METRIC_")


@cache
def _panels_and_rules() -> str:
    folder = ROOT / "collector-config"
    paths = [*folder.glob("dashboards/**/*.json"), *folder.glob("rules/*.yaml")]
    assert len(paths) >= 4
    texts = (json.dumps(json.loads(path.read_text())) if path.suffix == ".json" else path.read_text() for path in paths)
    return "\n".join(texts)


@pytest.mark.parametrize("name", BUILT_IN_EXPORTERS)
def test_an_exporter_is_done(name: str) -> None:
    """docs/contributing/exporter.md: a destination, a maker, a test, and a row."""
    destinations = [destination for destination, exporters in BUILT_IN_DESTINATIONS.items() if name in exporters]
    assert destinations, f"no destination leads to {name}"
    assert set(destinations) & rows("destinations"), f"docs/reference/destinations.md has no row for {destinations}"
    built_in = BUILT_IN_EXPORTERS[name]
    module = importlib.import_module(f"torchelastic_otel.export.otel.{built_in.module}")
    made = set(Signal) if name.startswith("otlp") else set(module.EXPORTERS)
    assert made >= set(built_in.signals), f"{module.__name__}.EXPORTERS lacks a signal of {name}"
    assert any(f'"{name}"' in text for text in texts_of_tests()), f"no test makes {name}"


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_is_done(name: str) -> None:
    """docs/contributing/launcher.md: rows, and a test that runs a job with it."""
    page = (ROOT / "docs" / "how-to" / "launchers.md").read_text()
    assert any(f"`{name}`" in line or f" {name}`" in line for line in page.splitlines() if line.startswith("|"))
    live = "\n".join(path.read_text() for path in (ROOT / "tests" / "live").rglob("*.py"))
    assert re.search(rf"\b{name}\b", live), f"no live test runs {name}"
    assert name in (REFERENCE / "compatibility.md").read_text()


@pytest.mark.parametrize("package", arming.VENDORED_COPIES)
def test_a_copy_of_torch_elastic_has_a_launcher(package: str) -> None:
    """A copy that nobody can start is not watched by anybody."""
    assert any(module.partition(".")[0] == package.partition(".")[0] for module, _ in LAUNCHERS.values())


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_every_source_file_that_a_page_names_exists(page: Path) -> None:
    """A checklist leads to its places, also after a move."""
    for name in re.findall(r"`((?:\w+/)+[\w-]+\.(?:py|yaml|md|json)|\w+\.py)`", page.read_text()):
        assert any((root / name).is_file() for root in (ROOT, PACKAGE, page.parent)) or _anywhere(name), name


def _anywhere(name: str) -> bool:
    """``train.py`` is the reader's; a bare name is looked for below src and tests."""
    return name == "train.py" or any(path for root in (PACKAGE, ROOT / "tests") for path in root.rglob(name))
