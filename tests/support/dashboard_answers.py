"""What a dashboard's panels show: each query asked of the real backends as Grafana asks it, and the answer made into
what the panel makes of it.

The query is the committed one, with variables replaced by Grafana's rules; a variable that remains in a query is an
error. Of Grafana's transformations, those that the dashboards use are implemented, and any other is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.support.backends import Loki, Prometheus, Stack, VictoriaLogs
from tests.support.backends.http import get_json
from tests.support.dashboards import LOG_STORES, Board, Panel, variables

S = 1_000_000_000
ALL = "$__all"
HIDDEN = 2
"""Grafana's number for a variable that nobody chooses."""

Chosen = str | Sequence[str]
Row = dict[str, Any]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class View:
    """A dashboard as somebody looks at it.

    Attributes:
        board: Which.
        stack: The backends.
        chosen: The value of each variable, or several; :data:`ALL` for all.
        start_s: The beginning of the time range, seconds since the epoch.
        end_s: Its end.
        step_s: The time between two points of a graph; what ``$__interval`` would be.
        scrape_s: The data source's ``timeInterval``: how often metrics are exported.
    """

    board: Board
    stack: Stack
    chosen: Mapping[str, Chosen]
    start_s: float
    end_s: float
    step_s: float = 1.0
    scrape_s: float = 1.0

    @staticmethod
    def of_run(
        board: Board, stack: Stack, run_id: Chosen, start_s: float, end_s: float, *, step_s: float = 1.0,
        scrape_s: float = 1.0, **chosen: Chosen,
    ) -> View:  # fmt: skip
        """One run on a dashboard; everything else is chosen, and what is hidden is what Grafana makes of it."""
        everything = {name: ALL for name, each in variables(board).items() if each["type"] == "query"}
        view = View(board, stack, {**everything, "run_id": run_id, **chosen}, start_s, end_s, step_s, scrape_s)
        hidden = [name for name, each in variables(board).items() if each.get("hide") == HIDDEN]
        found = {name: [*view.options(name), ""][0] for name in hidden}
        return replace(view, chosen={**view.chosen, **found})

    def filled(self, text: str, language: str = "prometheus") -> str:
        """A text with its variables filled in, as the data source of that type has it done."""

        def value(found: re.Match[str]) -> str:
            name = found[1] or found[2]
            if found[3]:
                return self._formatted(name, found[3])
            if name == "__range":
                return f"{round(self.end_s - self.start_s)}s"
            if name == "__rate_interval":
                return f"{round(max(self.step_s + self.scrape_s, 4 * self.scrape_s))}s"
            if name == "__interval":
                return f"{round(self.step_s)}s"
            return self._chosen(name, language)

        # no variable of Grafana's begins with a digit: "$1" is label_replace's
        return re.sub(r"\$(?:([a-z_]\w*)|\{([a-z_]\w*)(?::(\w+))?\})", value, text)

    def _formatted(self, name: str, form: str) -> str:
        """The chosen values of a variable in one of Grafana's formats, which do not depend on the data source."""
        variable, chosen = variables(self.board)[name], self.chosen[name]
        if chosen == ALL:
            if everything := variable.get("allValue"):
                return str(everything)
            chosen = self.options(name)
        values = [chosen] if isinstance(chosen, str) else list(chosen)
        if form == "json":
            assert len(values) == 1, "several values are a list in this format"
            return json.dumps(values[0])
        assert form == "regex", f"not a format that is known here: {form}"
        escaped = [re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", each) for each in values]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    def _chosen(self, name: str, language: str) -> str:
        """What is chosen of a variable, as it stands in a query."""
        variable, chosen = variables(self.board)[name], self.chosen[name]
        if chosen == ALL:
            if everything := variable.get("allValue"):
                return str(everything)  # as it is
            chosen = self.options(name)
        if not variable["multi"] and not variable["includeAll"]:
            assert isinstance(chosen, str)
            return chosen
        return as_pattern([chosen] if isinstance(chosen, str) else chosen, language)

    def answers(self, panel: Panel) -> Any:
        """What the panel shows.

        Numbers by the names of their series (stat, bar gauge), points by the same (time series), rows by their columns
        (table, bar chart), or lines (logs).
        """
        if at_least := panel.get("interval"):
            # as many export intervals as it has minutes: the metrics here come faster than once a minute
            steps = max(self.step_s, int(at_least.removesuffix("m")) * self.scrape_s)
            if steps > self.step_s:
                return replace(self, step_s=steps).answers(panel)
        found = [self.asked(target) for target in panel["targets"]]
        pairs = list(zip(panel["targets"], found, strict=True))
        if panel["type"] in ("stat", "bargauge", "timeseries"):
            return {name: value for target, series in pairs for name, value in named(panel, target, series)}
        if panel["type"] == "logs":
            return found[0]
        return transformed(panel, [(target["refId"], each) for target, each in pairs])

    def asked(self, target: Mapping[str, Any]) -> list[Any]:
        """What one query of a panel answers."""
        expr = self.filled(target["expr"], target["datasource"]["type"])
        if target["datasource"]["type"] == "prometheus":
            prometheus: Prometheus = self.stack.prometheus
            if target.get("instant"):
                return prometheus.query(expr, self.end_s)
            return prometheus.range(expr, self.start_s, self.end_s, self.step_s)
        if target["datasource"]["type"] == LOG_STORES["victorialogs"]:
            window = {"start_ns": round(self.start_s * S), "end_ns": round(self.end_s * S)}
            logs: VictoriaLogs = self.stack.victorialogs
            if target["queryType"] == "stats":
                return logs.stats(expr, **window)
            lines = logs.query(expr, **window, limit=target["maxLines"])
            return lines if target["direction"] == "forward" else lines[::-1]
        if target["queryType"] == "instant":
            return self._loki().instant(expr, at_ns=round(self.end_s * S))
        return self._records_of_loki(expr, target["maxLines"], target["direction"])

    def _loki(self) -> Loki:
        assert self.stack.loki is not None, "no loki on PATH"
        return self.stack.loki

    def _records_of_loki(self, expr: str, most: int, direction: str) -> list[tuple[int, str, dict[str, str]]]:
        """As ``Loki.query``, but the newest first and no more than the panel asks for."""
        loki = self._loki()
        asked = {
            "query": expr, "limit": most, "direction": direction,
            "start": round(self.start_s * S), "end": round(self.end_s * S),
        }  # fmt: skip
        data = get_json(f"{loki.url}/loki/api/v1/query_range", asked)["data"]
        assert data["resultType"] == "streams", expr
        lines = [(int(at), body, dict(each["stream"])) for each in data["result"] for at, body, *_ in each["values"]]
        return sorted(lines, key=lambda line: line[0], reverse=direction == "backward")

    def annotations(self) -> dict[str, list[tuple[float, str, str]]]:
        """Time in seconds, title and text of each annotation, by the name of its query."""
        told: dict[str, list[tuple[float, str, str]]] = {}
        for each in self.board["annotations"]["list"]:
            target = {**each, "queryType": "range", "maxLines": 1000, "direction": "backward"}
            lines: list[tuple[int, str, dict[str, str]]] = self.asked(target)
            told[each["name"]] = [(at / S, rendered(each["titleFormat"], labels), body) for at, body, labels in lines]
        return told

    def options(self, name: str) -> list[str]:
        """What a variable offers."""
        variable = variables(self.board)[name]
        query = variable["query"]["query"]
        prometheus = self.stack.prometheus
        if wanted := re.fullmatch(r"label_values\((.*), (\w+)\)", query):
            # Grafana asks for the series of the time range
            asked = {"match[]": [self.filled(wanted[1])], "start": self.start_s, "end": self.end_s}
            found = get_json(f"{prometheus.url}/api/v1/label/{wanted[2]}/values", asked)["data"]
        elif wanted := re.fullmatch(r"query_result\((.*)\)", query):
            series = prometheus.query(self.filled(wanted[1]), self.end_s)
            found = [
                "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "} " + f"{value} {self.end_s}"
                for labels, value in series
            ]
        else:
            raise AssertionError(f"not a query that is known here: {query}")
        if variable.get("regex"):
            pattern = re.compile(variable["regex"].strip("/").replace("\\/", "/"))
            found = [match[1] for each in found if (match := pattern.search(each))]
        return list(dict.fromkeys(found))


