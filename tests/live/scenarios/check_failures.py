"""What the log records tell of failures and restarts, held against the truth."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from tests.live.scenarios.expected import expected_failure
from tests.live.scenarios.findings import SLACK_S, Case, S, inferred, named, pid_of, slack_s
from torchelastic_otel import semconv
from torchelastic_otel.testing.otlp_receiver import ReceivedRecord

RESTART_PHASES = ("detect", "stop", "rendezvous", "assign_ranks", "start")


def check_failures(case: Case) -> None:
    """See the header of this file."""
    for name in case.cluster.nodes:
        _failures(case, name)
        _restarts(case, name)


def _failures(case: Case, name: str) -> None:
    """One record for each worker that failed, with all that is true of it, and none for those that were stopped."""
    records = [
        record
        for record in named(case.actual.records[name], semconv.WORKER_FAILED)
        if record.attributes.get(semconv.INFERRED) is True
    ]
    actions = [(round_, action) for round_, action in case.worker_actions(name)]
    case.check_equal(
        sorted(record.attributes[semconv.WORKER_PID] for record in records),
        sorted(action.worker.pid for _, action in actions if action.worker),
        f"{name}: workers that failed",
    )
    by_pid = {record.attributes[semconv.WORKER_PID]: record for record in records}
    causes = Counter(record.attributes[semconv.RENDEZVOUS_ROUND] for record in records if is_cause(record))
    for round_, action in actions:
        record = by_pid.get(action.worker.pid) if action.worker else None
        if record is None or action.worker is None:
            continue
        of, failure = record.attributes, expected_failure(action)
        actual = {
            "round": of.get(semconv.RENDEZVOUS_ROUND),
            "rank": of.get(semconv.WORKER_RANK),
            "local_rank": of.get(semconv.WORKER_LOCAL_RANK),
            "kind": of.get(semconv.FAILURE_KIND),
            "code": of.get(semconv.PROCESS_EXIT_CODE),
            "signal": of.get(semconv.WORKER_SIGNAL),
            "type": of.get(semconv.ERROR_TYPE),
            "message": of.get(semconv.EXCEPTION_MESSAGE),
        }
        expected = {
            "round": round_,
            "rank": action.worker.rank,
            "local_rank": action.worker.local_rank,
            "kind": failure.kind,
            "code": failure.exit_code,
            "signal": failure.signal,
            "type": failure.error_type,
            "message": failure.message,
        }
        case.check_equal(actual, expected, f"{name}: failure of {action.worker.pid}")
        late_s = (record.time_ns - action.at_ns) / S
        case.check(
            -0.01 <= late_s <= slack_s(action), f"{name}: failure of {action.worker.pid} told {late_s:.3f} s late"
        )
        if failure.kind == "exception":
            case.check("ValueError" in of.get(semconv.EXCEPTION_STACKTRACE, ""), f"{name}: no traceback")
        case.check_equal(causes[round_], 1, f"{name}: first failures in round {round_}")


def is_cause(record: ReceivedRecord) -> bool:
    """Whether it is told as the first failure of its agent."""
    return bool(record.attributes.get(semconv.FAILURE_ROLE) == "cause")


def _restarts(case: Case, name: str) -> None:
    """One completed restart for each round after another, with the agreed reason and cause."""
    rounds = case.expected.rounds_of(name)
    again = [after for before, after in itertools.pairwise(rounds)]
    completed = inferred(case.actual.records[name], semconv.RESTART_COMPLETED)
    case.check_equal([each.get(semconv.RENDEZVOUS_ROUND) for each in completed], again, f"{name}: completed restarts")
    case.check_equal(
        len(inferred(case.actual.records[name], semconv.RESTART_STARTED)) >= len(again), True, f"{name}: restarts began"
    )
    for restart in completed:
        round_ = restart[semconv.RENDEZVOUS_ROUND]
        if round_ not in again:
            continue
        before = case.expected.rounds[round_ - 1]
        own = [action for _, action in case.worker_actions(name, round_ - 1)]
        static = case.expected.backend == "static"
        agreed = case.agreed and not static
        cause = None if before.first is None else case.cluster.actions[before.first]
        reason = before.restart
        if not agreed and len(before.nodes) > 1:
            # each node tells what it sees itself
            reason = "worker_failure" if own else "membership_change"
            cause = own[0] if own else None
        case.check_equal(restart.get(semconv.RESTART_REASON), reason, f"{name}: reason of restart {round_}")
        case.check_equal(restart.get(semconv.RESTART_INDEX), round_, f"{name}: index of restart {round_}")
        if not static and max(len(each.nodes) for each in case.expected.rounds[round_ - 1 : round_ + 1]) > 1:
            case.check_equal(restart.get(semconv.RESTART_AGREED), agreed, f"{name}: restart {round_} is agreed on")
        if reason == "worker_failure" and cause is not None and cause.worker is not None:
            actual = tuple(restart.get(f"{semconv.CAUSE}.{key}") for key in ("pid", "rank", "exit_code", "error_type"))
            failure = expected_failure(cause)
            expected = (cause.worker.pid, cause.worker.rank, failure.exit_code, failure.error_type)
            case.check_equal(actual, expected, f"{name}: cause of restart {round_}")
            took_s = (case.workers(name, round_)[0].began_ns - cause.at_ns) / S
            lasted = restart[semconv.RESTART_DURATION]
            if agreed or own:
                # it begins with the worker's end, and ends with the start, before Python's own start, of the next one
                end_s = slack_s(cause) - SLACK_S
                true_s = 0.4 * took_s - end_s - SLACK_S <= lasted <= took_s + SLACK_S
                case.check(true_s, f"{name}: restart {round_} took {took_s:.2f} s, not {lasted}")
        if reason in ("node_lost", "node_left") and agreed:
            gone = next(iter(before.lost + before.left))
            cause_node = restart.get(f"{semconv.CAUSE}.node.id")
            case.check_equal(
                cause_node and pid_of(cause_node), case.pid(gone), f"{name}: who was gone before restart {round_}"
            )
        phases: list[Any] = [
            restart.get(semconv.RESTART_PHASE_DURATION.format(phase=phase)) for phase in RESTART_PHASES
        ]
        case.check(all(isinstance(each, (int, float)) and each >= 0 for each in phases), f"{name}: phases {phases}")
        total = restart.get(semconv.RESTART_DURATION, 0)
        case.check(abs(sum(phases) - total) < 0.01, f"{name}: the phases of restart {round_} do not sum up")
