"""The dashboards drawn with matplotlib instead of Grafana: the same grid, titles, units, colours and answers.

Only the answers of the panels' queries are drawn; the picture has a note of its origin.
"""

import datetime
import pathlib
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import dates, pyplot

from dashboard_source.value_format import colour_of, in_unit, label_width, shortened

PX_X, PX_Y = 72, 40
"""Pixels of one unit of Grafana's grid."""
BACK, PANEL, EDGE, TEXT, DIM = "#f4f5f5", "#ffffff", "#d5d7da", "#24292e", "#6e7479"
NOTE = "drawn by matplotlib from the answers of the panels' queries, not a Grafana screenshot"
DPI = 100
BOLD = 1.12
"""How much wider bold letters are."""
HEAD = 1.2
"""Rows of the grid for the heading."""

Panel = dict[str, Any]


def draw(board: dict[str, Any], answers: dict[str, Any], annotations: dict[str, Any], path: pathlib.Path) -> None:
    """One dashboard as a PNG."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + HEAD
    width, height = 24 * PX_X, rows * PX_Y
    figure = pyplot.figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACK)
    figure.text(0.006, 1 - 0.5 * HEAD / rows, board["title"], size=15, weight="bold", va="center", color=TEXT)
    figure.text(0.994, 1 - 0.5 * HEAD / rows, NOTE, size=10, va="center", ha="right", color=DIM)
    for panel in board["panels"]:
        place = panel["gridPos"]
        x, w = place["x"] / 24, place["w"] / 24
        h = place["h"] / rows
        y = 1 - (place["y"] + HEAD) / rows - h
        if panel["type"] == "row":
            figure.text(x + 0.006, y + h / 2, panel["title"], size=12, weight="bold", va="center", color=DIM)
            continue
        gap_x, gap_y = 4 / width, 4 / height
        axes = figure.add_axes((x + gap_x, y + gap_y, w - 2 * gap_x, h - 2 * gap_y), facecolor=PANEL)
        for side in axes.spines.values():
            side.set_color(EDGE)
        axes.set_xticks([])
        axes.set_yticks([])
        at = (place["w"] * PX_X - 8, place["h"] * PX_Y - 8)
        title = shortened(panel["title"], (at[0] - 14) / BOLD, 10)
        axes.text(
            8 / at[0], 1 - 8 / at[1], title, size=10, weight="bold", va="top", color=TEXT, transform=axes.transAxes
        )
        inner = figure.add_axes(
            (x + gap_x + 8 / width, y + gap_y + 8 / height, w - 2 * gap_x - 16 / width, h - 2 * gap_y - 40 / height)
        )
        inner.axis("off")
        answer = answers[panel["title"]]
        if not answer:
            text = panel.get("fieldConfig", {}).get("defaults", {}).get("noValue", "nothing")
            inner.text(
                0.5, 0.5, text, size=14, ha="center", va="center", color="#3a8a3e" if text != "not known" else DIM
            )
            continue
        size = (at[0] - 16, at[1] - 40)
        _KINDS[panel["type"]](inner, panel, answer, size, annotations)
    figure.savefig(path, dpi=DPI, facecolor=BACK, pil_kwargs={"optimize": True})
    pyplot.close(figure)
    _fewer_colours(path)


def _fewer_colours(path: pathlib.Path) -> None:
    """A palette makes a picture of flat colours a third as large."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def _write(axes, x: float, y: float, text: str, *, color: str = TEXT, va: str = "center", **how: Any) -> None:
    """A text at a place of the panel, from 0 to 1."""
    axes.text(x, y, text, color=color, va=va, transform=axes.transAxes, **how)


def _stat(axes, panel: Panel, answer: dict[str, float], size, annotations) -> None:
    for place, (name, value) in enumerate(answer.items()):
        left, wide = place / len(answer), 1 / len(answer)
        color = colour_of(panel, name, value)
        text = in_unit(panel, value)
        if panel["options"]["colorMode"] == "background_solid":
            axes.add_patch(pyplot.Rectangle((left + 0.01, 0), wide - 0.02, 1, color=color, transform=axes.transAxes))
            color = "white"
        large = min(20, 0.9 * wide * size[0] / (0.95 * len(text)))
        _write(axes, left + wide / 2, 0.56 if name else 0.5, text, size=large, weight="bold", ha="center", color=color)
        _write(axes, left + wide / 2, 0.16, name, size=11, ha="center", color=color)


