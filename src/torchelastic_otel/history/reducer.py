"""The fold: events of many processes in, runs out.

What always holds: the story is of the set of events; their order, and how often one comes, change nothing. An event
is the one of its process and its number there (``log.record.uid``). Nothing is guessed silently: see :mod:`.types`.

Not promised: the truth about what no event says, and order across hosts beyond what their clocks and the error bounds
allow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torchelastic_otel.history.agent_history import agent_history
from torchelastic_otel.history.agents import agents_of
from torchelastic_otel.history.grouping import groups_of, without_repeats
from torchelastic_otel.history.runs import run_of
from torchelastic_otel.history.types import Run
from torchelastic_otel.model.event import StoredEvent


@dataclass(frozen=True, slots=True)
class HistoryState:
    """The events so far.

    Attributes:
        events: Each event once, by its process and its number there.
    """

    events: Mapping[tuple[str, int], StoredEvent] = field(default_factory=dict)


def add(story: HistoryState, deliveries: Iterable[StoredEvent]) -> HistoryState:
    """The story with more events; one that is known already changes nothing."""
    events = dict(story.events)
    for delivery in deliveries:
        key = delivery.origin.id, delivery.sequence
        known = events.get(key)
        if known is None or _fullness(known) < _fullness(delivery):
            events[key] = delivery
    return HistoryState(events)


def _fullness(delivery: StoredEvent) -> tuple[bool, int, str, str]:
    """A spool keeps more of an event than a log record that was made of it."""
    event = delivery.event
    return event.monotonic_ns is not None, len(event.attributes), event.to_json(), delivery.origin.to_json()


def build_runs(story: HistoryState, *, living: Collection[str] = (), gone: Collection[str] = ()) -> tuple[Run, ...]:
    """The runs that the events tell of, the first one first.

    Args:
        story: The events.
        living: Origin ids of processes that are known to live.
        gone: Origin ids of processes that are known to be gone.
    """
    by_process: dict[str, list[StoredEvent]] = {}
    for (origin_id, _), delivery in story.events.items():
        by_process.setdefault(origin_id, []).append(delivery)
    processes = dict.fromkeys(gone, False) | dict.fromkeys(living, True)
    courses = [
        agent_history(agent) for agent in agents_of(by_process, processes) if agent.run_id or len(agent.events) > 1
    ]
    runs = []
    for group in groups_of(courses):
        kept, repeats = without_repeats(group.courses)
        runs.append(run_of(group.run_id, group.nonce, kept, group.by_time, repeats))
    return tuple(sorted(runs, key=lambda run: (run.started_ns or 0, run.run_id, run.nonce or "", repr(run.nodes[:1]))))
