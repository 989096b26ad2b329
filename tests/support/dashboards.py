"""The committed dashboards, as Grafana reads them: the JSON in collector-config/dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "collector-config" / "dashboards"
NAMES = ("job", "fleet")
LOG_STORES = {"loki": "loki", "victorialogs": "victoriametrics-logs-datasource"}
"""The log stores that the dashboards are written for, each with the type of Grafana's data source."""

Board = dict[str, Any]
Panel = dict[str, Any]


def read(name: str, log_store: str = "victorialogs") -> Board:
    """A committed dashboard."""
    return dict(json.loads((FOLDER / log_store / f"{name}.json").read_text()))


def panels(board: Board) -> list[Panel]:
    """Its panels, without the headings between them."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def variables(board: Board) -> dict[str, dict[str, Any]]:
    """Its variables, by name."""
    return {variable["name"]: variable for variable in board["templating"]["list"]}


def following(board: Board, variable: str) -> list[str]:
    """The titles of the panels that a variable narrows, by their queries; through a hidden variable, too."""
    names = {variable}
    for name, each in variables(board).items():
        if each.get("hide") and any(_uses(text, variable) for text in texts(each["query"])):
            names.add(name)
    return [
        panel["title"]
        for panel in panels(board)
        if any(_uses(target["expr"], name) for target in panel["targets"] for name in names)
    ]


def _uses(text: str, variable: str) -> bool:
    return re.search(rf"\${variable}\b|\${{{variable}\b", text) is not None


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
