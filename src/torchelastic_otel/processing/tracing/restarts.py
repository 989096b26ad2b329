"""A completed restart: its cause, and how long each of its phases took.

Guarantees: a restart is emitted once its workers run again and its cause is known, or will not be known; phases are
measured by this agent's monotonic clock, but for the time until it noticed, which only wall clocks give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, ElasticEvent, Severity
from torchelastic_otel.model.failure import UNKNOWN
from torchelastic_otel.model.phases import RESTART_PHASES, Phase
from torchelastic_otel.processing.tracing.spans import common_attributes
from torchelastic_otel.processing.tracing.state import TraceState
from torchelastic_otel.torch_events.catalogue import message_of

UNKNOWN_CAUSE: Final[Mapping[str, AttributeValue]] = {semconv.RESTART_REASON: UNKNOWN, semconv.RESTART_AGREED: False}
"""The attributes if no cause was reported."""


def restart_completed(state: TraceState, event: ElasticEvent) -> tuple[TraceState, ElasticEvent]:
    """The state after a restart, and its event, which is derived from this one."""
    durations = dict(state.durations or {})
    durations[Phase.DETECT.value] = durations.get(Phase.DETECT.value, 0) + _undetected_ns(state)
    seconds = {phase: durations.get(phase, 0) / 1e9 for phase in RESTART_PHASES}
    round_ = state.last_round
    attributes: dict[str, AttributeValue] = {semconv.INFERRED: True, **(state.cause or {})}
    attributes |= common_attributes(state, round_) if round_ is not None else {}
    attributes[semconv.RESTART_DURATION] = round(sum(seconds.values()), 9)
    for phase, value in seconds.items():
        attributes[semconv.RESTART_PHASE_DURATION.format(phase=phase)] = value
    if semconv.NODE_ID in event.attributes:
        attributes[semconv.NODE_ID] = event.attributes[semconv.NODE_ID]
    completed = ElasticEvent(
        semconv.RESTART_COMPLETED,
        event.destination,
        message_of(semconv.RESTART_COMPLETED, attributes),
        state.restarted_ns,
        event.observed_ns,
        state.restarted_monotonic_ns,
        Severity.WARN,
        attributes,
    )
    return replace(state, restarted_ns=None, restarting=False, durations=None), completed


def _undetected_ns(state: TraceState) -> int:
    """From the agreed cause, on another node, to the moment when this agent began to do something about it.

    Both by their own host's wall clock: where those differ, this differs by as much.
    """
    cause = state.cause or {}
    failed_ns, durations = cause.get(f"{semconv.CAUSE}.time"), state.durations or {}
    if cause.get(semconv.RESTART_AGREED) is not True or not isinstance(failed_ns, int) or state.restarted_ns is None:
        return 0
    began_ns = state.restarted_ns - sum(durations.get(phase, 0) for phase in RESTART_PHASES)
    return max(0, began_ns - failed_ns)


def is_cause_attribute(name: str) -> bool:
    """Whether an attribute of ``torchelastic.restart.cause_agreed`` is an attribute of the restart as well."""
    return name.startswith((semconv.CAUSE + ".", "torchelastic.restart.")) or name in (
        semconv.FAILURE_AMBIGUOUS,
        semconv.WRITER,
        semconv.INFERRED_FROM,
    )