def _bargauge(axes, panel: Panel, answer: dict[str, float], size, annotations) -> None:
    most = max(answer.values()) or 1
    tall = min(1 / len(answer), 0.17)
    names = max(label_width(name, 10) for name in answer) / size[0] + 0.03
    for place, (name, value) in enumerate(answer.items()):
        y = 1 - (place + 1) * tall
        axes.text(
            names - 0.02, y + tall / 2, name, size=10, ha="right", va="center", color=TEXT, transform=axes.transAxes
        )
        room = 0.80 - names
        for share, color in ((1, "#eceef0"), (value / most, colour_of(panel, name, value))):
            axes.add_patch(
                pyplot.Rectangle(
                    (names, y + 0.15 * tall), room * share, 0.7 * tall, color=color, transform=axes.transAxes
                )
            )
        axes.text(0.82, y + tall / 2, in_unit(panel, value), size=10, va="center", color=TEXT, transform=axes.transAxes)


def _timeseries(axes, panel: Panel, answer: dict[str, list[list[float]]], size, annotations) -> None:
    axes.axis("on")
    axes.set_position(_inset(axes, size, left=38, bottom=44))
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    times = sorted({at for points in answer.values() for at, _ in points})
    drawn = [datetime.datetime.fromtimestamp(at, datetime.timezone.utc) for at in times]
    values = {name: [dict(map(tuple, points)).get(at, 0.0) for at in times] for name, points in answer.items()}
    colors = [colour_of(panel, name, 0) for name in values]
    if custom.get("drawStyle") == "bars":
        for name, color in zip(values, colors, strict=True):
            axes.bar(drawn, values[name], width=0.8 / 86400, color=color)
        axes.set_xlim(drawn[0] - datetime.timedelta(seconds=20), drawn[-1] + datetime.timedelta(seconds=20))
    elif custom.get("stacking", {}).get("mode") == "normal":
        axes.stackplot(drawn, list(values.values()), colors=colors, alpha=0.75)
    else:
        step = custom.get("lineInterpolation") == "stepAfter"
        for name, color in zip(values, colors, strict=True):
            axes.plot(drawn, values[name], color=color, linewidth=1.8, drawstyle="steps-post" if step else "default")
    for color, name in (("#3a8a3e", "Rounds"), ("#e0752d", "Restarts"), ("#3274d9", "Membership")):
        for at, _, _ in annotations.get(name, []):
            axes.axvline(
                datetime.datetime.fromtimestamp(at, datetime.timezone.utc),
                color=color,
                linestyle=(0, (4, 3)),
                linewidth=1,
            )
    axes.set_ylim(0, panel["fieldConfig"]["defaults"].get("max"))
    axes.yaxis.set_major_locator(pyplot.MaxNLocator(4, integer=panel["fieldConfig"]["defaults"]["unit"] == "none"))
    axes.yaxis.set_major_formatter(lambda value, _: in_unit(panel, value))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=5))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
    axes.tick_params(labelsize=8, colors=DIM, length=2)
    axes.grid(color="#eceef0")
    axes.set_axisbelow(True)
    axes.set_facecolor(PANEL)
    for side in axes.spines.values():
        side.set_color(EDGE)
    _legend(axes, dict(zip(values, colors, strict=True)), size)


def _legend(axes, colors: dict[str, str], size) -> None:
    x = -30 / size[0]
    for name, color in colors.items():
        y = -32 / (size[1] - 44)
        axes.text(x, y, "■", size=9, color=color, transform=axes.transAxes, va="center")
        axes.text(x + 12 / size[0], y, name, size=9, color=TEXT, transform=axes.transAxes, va="center")
        x += (label_width(name, 9) + 30) / size[0]


def _inset(axes, size, *, left: float, bottom: float) -> tuple[float, float, float, float]:
    place = axes.get_position()
    return (
        place.x0 + place.width * left / size[0], place.y0 + place.height * bottom / size[1],
        place.width * (1 - (left + 6) / size[0]), place.height * (1 - bottom / size[1]),
    )  # fmt: skip


