"""Tables, and bar charts of the attributes of log records.

A table shows exactly the fields that it names, in that order.
"""

import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from grafana_foundation_sdk.builders import barchart, common, table
from grafana_foundation_sdk.models import common as m
from grafana_foundation_sdk.models import dashboard as d

from dashboard_source.panels import Queries, coloured, titled


def columns(
    title: str,
    does: str,
    queries: Queries,
    shown: Mapping[str, str],
    *,
    of: str,
    nothing: str,
    width: int = 12,
    height: int = 8,
    units: Mapping[str, str] | None = None,
    links: Mapping[str, tuple[str, str]] | None = None,
    widths: Mapping[str, int] | None = None,
    sort_by: str | None = None,
    descending: bool = True,
):
    """A table.

    Args:
        title: The question.
        does: The advice.
        queries: Its queries.
        shown: The fields that are shown, in order, each with the name of its column.
        of: ``records`` for log records, ``rows`` for rows of Prometheus.
        nothing: The text for an empty answer.
        width: Of 24.
        height: In rows of the grid.
        units: Columns that are numbers, each with its unit.
        links: Columns that lead elsewhere, each with the link's title and address.
        widths: Columns of a fixed width, pixels.
        sort_by: The column that rows are sorted by.
        descending: Whether the largest comes first.
    """
    panel = titled(table.Panel(), title, does, queries, (width, height), "string", nothing)
    for step in {"records": RECORDS, "rows": ROWS}[of]:
        panel = panel.with_transformation(step)
    for step in _arranged(shown, list(units or {}) if of != "rows" else []):
        panel = panel.with_transformation(step)
    for column in shown.values():
        properties = []
        if column in (units or {}):
            properties.append(d.DynamicConfigValue(id_val="unit", value=(units or {})[column]))
        if column in (widths or {}):
            properties.append(d.DynamicConfigValue(id_val="custom.width", value=(widths or {})[column]))
        if column in (links or {}):
            name, url = (links or {})[column]
            properties.append(
                d.DynamicConfigValue(id_val="links", value=[{"title": name, "url": url, "targetBlank": True}])
            )
        if properties:
            panel = panel.override_by_name(column, properties)
    if sort_by is not None:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(sort_by).desc(descending)])
    return panel.cell_height(m.TableCellHeight.SM).cell_options(m.TableAutoCellOptions()).filterable(True)


RECORDS = [
    d.DataTransformerConfig(id_val="extractFields", options={"source": "labels", "replace": True, "keepTime": True})
]
"""The attributes of log records become columns."""
ROWS = [d.DataTransformerConfig(id_val="merge", options={})]
"""Rows of Prometheus with the same labels are merged."""


def _arranged(shown: Mapping[str, str], numbers: Sequence[str]) -> list[d.DataTransformerConfig]:
    """Only these fields, in this order, by these names; numbers in a record's attributes arrive as text."""
    arranged = [
        d.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(shown)}}),
        d.DataTransformerConfig(
            id_val="organize",
            options={
                "indexByName": {field: place for place, field in enumerate(shown)},
                "renameByName": dict(shown),
                "excludeByName": {},
            },
        ),
    ]
    if numbers:
        conversions = [{"targetField": column, "destinationType": "number"} for column in numbers]
        arranged.append(
            d.DataTransformerConfig(id_val="convertFieldType", options={"fields": {}, "conversions": conversions})
        )
    return arranged


def stack_of_each(
    title: str,
    does: str,
    queries: Queries,
    x: tuple[str, str],
    parts: Mapping[str, str],
    *,
    unit: str,
    nothing: str,
    colours: Mapping[str, str],
    width: int = 12,
    height: int = 8,
):
    """A stacked bar for each log record: ``parts`` are its attributes, ``x`` the one that names the bar."""
    panel = titled(barchart.Panel(), title, does, queries, (width, height), unit, nothing).min(0)
    for step in (*RECORDS, *_arranged({x[0]: x[1], **parts}, list(parts.values()))):
        panel = panel.with_transformation(step)
    panel = panel.with_transformation(d.DataTransformerConfig(id_val="sortBy", options={"sort": [{"field": x[1]}]}))
    panel = panel.x_field(x[1]).stacking(m.StackingMode.NORMAL).orientation(m.VizOrientation.HORIZONTAL)
    legend = common.VizLegendOptions().show_legend(True).placement(m.LegendPlacement.BOTTOM).calcs([])
    panel = panel.legend(legend.display_mode(m.LegendDisplayMode.LIST)).show_value(m.VisibilityMode.AUTO)
    panel = panel.tooltip(common.VizTooltipOptions().mode(m.TooltipDisplayMode.MULTI).sort(m.SortOrder.NONE))
    return coloured(panel.fill_opacity(80), colours)


def address_of_trace(kind: str) -> str:
    """The address in Explore of the trace whose id is in a cell; ``kind`` is jaeger or tempo."""
    query = {"refId": "A", "datasource": {"type": kind, "uid": "${traces}"}, "query": "${__value.raw}"}
    if kind == "tempo":
        query["queryType"] = "traceql"
    within = {"from": "${__from}", "to": "${__to}"}
    pane = json.dumps({"trace": {"datasource": "${traces}", "queries": [query], "range": within}})
    # Grafana's variables must not be percent-encoded
    parts = re.split(r"(\$\{[^}]*\})", pane)
    return "/explore?schemaVersion=1&panes=" + "".join(
        part if part[:2] == "${" else quote(part, safe="") for part in parts
    )
