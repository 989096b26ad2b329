"""The metric state of a process, reduced from its events; the source of its metrics (``snapshot``).

Guarantees:

- ``update`` is pure; ``to_json`` and ``from_json`` are inverse to each other, and the JSON is ASCII and bounded.
- The state grows with the number of metrics and not with the job: no node, worker or message is stored by name.
- A process that runs one job after another has the counters of each run apart, by its run id; what came before the
  first run id was known belongs to that run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.serialization import REQUIRED, Serializable, stored_as
from torchelastic_otel.processing.metrics import durations
from torchelastic_otel.processing.metrics.counters import RunCounters, count_failures
from torchelastic_otel.processing.metrics.rules import apply_event

MAX_RUNS: Final = 4
"""Runs of one process whose numbers are kept."""


@dataclass(frozen=True, slots=True)
class MetricState(Serializable):
    """See the header of this file.

    Attributes:
        start_ns: Since when it counts, wall clock nanoseconds; fixed for the process's life (``Origin.started_ns``).
        runs: The runs, the current one last.
        last_ns: The newest event's monotonic time, nanoseconds.
        sent_ns: The time of the newest snapshot, wall clock nanoseconds.
        exported_series: Series of the self metrics that an acknowledged snapshot has held.
        withheld: Whether the newest snapshot held back what must not be a series' first value: take another soon,
            and at the end at once.
    """

    start_ns: int
    runs: tuple[RunCounters, ...] = field(default=(RunCounters(),), metadata=REQUIRED)
    last_ns: int = 0
    sent_ns: int = 0
    exported_series: frozenset[str] = field(default=frozenset(), metadata=stored_as("shown", required=True))
    withheld: bool = field(default=False, metadata=stored_as("held_back"))


def update(state: MetricState, event: ElasticEvent) -> MetricState:
    """The state after one more event of its process."""
    at_ns = event.monotonic_ns if event.monotonic_ns is not None else event.observed_ns
    others, run = _run_of(state.runs, event, at_ns)
    return replace(state, runs=(*others, apply_event(run, event, at_ns)), last_ns=max(state.last_ns, at_ns))


def _run_of(
    runs: tuple[RunCounters, ...], event: ElasticEvent, at_ns: int
) -> tuple[tuple[RunCounters, ...], RunCounters]:
    """The runs but the event's, and the event's."""
    run_id = event.attributes.get(semconv.RUN_ID)
    current = runs[-1]
    # what a user records may name anything a run
    if not isinstance(run_id, str) or run_id == current.id or event.name == semconv.UNKNOWN_EVENT:
        return runs[:-1], current
    if current.id is None and not current.exported_scopes:
        return runs[:-1], replace(current, id=run_id)
    found = [run for run in runs if run.id == run_id] or [RunCounters(run_id)]
    current = replace(
        current, durations=durations.enter_phase(current.durations, Phase.ENDED, at_ns), gauges={}, keep_alive_ns=None
    )
    others = (*runs[:-1], count_failures(current))
    return tuple(run for run in others if run.id != run_id)[1 - MAX_RUNS :], found[0]