def _table(axes, panel: Panel, answer: list[dict[str, Any]], size, annotations) -> None:
    names = list(dict.fromkeys(name for row in answer for name in row))
    cells = [[in_unit(panel, row.get(name, ""), column=name) for name in names] for row in answer]
    wanted = [
        max(label_width(name, 9.5) * BOLD, *(label_width(row[place], 9.5) for row in cells)) + 20
        for place, name in enumerate(names)
    ]
    scale = min(1.0, size[0] / sum(wanted))
    y, x = size[1] - 10, 0.0
    for row in [names, *cells]:
        x = 0.0
        for text, wide in zip(row, wanted, strict=True):
            shown = shortened(text, wide * scale - 8, 9.5)
            axes.text(x / size[0], y / size[1], shown, size=9.5, va="center", transform=axes.transAxes,
                      color=DIM if row is names else TEXT, weight="bold" if row is names else "normal")  # fmt: skip
            x += wide * scale
        y -= 24
        axes.plot([0, 1], [(y + 12) / size[1]] * 2, color=EDGE, linewidth=0.7, transform=axes.transAxes)


def _barchart(axes, panel: Panel, answer: list[dict[str, Any]], size, annotations) -> None:
    named = panel["options"]["xField"]
    parts = [name for name in answer[0] if name != named]
    most = max(sum(row[part] for part in parts) for row in answer)
    tall = min(0.8 / len(answer), 0.25)
    for place, row in enumerate(answer):
        x, y = 0.14, 0.85 - (place + 1) * tall
        axes.text(
            0.12, y + tall / 2, f"{named} {row[named]}", size=10, ha="right", va="center", transform=axes.transAxes
        )
        for part in parts:
            wide = 0.74 * row[part] / most
            bar = pyplot.Rectangle((x, y), wide, 0.8 * tall, color=colour_of(panel, part, 0), transform=axes.transAxes)
            axes.add_patch(bar)
            if wide > 0.08:
                axes.text(x + wide / 2, y + 0.4 * tall, in_unit(panel, row[part]), size=9, color="white", ha="center",
                          va="center", transform=axes.transAxes)  # fmt: skip
            x += wide
        total = in_unit(panel, sum(row[part] for part in parts))
        axes.text(x + 0.01, y + 0.4 * tall, total, size=10, va="center", transform=axes.transAxes)
    x = 0.0
    for part in parts:
        axes.text(x, 0.03, "■", size=9, color=colour_of(panel, part, 0), transform=axes.transAxes, va="center")
        axes.text(x + 14 / size[0], 0.03, part, size=9, color=TEXT, transform=axes.transAxes, va="center")
        x += (label_width(part, 9) + 34) / size[0]


def _logs(axes, panel: Panel, answer: list[list[Any]], size, annotations) -> None:
    shades = {"INFO": "#3274d9", "WARN": "#e0752d", "ERROR": "#c4162a", "FATAL": "#8f3bb8"}
    shown = int(size[1] // 21)
    for place, (at, line, labels) in enumerate(answer[:shown]):
        y = 1 - (place * 21 + 10) / size[1]
        time = datetime.datetime.fromtimestamp(at / 1e9, datetime.timezone.utc).strftime("%H:%M:%S.%f")[:-3]
        severity = labels.get("severity_text", "INFO")
        axes.plot(
            [0, 0],
            [y - 8 / size[1], y + 8 / size[1]],
            color=shades.get(severity, DIM),
            linewidth=4,
            transform=axes.transAxes,
        )
        axes.text(0.006, y, time, size=9, family="monospace", color=DIM, va="center", transform=axes.transAxes)
        text = shortened(line.replace("\n", " "), size[0] - 120 - 150, 9)
        axes.text(0.075, y, text, size=9, color=TEXT, va="center", transform=axes.transAxes)
        if labels.get("trace_id"):
            axes.text(1, y, f"trace {labels['trace_id'][:8]}", size=9, color="#3274d9", ha="right", va="center",
                      transform=axes.transAxes)  # fmt: skip


_KINDS = {
    "stat": _stat,
    "bargauge": _bargauge,
    "timeseries": _timeseries,
    "table": _table,
    "barchart": _barchart,
    "logs": _logs,
}
