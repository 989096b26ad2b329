"""The dashboards against the types that Grafana itself publishes: the npm package @grafana/schema, of Grafana 13.2.3.

Every field of the dashboard, its variables, panels, panel options and field options exists there with the right type,
and no required field is missing. Each JSON document becomes a constant of the published type, and TypeScript's compiler
reports errors, also for a field that the type does not have.

Known gap: in these types a query is any object. What queries say is proven by running them
(tests/backends/test_dashboards.py).
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.dashboards import LOG_STORES, NAMES, panels, read
from tests.support.npm import NoNpm, install

TYPES = {"@grafana/schema": "13.2.3", "typescript": "7.0.2"}
RAW = "@grafana/schema/dist/types/raw"
LOKI_ANNOTATION = ("expr", "titleFormat", "textFormat", "tagKeys")
"""What Loki's data source reads in an annotation; the published type knows the common fields alone."""
PLAIN = """
// An enumeration's member is written as its value in JSON.
type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
"""


@pytest.fixture(scope="session")
def types() -> Path:
    """A folder with Grafana's types and a compiler, installed once."""
    try:
        return install(TYPES)
    except NoNpm as missing:
        pytest.skip(f"the dashboards were NOT compared with Grafana's types: {missing}")


def misfits(types: Path, folder: Path, boards: dict[str, dict[str, Any]]) -> list[str]:
    """What the compiler says of the dashboards; nothing where all is well."""
    kinds = sorted({panel["type"] for board in boards.values() for panel in panels(board)})
    modules = types / "node_modules" / RAW
    source = [f'import type {{ Dashboard }} from "{modules}/dashboard/x/types.gen";']
    source += [f'import type * as {kind} from "{modules}/composable/{kind}/panelcfg/x/types.gen";' for kind in kinds]
    source.append(PLAIN)
    for name, board in boards.items():
        source.append(constant(name, "Dashboard", common(board)))
        for panel in panels(board):
            which = f"{name}_{panel['id']}"
            source.append(constant(f"{which}_options", f"{panel['type']}.Options", panel["options"]))
            custom = panel.get("fieldConfig", {}).get("defaults", {}).get("custom")
            if custom is not None:
                source.append(constant(f"{which}_custom", f"{panel['type']}.FieldConfig", custom))
    (folder / "dashboards.ts").write_text("\n".join(source))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"]
    compiler = types / "node_modules" / ".bin" / "tsc"
    done = subprocess.run(
        [compiler, *options, "dashboards.ts"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    said = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 0 or said, "the compiler failed without a word"
    return said


def constant(name: str, of: str, value: Any) -> str:
    """A constant of a published type."""
    return f"const {name}: Plain<{of}> = {json.dumps(value, indent=1)};"


def common(board: dict[str, Any]) -> dict[str, Any]:
    """The dashboard without what belongs to Loki's annotations alone."""
    told = [
        {field: value for field, value in each.items() if field not in LOKI_ANNOTATION}
        for each in board.get("annotations", {}).get("list", [])
    ]
    return {**board, "annotations": {"list": told}}


def test_the_dashboards_are_what_grafana_13_knows(types: Path, tmp_path: Path) -> None:
    """Grafana drops what it does not know without a word; a panel would look other than it was meant."""
    boards = {f"{name}_{store}": read(name, store) for name in NAMES for store in LOG_STORES}
    assert misfits(types, tmp_path, boards) == []


def test_a_field_that_grafana_does_not_know_is_found(types: Path, tmp_path: Path) -> None:
    """The check itself can fail: at the top, in a panel, in a panel's options, and in a value's kind."""
    board = read("job")
    first = panels(board)[0]
    wrong: list[dict[str, Any]] = [
        {**board, "titel": "x"},
        {**board, "panels": [{**first, "descripton": "x"}]},
        {**board, "panels": [{**first, "options": {**first["options"], "grafMode": "none"}}]},
        {**board, "panels": [{**first, "options": {**first["options"], "graphMode": "sometimes"}}]},
        {**board, "refresh": 60},
    ]
    for each in wrong:
        assert len(misfits(types, tmp_path, {"job": each})) > 0
