"""Panels: one function for each kind, with their common settings.

Every panel has a question as its title, a description with advice, a unit, and a text for an empty answer; a colour has
the same meaning on every panel.
"""

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import bargauge, common, dashboard, logs, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as m
from grafana_foundation_sdk.models import dashboard as d

from dashboard_source.log_queries import LogQueries

STATES = {
    "running": "green",
    "starting": "blue",
    "rendezvous": "orange",
    "detecting": "red",
    "stopping": "purple",
    "exit_barrier": "#808080",
}
"""The values of ``torchelastic.time.state`` and their colours."""
PHASES = {"detect": "red", "stop": "purple", "rendezvous": "orange", "assign_ranks": "light-blue", "start": "blue"}
"""The values of ``torchelastic.restart.phase`` and their colours."""

Queries = Sequence[Builder[Dataquery]]
Steps = Sequence[tuple[float | None, str]]
NEUTRAL: Steps = ((None, "text"),)
NONE_IS_GOOD: Steps = ((None, "green"), (1e-9, "red"))
SHARE_OF_TIME: Steps = ((None, "red"), (0.8, "yellow"), (0.95, "green"))
ANY_IS_BAD: Steps = ((None, "green"), (1, "yellow"), (5, "red"))


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(d.ThresholdsMode.ABSOLUTE)
        .steps([d.Threshold(value=value, color=color) for value, color in steps])
    )


def _colour(color: str) -> d.DynamicConfigValue:
    return d.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})


def coloured(panel, colours: Mapping[str, str]):
    """A panel on which a series has a colour by its name."""
    for name, color in colours.items():
        panel = panel.override_by_name(name, [_colour(color)])
    return panel


def titled(panel, title: str, does: str, queries: Queries, size: tuple[int, int], unit: str, nothing: str):
    """A panel with the common settings; ``size`` is its width and height on the grid."""
    panel = panel.title(title).description(does).span(size[0]).height(size[1]).unit(unit).no_value(nothing)
    for query in queries:
        panel = panel.with_target(query)
    return panel


def number(
    title: str,
    does: str,
    queries: Queries,
    *,
    unit: str,
    nothing: str,
    width: int,
    height: int = 4,
    steps: Steps = NEUTRAL,
    decimals: int | None = None,
    colours: Mapping[str, str] | None = None,
    named: bool = False,
    by_query: Mapping[str, tuple[str, str]] | None = None,
    by_name: Mapping[str, Steps] | None = None,
):
    """One number, or a few, in large type.

    Args:
        title: The question.
        does: The advice.
        queries: Each returns one value, or a few.
        unit: Grafana's name of the unit.
        nothing: The text for an empty answer.
        width: Of 24.
        height: In rows of the grid.
        steps: From which value on which colour.
        decimals: Digits behind the point; ``None`` leaves it to Grafana.
        colours: A colour for each name, in place of the steps.
        named: Whether each value has its series' name.
        by_query: A name and a colour for each query, by its letter: numbers of a log store have no names.
        by_name: Steps for one value alone, by its name.
    """
    solid = m.BigValueColorMode.BACKGROUND_SOLID
    panel = titled(stat.Panel(), title, does, queries, (width, height), unit, nothing)
    panel = panel.thresholds(_thresholds(steps)).color_mode(
        solid if colours or by_query or by_name else m.BigValueColorMode.VALUE
    )
    panel = panel.graph_mode(m.BigValueGraphMode.NONE).justify_mode(m.BigValueJustifyMode.CENTER)
    panel = panel.text_mode(m.BigValueTextMode.VALUE_AND_NAME if named else m.BigValueTextMode.VALUE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if decimals is not None:
        panel = panel.decimals(decimals)
    for ref, (name, color) in (by_query or {}).items():
        panel = panel.override_by_query(ref, [d.DynamicConfigValue(id_val="displayName", value=name), _colour(color)])
    for name, own in (by_name or {}).items():
        panel = panel.override_by_name(
            name, [d.DynamicConfigValue(id_val="thresholds", value=_thresholds(own).build())]
        )
    return coloured(panel, colours or {})


def lines(
    title: str,
    does: str,
    queries: Queries,
    *,
    unit: str,
    nothing: str,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    bars: bool = False,
    steps_between: bool = False,
    colours: Mapping[str, str] | None = None,
    most: float | None = None,
    at_least: str | None = None,
):
    """Values over time.

    ``steps_between`` draws steps between the values, ``most`` is the end of the axis, ``at_least`` the shortest time
    between two points.
    """
    panel = titled(timeseries.Panel(), title, does, queries, (width, height), unit, nothing).min(0)
    if at_least is not None:
        panel = panel.interval(at_least)
    if most is not None:
        panel = panel.max(most)
    if steps_between:
        panel = panel.line_interpolation(m.LineInterpolation.STEP_AFTER)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(m.StackingMode.NORMAL)).fill_opacity(60).line_width(0)
    if bars:
        panel = panel.draw_style(m.GraphDrawStyle.BARS).fill_opacity(80)
    legend = (
        common.VizLegendOptions().show_legend(True).placement(m.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"])
    )
    panel = panel.legend(legend.display_mode(m.LegendDisplayMode.TABLE))
    panel = panel.tooltip(common.VizTooltipOptions().mode(m.TooltipDisplayMode.MULTI).sort(m.SortOrder.DESCENDING))
    return coloured(panel, colours or {})


def ranked(
    title: str,
    does: str,
    queries: Queries,
    *,
    unit: str,
    nothing: str,
    width: int = 8,
    height: int = 8,
    steps: Steps = NEUTRAL,
    colours: Mapping[str, str] | None = None,
):
    """A bar for each series, at the end of the window."""
    panel = titled(bargauge.Panel(), title, does, queries, (width, height), unit, nothing).min(0)
    panel = panel.thresholds(_thresholds(steps)).orientation(m.VizOrientation.HORIZONTAL)
    panel = panel.display_mode(m.BarGaugeDisplayMode.BASIC).show_unfilled(True)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return coloured(panel, colours or {})


def event_log(title: str, does: str, queries: Queries, *, height: int = 12):
    """Log records as lines; each opens to its attributes, and its trace id leads to the trace."""
    panel = logs.Panel().title(title).description(does).span(24).height(height)
    for query in queries:
        panel = panel.with_target(query)
    panel = panel.show_time(True).wrap_log_message(True).enable_log_details(True).prettify_log_message(False)
    return panel.sort_order(m.LogsSortOrder.DESCENDING).dedup_strategy(m.LogsDedupStrategy.NONE)


def link_to(title: str, url: str, logs: LogQueries) -> dashboard.DashboardLink:
    """A link at a dashboard's top, which passes on the time range and the data sources."""
    sources = "&".join(f"${{{name}:queryparam}}" for name in ("prometheus", logs.name, "traces"))
    return dashboard.DashboardLink(title).type(d.DashboardLinkType.LINK).url(f"{url}?{sources}").keep_time(True)


def numbered(board: d.Dashboard) -> d.Dashboard:
    """Each panel with an id, so that a link to one panel stays right."""
    for place, panel in enumerate(board.panels or [], start=1):
        panel.id_val = place
    return board
