"""The committed dashboards: generated from their source, complete, and written for the person on call."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support.dashboards import FOLDER, LOG_STORES, NAMES, ROOT, following, panels, read, texts, variables

GLOBAL = {"__range", "__interval", "__rate_interval", "__url_time_range", "__value", "__from", "__to"}
"""Variables of Grafana's own that are used."""
BY_LABEL = {"stat", "bargauge", "timeseries"}
"""Kinds of panels that show the names of series."""

every_board = pytest.mark.parametrize("name", NAMES)
every_log_store = pytest.mark.parametrize("log_store", LOG_STORES)


def generated(into: Path, *options: str) -> dict[str, str]:
    """The files that the generator writes, by their path."""
    subprocess.run([sys.executable, ROOT / "scripts" / "dashboards", "--into", into, *options], check=True)
    return {str(path.relative_to(into)): path.read_text() for path in into.rglob("*.json")}


def test_committed_dashboards_are_generated_from_their_source(tmp_path: Path) -> None:
    """Finds a change of the source without `make dashboards`, and an edit of the JSON by hand."""
    assert generated(tmp_path) == {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*.json")}
    assert len(generated(tmp_path)) == len(NAMES) * len(LOG_STORES)


@every_log_store
def test_links_lead_to_tempo_with_its_option(tmp_path: Path, log_store: str) -> None:
    """Traces may be in Tempo: its data source has another type and another query."""
    boards = generated(tmp_path, "--traces", "tempo")
    job, fleet = (boards[f"{log_store}/{name}.json"] for name in ("job", "fleet"))
    assert '"query": "tempo"' in job
    assert "jaeger" not in job + fleet
    assert "traceql" in job


@every_board
def test_the_log_stores_differ_in_their_queries_alone(name: str) -> None:
    """Panels, their places, titles, units and colours, and all queries of metrics are the same."""

    def common(log_store: str) -> dict[str, Any]:
        board = read(name, log_store)
        assert len(variables(board)) > 5
        for panel in panels(board):
            panel.pop("transformations", None)  # by the names of the log store
            kept = [target for target in panel["targets"] if target["datasource"]["type"] == "prometheus"]
            panel["queries"] = len(panel["targets"])
            panel["targets"] = kept
            panel.pop("datasource", None)
        return {"panels": panels(board), "variables": sorted(set(variables(board)) - set(LOG_STORES))}

    first, *others = (common(log_store) for log_store in LOG_STORES)
    for other in others:
        # a link to a job passes on the data source by its variable's name
        assert json.dumps(str(other)).replace("victorialogs:", "loki:") == json.dumps(str(first))


@every_log_store
@every_board
def test_the_sdk_reads_them_back_without_loss(name: str, log_store: str) -> None:
    """What the SDK's typed models do not know would be missing after a round trip."""
    register_default_plugins()
    board = read(name, log_store)
    back = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    for variable in back["templating"]["list"]:
        for field in ("auto", "auto_count", "auto_min"):  # of interval variables; the SDK writes them for all kinds
            variable.pop(field, None)
    for panel in back["panels"]:
        if panel["type"] == "table":
            panel["options"].pop("footer", None)  # of Grafana before 12
    assert back == board


@every_board
def test_every_panel_asks_and_says_what_to_do(name: str) -> None:
    """At three in the morning a title that is no question, or a number without advice, helps nobody."""
    for panel in panels(read(name)):
        assert panel["title"].endswith("?"), panel["title"]
        assert len(panel["title"]) * 8.6 <= panel["gridPos"]["w"] * 72, f"too long for its panel: {panel['title']}"
        assert len(panel["description"]) > 60, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
    titles = [panel["title"] for panel in panels(read(name))]
    assert len(set(titles)) == len(titles)


@every_board
def test_every_panel_has_a_unit_and_words_for_nothing(name: str) -> None:
    """No data may mean that all is well, or that nothing arrives: each panel says which."""
    for panel in panels(read(name)):
        if panel["type"] == "logs":
            continue  # lines have neither
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        assert defaults["noValue"], panel["title"]


@every_board
def test_series_are_named_by_what_tells_them_apart(name: str) -> None:
    """A legend of whole label sets is not read."""
    for panel in panels(read(name)):
        if panel["type"] in BY_LABEL and len(panel["targets"]) > 1:
            overrides = {each["matcher"]["options"]: each for each in panel["fieldConfig"]["overrides"]}
            names = [
                target.get("legendFormat") or overrides[target["refId"]]["properties"][0]["value"]
                for target in panel["targets"]
            ]
            assert "__auto" not in names, panel["title"]
            assert len(set(names)) == len(names), panel["title"]


@every_log_store
@every_board
def test_only_variables_that_are_there_are_used(name: str, log_store: str) -> None:
    """A name that Grafana does not know stays in the query unchanged, and the answer is empty."""
    board = read(name, log_store)
    used = {found for text in texts(board) for found in re.findall(r"\$\{?([a-z_]\w*)", text)} - {"__all"}
    used -= {found for found in used if found.startswith("__data")}
    assert used - GLOBAL == set(variables(board))


@every_log_store
@every_board
def test_data_sources_are_variables(name: str, log_store: str) -> None:
    """An id of a data source is one installation's: the dashboard would be empty in any other."""
    board = read(name, log_store)
    kind = LOG_STORES[log_store]
    kinds = {"prometheus": "${prometheus}", kind: f"${{{log_store}}}"}
    sources = [each for panel in panels(board) for each in (target["datasource"] for target in panel["targets"])]
    sources += [variable["datasource"] for variable in variables(board).values() if "datasource" in variable]
    sources += [each["datasource"] for each in board.get("annotations", {}).get("list", [])]
    assert sources
    for source in sources:
        assert source["uid"] == kinds[source["type"]]
    of_variables = {each["name"]: each["query"] for each in variables(board).values() if each["type"] == "datasource"}
    assert of_variables == {"prometheus": "prometheus", log_store: kind, "traces": "jaeger"}


@every_board
def test_panels_fill_their_rows_and_do_not_overlap(name: str) -> None:
    """Grafana shifts what overlaps; a gap hides that a panel was forgotten."""
    taken: dict[tuple[int, int], str] = {}
    for panel in read(name)["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24, panel["title"]
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]
    rows = max(y for _, y in taken) + 1
    assert len(taken) == 24 * rows


def test_what_matters_most_is_on_the_first_screen() -> None:
    """Is it running, who failed first, why did it restart, how long did it take, what is lost: before any scrolling."""
    first = [
        panel["title"].lower() for panel in panels(read("job")) if panel["gridPos"]["y"] + panel["gridPos"]["h"] <= 16
    ]
    for asked in ("is it running", "who failed first", "why did it restart", "how long", "lost", "missing"):
        assert any(asked in title for title in first), asked


@every_log_store
def test_provisioning_links_logs_to_traces(log_store: str) -> None:
    """Copied into Grafana's directory, the files load both dashboards and lead from a log record to its trace."""
    (provider,) = yaml.safe_load((FOLDER / "provisioning" / "dashboards.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"]
    text = (FOLDER / log_store / "datasources.yaml").read_text()
    sources = {each["type"]: each for each in yaml.safe_load(text)["datasources"]}
    logs = LOG_STORES[log_store]
    assert set(sources) == {"prometheus", logs, "jaeger"}
    (field,) = sources[logs]["jsonData"]["derivedFields"]
    assert (field["matcherType"], field["matcherRegex"]) == ("label", "trace_id")
    assert field["datasourceUid"] == sources["jaeger"]["uid"]
    assert field["url"] == "$${__value.raw}"  # $$: Grafana replaces environment variables first
    back = sources["jaeger"]["jsonData"]["tracesToLogsV2"]
    assert back["datasourceUid"] == sources[logs]["uid"]
    if log_store == "loki":
        # only streams of the span's own cluster and service: Grafana shows no link if a span has neither
        assert back["query"] == '{$${__tags}} | trace_id="$${__trace.traceId}"'
        assert {tag["value"] for tag in back["tags"]} == {"cluster", "service_name"}
    else:
        assert back["query"] == 'trace_id:="$${__trace.traceId}"'


@every_board
@pytest.mark.parametrize("variable", ["round", "host"])
def test_what_a_variable_narrows_is_said_in_the_documentation(name: str, variable: str) -> None:
    """Who chooses a host must know which panels still tell of all of them."""
    section = (
        (ROOT / "docs" / "how-to" / "dashboards.md").read_text().partition("## Variables")[2].partition("\n## ")[0]
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    said = {(board, what.lower()): titles.split("; ") for board, what, titles in (row for row in rows if len(row) == 3)}
    found = following(read(name), variable)
    assert said.get((name, variable), []) == found
