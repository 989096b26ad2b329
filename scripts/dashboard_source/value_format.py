"""Values, names and colours by a panel's settings, for the pictures.

An unknown unit or colour is an error, so that no picture shows a number without its unit.
"""

import datetime
from typing import Any

from matplotlib import font_manager, textpath

COLOURS = {
    "green": "#56a64b", "yellow": "#e0b400", "red": "#e02f44", "blue": "#3274d9", "light-blue": "#8ab8ff",
    "orange": "#ff780a", "purple": "#a352cc", "text": "#24292e",
}  # fmt: skip
_FONT = font_manager.FontProperties(family="DejaVu Sans")

Panel = dict[str, Any]


def _settings(panel: Panel, name: str) -> dict[str, Any]:
    """The overrides of a series or a column, by its name."""
    return {
        each["id"]: each.get("value")
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"] == {"id": "byName", "options": name}
        or any(each["id"] == "displayName" and each["value"] == name for each in override["properties"])
        for each in override["properties"]
    }


def colour_of(panel: Panel, name: str, value: float) -> str:
    """The colour of a series, by its name or else by its value."""
    own, common = _settings(panel, name), panel["fieldConfig"]["defaults"]
    if color := own.get("color"):
        return COLOURS.get(color["fixedColor"], color["fixedColor"])
    steps = (own.get("thresholds") or common.get("thresholds") or {"steps": [{"value": None, "color": "blue"}]})[
        "steps"
    ]
    color = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
    return COLOURS["blue"] if color == "text" and panel["type"] != "stat" else COLOURS[color]


def in_unit(panel: Panel, value: Any, column: str = "") -> str:
    """A value with its unit; ``column`` where a table's column has one of its own."""
    defaults = panel["fieldConfig"]["defaults"]
    unit = (
        _settings(panel, column).get("unit", "none" if isinstance(value, float) else "string")
        if column
        else defaults["unit"]
    )
    if column == "Time":
        unit, value = "dateTimeAsIso", value * 1000
    if not isinstance(value, (int, float)):
        return str(value)
    digits = defaults.get("decimals")
    if unit == "s":
        return _seconds(value)
    if unit == "percentunit":
        return f"{value:.1%}" if digits else f"{value:.0%}"
    if unit == "bytes":
        return f"{value / 1024:.1f} KiB"
    if unit == "dateTimeAsIso":
        return datetime.datetime.fromtimestamp(value / 1000, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    plain = f"{value:.{digits}f}" if digits is not None else f"{value:.3g}"
    if unit.startswith("suffix:"):
        return f"{plain}{unit.removeprefix('suffix:')}"
    assert unit in ("none", "short", "string"), unit
    return plain


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 60 else f"{value / 60:.3g} min"


def label_width(text: str, size: float) -> float:
    """Pixels that a text takes, at 100 to the inch."""
    if not text:
        return 0
    return textpath.TextPath((0, 0), text.replace("$", "S"), size=size, prop=_FONT).get_extents().width * 100 / 72


def shortened(text: str, room: float, size: float) -> str:
    """A text that fits into so many pixels."""
    if label_width(text, size) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if label_width(text[:middle] + "…", size) <= room else (low, middle - 1)
    return text[:low] + "…"
