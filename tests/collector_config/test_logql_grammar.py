"""All LogQL of this project, parsed by the grammar that Grafana publishes: the npm package @grafana/lezer-logql.

Loki itself is under the AGPL and not built here. The queries have LogsQL twins that run on a real VictoriaLogs, and run
on a real Loki if one is on PATH (tests/backends).
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.alert_rules import FILES, LOKI, alerts_of, blocks
from tests.support.dashboards import FOLDER, NAMES, ROOT, panels, read
from tests.support.npm import NoNpm, install

GRAMMAR = {"@grafana/lezer-logql": "0.4.2", "@lezer/lr": "1.4.10", "@lezer/common": "1.5.5"}
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "collector-config").rglob("*.md")]
PARSE = """
import { createRequire } from "node:module";
const { parser } = createRequire(process.argv[2])("@grafana/lezer-logql");
const queries = JSON.parse(process.argv[3]);
const errors = queries.map((query) => {
  const places = [];
  parser.parse(query).iterate({ enter: (node) => { if (node.type.isError) places.push(node.from); } });
  return places;
});
console.log(JSON.stringify(errors));
"""


@pytest.fixture(scope="session")
def grammar() -> Path:
    """The directory with the grammar."""
    try:
        return install(GRAMMAR)
    except NoNpm as missing:
        pytest.skip(f"the LogQL was NOT parsed: {missing}")


def errors(grammar: Path, folder: Path, queries: list[str]) -> dict[str, list[int]]:
    """The queries that are no LogQL, with the places of the errors."""
    (folder / "parse.mjs").write_text(PARSE)
    command: list[str | Path] = ["node", folder / "parse.mjs", grammar / "package.json", json.dumps(queries)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return {query: places for query, places in zip(queries, json.loads(done.stdout), strict=True) if places}


def in_dashboards() -> Iterator[str]:
    """The queries of panels and annotations, with values for Grafana's variables."""
    for name in NAMES:
        board = read(name, "loki")
        texts = [target for panel in panels(board) for target in panel["targets"]]
        for each in (*texts, *board.get("annotations", {}).get("list", [])):
            if each["datasource"]["type"] == "loki":
                yield re.sub(r"\$(\w+)", lambda name: "5m" if name[1] == "__range" else "x", each["expr"])
    text = (FOLDER / "loki" / "datasources.yaml").read_text()
    (link,) = re.findall(r"^ +query: '(.*)'$", text, re.MULTILINE)
    yield link.replace("$${__tags}", 'cluster="x"').replace("$${__trace.traceId}", "0")


def in_alerts() -> Iterator[str]:
    """Loki's rules, and the queries in the texts of all alerts."""
    for rule in alerts_of(LOKI).values():
        yield rule["expr"]
    for rule in alerts_of(*FILES, LOKI).values():
        text = re.sub(r"\{\{.*?\}\}", "x", rule["annotations"]["description"], flags=re.DOTALL)
        yield from re.findall(r"\{service_name.*?(?= or, |$)", text)


def in_pages() -> Iterator[str]:
    """The blocks of the documentation, and the code within its sentences and tables."""
    for page in PAGES:
        text = page.read_text()
        yield from blocks(text, "logql")
        yield from (code.replace(r"\|", "|") for code in re.findall(r"`(\{service_name=[^`]*)`", text))


SOURCES = {"dashboards": (in_dashboards, 8), "alerts": (in_alerts, 4), "pages": (in_pages, 9)}
"""Where LogQL is, and how many queries there are at least."""


@pytest.mark.parametrize("source", SOURCES)
def test_all_logql_is_logql(grammar: Path, tmp_path: Path, source: str) -> None:
    """A query that Loki does not accept is found without a Loki."""
    find, least = SOURCES[source]
    queries = list(find())
    assert len(queries) >= least
    assert errors(grammar, tmp_path, queries) == {}


@pytest.mark.parametrize("wrong", ['{service_name="a"', '{a="b"} | | c', 'sum by (a) count_over_time({a="b"} [5m])'])
def test_what_is_no_logql_is_found(grammar: Path, tmp_path: Path, wrong: str) -> None:
    """The check can fail: a brace, a filter, a parenthesis."""
    assert errors(grammar, tmp_path, ['{service_name="a"} | b="c"', wrong]).keys() == {wrong}
