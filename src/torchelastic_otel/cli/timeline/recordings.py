"""Captures and torch's own JSON lines to events, as capture would have kept them.

What always holds: a file is one agent's; that its lines tell of several is found out, since nothing in a line of
torch's says for certain which agent wrote it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable

from torchelastic_otel.cli.captures import Capture, Recorded
from torchelastic_otel.model.event import Delivery, Origin
from torchelastic_otel.model.normalise import normalise
from torchelastic_otel.model.standing import Standing, enrich


def recorded(capture: Capture) -> list[Delivery]:
    """A recording's events."""
    times = [each.time_ns for each in capture.recorded if each.time_ns is not None]
    host_name = socket.gethostname() if capture.host_name == "" else capture.host_name
    origin = Origin(capture.digest, host_name, capture.pid, min(times, default=0))
    standing = Standing(restart_count=0)
    deliveries = []
    for sequence, each in enumerate(capture.recorded, 1):
        event = normalise(each.text, each.destination, time_ns=each.time_ns, observed_ns=each.time_ns or 0)
        standing, event = enrich(standing, event)
        deliveries.append(Delivery(sequence, event, origin))
    return deliveries


def mixed(capture: Capture) -> tuple[str, ...]:
    """The agents whose lines are mixed in a recording, by what the lines call them; none where it is one agent's.

    Agents that came one after the other on one host are not mixed: a job's log goes on with the next job's lines. Of
    several hosts they are, in any order, for a recording has one host.
    """
    for kind in ("node_state", "source"):  # torch's rendezvous events, and its agents' and workers'
        named = _without_repeats(name for each in capture.recorded if (name := _writer(each, kind)) is not None)
        if len({host for host, _ in named}) > 1 or len(set(named)) < len(named):
            return tuple(f"{host} {beside}".rstrip() for host, beside in dict.fromkeys(named))
    return ()


def _writer(each: Recorded, kind: str) -> tuple[str, str] | None:
    """The host of a line's writer, and what else tells it from others; ``None`` where the line does not say."""
    try:
        event = json.loads(each.text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or kind not in event:
        return None
    if kind == "node_state":
        return (event["hostname"], f"pid {event.get('pid')}") if isinstance(event.get("hostname"), str) else None
    told = event.get("metadata")
    if not isinstance(told, dict) or not isinstance(told.get("hostname"), str):
        return None
    if told.get("rdzv_backend") != "static":
        return told["hostname"], ""  # the rank changes from round to round; the rendezvous tells of the process
    rank = told.get("group_rank")
    return None if rank is None else (told["hostname"], f"node {rank} of {told.get('run_id')}")


def _without_repeats(names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names in their order, one once where it follows itself."""
    kept: list[tuple[str, str]] = []
    for name in names:
        if not kept or kept[-1] != name:
            kept.append(name)
    return kept
