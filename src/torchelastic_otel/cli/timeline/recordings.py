"""Captures and torch's own JSON lines to events, as capture would have kept them.

What always holds: a file is one agent's; that its lines tell of several is found out, since nothing in a line of
torch's says for certain which agent wrote it.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass

from torchelastic_otel.cli.log_captures import Capture, Recorded
from torchelastic_otel.model.event import Origin, StoredEvent
from torchelastic_otel.processing.enrichment import AgentContext, enrich
from torchelastic_otel.torch_events.parser import parse


def recorded(capture: Capture) -> list[StoredEvent]:
    """A recording's events."""
    times = [each.time_ns for each in capture.recorded if each.time_ns is not None]
    host_name = socket.gethostname() if capture.host_name == "" else capture.host_name
    origin = Origin(capture.digest, host_name, capture.pid, min(times, default=0))
    standing = AgentContext(restart_count=0)
    deliveries = []
    for sequence, each in enumerate(capture.recorded, 1):
        event = parse(each.text, each.destination, time_ns=each.time_ns, observed_ns=each.time_ns or 0)
        standing, event = enrich(standing, event)
        deliveries.append(StoredEvent(sequence, event, origin))
    return deliveries


def mixed(capture: Capture) -> tuple[str, ...]:
    """The agents whose lines are mixed in a recording, by what the lines call them; none where it is one agent's.

    Agents that came one after the other on one host are not mixed: a job's log goes on with the next job's lines. Of
    several hosts they are, in any order, for a recording has one host.
    """
    kinds: dict[str, list[_Writer]] = {}
    for each in capture.recorded:
        writer = _writer(each)
        if writer is not None:
            named = kinds.setdefault(writer.kind, [])
            if named[-1:] != [writer]:
                named.append(writer)
    for named in kinds.values():
        if len({writer.host for writer in named}) > 1 or len(set(named)) < len(named):
            return tuple(f"{writer.host} {writer.beside}".rstrip() for writer in dict.fromkeys(named))
    return ()


@dataclass(frozen=True, slots=True)
class _Writer:
    """What a line calls the agent that wrote it: kinds of lines write the host's name in different ways."""

    kind: str
    host: str
    beside: str


def _writer(each: Recorded) -> _Writer | None:
    """Who wrote a line; ``None`` where it does not say."""
    try:
        event = json.loads(each.text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    if isinstance(event.get("hostname"), str):
        return _Writer("rendezvous", event["hostname"], f"pid {event.get('pid')}")
    told = event.get("metadata")
    if not isinstance(told, dict) or not isinstance(told.get("hostname"), str):
        return None
    if told.get("rdzv_backend") != "static":
        return _Writer("agent", told["hostname"], "")  # its rank changes from round to round
    rank = told.get("group_rank")
    return None if rank is None else _Writer("agent", told["hostname"], f"node {rank} of {told.get('run_id')}")