def as_pattern(values: Sequence[str], language: str) -> str:
    """Values of a variable that takes several, as Grafana's data source of Prometheus or Loki writes them into a query.

    Each is a pattern that matches it alone, escaped once for the pattern and once for the text in quotes around it;
    several are alternatives, which Prometheus' data source puts in parentheses and Loki's does not.
    """
    escaped = [re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", each.replace("\\", "\\" * 4)) for each in values]
    one_of = "|".join(escaped)
    return f"({one_of})" if language == "prometheus" and len(escaped) != 1 else one_of


def rendered(template: str, labels: Mapping[str, str]) -> str:
    """``{{label}}`` filled in, as legends and Loki's annotations are."""
    return re.sub(r"\{\{\s*([\w.]+)\s*\}\}", lambda found: labels.get(found[1], ""), template)


def named(panel: Panel, target: Mapping[str, Any], series: list[tuple[dict[str, str], Any]]) -> list[tuple[str, Any]]:
    """Each series by the name that the panel gives it.

    Loki's numbers come as one table for each query: its one row is named by an override for the query.
    """
    if target["datasource"]["type"] in LOG_STORES.values():
        assert len(series) <= 1, f"a panel of {panel['type']} shows one row of a table: {series}"
        names = [
            each["value"]
            for override in panel["fieldConfig"]["overrides"]
            if override["matcher"] == {"id": "byFrameRefID", "options": target["refId"]}
            for each in override["properties"]
            if each["id"] == "displayName"
        ]
        return [(names[0] if names else "", value) for _, value in series]
    legend = target.get("legendFormat", "")
    return [("" if legend in ("", "__auto") else rendered(legend, labels), value) for labels, value in series]


# --- Grafana's transformations, as far as the dashboards use them


def transformed(panel: Panel, frames: list[tuple[str, list[Any]]]) -> list[Row]:
    """The rows of a table."""
    rows: list[Row] = []
    steps: dict[str, Callable[[list[Row], Mapping[str, Any]], list[Row]]] = {
        "filterFieldsByName": lambda found, said: [
            {n: row[n] for n in said["include"]["names"] if n in row} for row in found
        ],
        "organize": _organized,
        "convertFieldType": _converted,
        "sortBy": lambda found, said: sorted(found, key=lambda row: row[said["sort"][0]["field"]]),
    }
    for step in panel["transformations"]:
        said = step["options"]
        if step["id"] == "extractFields":
            assert (said["source"], said["keepTime"]) == ("labels", True)
            rows = [{"Time": at / S, **labels} for _, lines in frames for at, _, labels in lines]
        elif step["id"] == "merge":
            rows = rows or _merged(frames)
        else:
            rows = steps[step["id"]](rows, said)
    for order in panel["options"].get("sortBy") or []:
        rows = sorted(rows, key=lambda row: row[order["displayName"]], reverse=order["desc"])
    return rows


def _merged(frames: list[tuple[str, list[Any]]]) -> list[Row]:
    """Rows of the same labels become one."""
    merged: dict[tuple[tuple[str, str], ...], Row] = {}
    for ref, series in frames:
        value_of = "Value" if len(frames) == 1 else f"Value #{ref}"
        for labels, value in series:
            merged.setdefault(tuple(sorted(labels.items())), dict(labels))[value_of] = value
    return list(merged.values())


def _organized(rows: list[Row], said: Mapping[str, Any]) -> list[Row]:
    order = sorted(said["indexByName"], key=lambda name: said["indexByName"][name])
    return [{said["renameByName"].get(name, name): row[name] for name in order if name in row} for row in rows]


def _converted(rows: list[Row], said: Mapping[str, Any]) -> list[Row]:
    assert all(each["destinationType"] == "number" for each in said["conversions"])
    numbers = {each["targetField"] for each in said["conversions"]}
    return [{name: float(value) if name in numbers else value for name, value in row.items()} for row in rows]
