"""The story as one JSON document; ``docs/reference/timeline.schema.json`` is its schema.

What always holds: times are RFC 3339 in UTC with nanoseconds, durations are seconds; ``null`` is "nobody said".
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from torchelastic_otel.history.types import Failure, Member, Node, Restart, Round, Run, State
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.phases import RESTART_PHASES
from torchelastic_otel.units import NS_PER_S


def json_report(
    runs: Sequence[Run], events: Sequence[Sequence[tuple[str, ElasticEvent]]] | None = None
) -> dict[str, Any]:
    """The document.

    Args:
        runs: The runs.
        events: The events of each run with their hosts, where they were asked for.
    """
    told = [_run(run) for run in runs]
    for each, of_run in zip(told, events or (), strict=False):
        each["events"] = [_event(host, event) for host, event in of_run]
    return {"runs": told}


def moment(time_ns: int | None) -> str | None:
    """RFC 3339 in UTC, with nanoseconds."""
    if time_ns is None:
        return None
    seconds, below = divmod(time_ns, NS_PER_S)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{below:09d}Z"


def seconds(duration_ns: int | None) -> float | None:
    """A duration in seconds."""
    return None if duration_ns is None else duration_ns / 1e9


def _run(run: Run) -> dict[str, Any]:
    states: dict[str, float] = {state.value: run.time.get(state, 0) / 1e9 for state in State}
    told = sum(run.time.values())
    return {
        "run_id": run.run_id,
        "nonce": run.nonce,
        "started_at": moment(run.started_ns),
        "ended_at": moment(run.ended_ns),
        "outcome": run.outcome.value,
        "backend": run.backend,
        "restarts": run.restarts,
        "nodes": [_member(member) for member in run.nodes],
        "time": states | {"unknown": max(0, (run.wall_ns or 0) - told) / 1e9},
        "effective_training_time_ratio": run.training_ratio,
        "rounds": [_round(round_) for round_ in run.rounds],
        "inferred": list(run.inferred),
        "unknown": list(run.unknown),
    }


def _member(member: Member) -> dict[str, Any]:
    return {
        "host": member.host,
        "node_id": member.node_id,
        "pid": member.pid,
        "outcome": member.outcome.value,
        "error_type": member.error_type,
        "message": member.message,
        "first_seen_at": moment(member.first_ns),
        "last_seen_at": moment(member.last_ns),
        "rounds": list(member.rounds),
        "restarts": member.restarts,
        "waited_at": moment(member.waited_ns),
        "stood_by_at": moment(member.stood_by_ns),
        "promoted_in_round": member.promoted_round,
        "told": member.told,
        "heartbeats": member.beats,
        "stale_states": member.stale,
    }


def _round(round_: Round) -> dict[str, Any]:
    return {
        "round": round_.round,
        "outcome": round_.outcome.value,
        "world_size": round_.world_size,
        "started_at": moment(round_.started_ns),
        "running_at": moment(round_.running_ns),
        "training_at": moment(round_.training_ns),
        "ended_at": moment(round_.ended_ns),
        "trace_id": round_.trace_id,
        "nodes": [_node(node) for node in round_.nodes],
        "last_joiner": round_.last_joiner,
        "missing": [
            {"host": each.host, "node_id": each.node_id, "group_rank": each.group_rank} for each in round_.missing
        ],
        "missing_count": round_.missing_count,
        "membership": {"joined": list(round_.joined), "left": list(round_.left), "lost": list(round_.lost)},
        "first_failure": None if round_.first_failure is None else _failure(round_.first_failure),
        "victims": [_failure(failure) for failure in round_.victims],
        "restart": None if round_.restart is None else _restart(round_.restart),
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "host": node.host,
        "node_id": node.node_id,
        "group_rank": node.group_rank,
        "joined_at": moment(node.joined_ns),
        "running_at": moment(node.running_ns),
        "left_at": moment(node.left_ns),
        "left_reason": None if node.left_reason is None else node.left_reason.value,
        "told": node.told,
        "phases": [
            {
                "phase": stretch.phase.value,
                "started_at": moment(stretch.start_ns),
                "duration": seconds(stretch.duration_ns),
            }
            for stretch in node.phases
        ],
        "workers": [
            {
                "rank": worker.rank,
                "local_rank": worker.local_rank,
                "pid": worker.pid,
                "exit_code": worker.exit_code,
                "signal": worker.signal,
                "training_at": moment(worker.training_ns),
                "ended_at": moment(worker.ended_ns),
            }
            for worker in node.workers
        ],
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "kind": failure.kind,
        "host": failure.host,
        "node_id": failure.node_id,
        "group_rank": failure.group_rank,
        "rank": failure.rank,
        "local_rank": failure.local_rank,
        "pid": failure.pid,
        "exit_code": failure.exit_code,
        "signal": failure.signal,
        "error_type": failure.error_type,
        "message": failure.message,
        "traceback": failure.traceback,
        "at": moment(failure.at_ns),
        "time_error": seconds(failure.error_ns),
        "inferred_from": failure.inferred_from,
        "ambiguous": failure.ambiguous,
    }


def _restart(restart: Restart) -> dict[str, Any]:
    return {
        "reason": restart.reason,
        "index": restart.index,
        "agreed": restart.agreed,
        "duration": seconds(restart.duration_ns),
        "phases": {phase: seconds(restart.phases.get(phase)) for phase in RESTART_PHASES},
    }


def _event(host: str, event: ElasticEvent) -> dict[str, Any]:
    def plain(value: object) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            return None  # JSON has no word for it
        return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value

    return {
        "at": moment(event.time_ns),
        "host": host,
        "name": event.name,
        "severity": event.severity.name,
        "body": event.body,
        "attributes": {key: plain(value) for key, value in event.attributes.items()},
    }
