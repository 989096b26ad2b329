"""Job history as one JSON document; ``docs/reference/timeline.schema.json`` is its schema.

Guarantees: times are RFC 3339 in UTC with nanoseconds, durations are seconds; ``null`` means unknown.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from torchelastic_otel.history.types import Run, State
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.units import NS_PER_S

_DURATIONS: Final = ("duration_ns", "error_ns")
_NAMES: Final = {
    "at_ns": "at",
    "duration_ns": "duration",
    "error_ns": "time_error",
    "first_ns": "first_seen_at",
    "has_events": "told",
    "last_ns": "last_seen_at",
    "promoted_round": "promoted_in_round",
    "standby_ns": "stood_by_at",
    "start_ns": "started_at",
    "training_ratio": "effective_training_time_ratio",
    "wait_listed_ns": "waited_at",
}
"""Keys of the document that do not follow from the field's name."""
_OMITTED: Final[Mapping[str, Sequence[str]]] = {
    "Node": ("failures",),
    "PhaseInterval": ("end_ns", "round"),
    "Run": ("agents", "last_ns", "wall_ns"),
}


def json_report(
    runs: Sequence[Run], events: Sequence[Sequence[tuple[str, ElasticEvent]]] | None = None
) -> dict[str, Any]:
    """The document.

    Args:
        runs: The runs.
        events: The events of each run with their hosts, if requested.
    """
    documents = [_run(run) for run in runs]
    for document, of_run in zip(documents, events or (), strict=False):
        document["events"] = [_event(host, event) for host, event in of_run]
    return {"runs": documents}


def _run(run: Run) -> dict[str, Any]:
    document: dict[str, Any] = _document(run)
    unknown_ns = max(0, (run.wall_ns or 0) - sum(run.time.values()))
    document["time"] = {state.value: _seconds(run.time.get(state, 0)) for state in State}
    document["time"]["unknown"] = _seconds(unknown_ns)
    for round_ in document["rounds"]:
        round_["membership"] = {key: round_.pop(key) for key in ("joined", "left", "lost")}
        if round_["restart"] is not None:
            phases = round_["restart"]["phases"]
            round_["restart"]["phases"] = {phase: _seconds(took_ns) for phase, took_ns in phases.items()}
    return document


def _document(value: Any) -> Any:
    """A value of the history's types: an object for a dataclass, with its fields in order."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_document(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    omitted = _OMITTED.get(type(value).__name__, ())
    document = {}
    for field in dataclasses.fields(value):
        name, item = field.name, getattr(value, field.name)
        if name in omitted:
            continue
        if name in _DURATIONS:
            item = _seconds(item)
        elif name.endswith("_ns"):
            item = _rfc3339(item)
        document[_NAMES.get(name, name.replace("_ns", "_at"))] = _document(item)
    return document


def _rfc3339(time_ns: int | None) -> str | None:
    if time_ns is None:
        return None
    seconds, below = divmod(time_ns, NS_PER_S)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{below:09d}Z"


def _seconds(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns / NS_PER_S


def _event(host: str, event: ElasticEvent) -> dict[str, Any]:
    def plain(value: object) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            return None  # JSON has no such number
        return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value

    return {
        "at": _rfc3339(event.time_ns),
        "host": host,
        "name": event.name,
        "severity": event.severity.name,
        "body": event.body,
        "attributes": {key: plain(value) for key, value in event.attributes.items()},
    }
