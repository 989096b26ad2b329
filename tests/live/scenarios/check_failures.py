"""What the log records tell of failures and restarts, held against the truth."""

from __future__ import annotations

import itertools
from collections import Counter

from tests.live.scenarios.expected import failing
from tests.live.scenarios.findings import SLACK_S, Case, S, named, ours, pid_of, slack_s
from torchelastic_otel import semconv
from torchelastic_otel.demo.receiver import Received

RESTART_PHASES = ("detect", "stop", "rendezvous", "assign_ranks", "start")


def check_failures(case: Case) -> None:
    """See the header of this file."""
    for name in case.stage.cast:
        _failures(case, name)
        _restarts(case, name)


def _failures(case: Case, name: str) -> None:
    """One record for each worker that failed, with all that is true of it, and none for those that were stopped."""
    records = [
        record
        for record in named(case.seen.records[name], semconv.WORKER_FAILED)
        if record.attributes.get(semconv.INFERRED) is True
    ]
    deeds = [(round_, deed) for round_, deed in case.struck(name)]
    case.same(
        sorted(record.attributes[semconv.WORKER_PID] for record in records),
        sorted(deed.worker.pid for _, deed in deeds if deed.worker),
        f"{name}: workers that failed",
    )
    by_pid = {record.attributes[semconv.WORKER_PID]: record for record in records}
    causes = Counter(record.attributes[semconv.RENDEZVOUS_ROUND] for record in records if is_cause(record))
    for round_, deed in deeds:
        record = by_pid.get(deed.worker.pid) if deed.worker else None
        if record is None or deed.worker is None:
            continue
        of, true = record.attributes, failing(deed)
        said = {
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
            "rank": deed.worker.rank,
            "local_rank": deed.worker.local_rank,
            "kind": true.kind,
            "code": true.exit_code,
            "signal": true.signal,
            "type": true.error_type,
            "message": true.message,
        }
        case.same(said, expected, f"{name}: failure of {deed.worker.pid}")
        late_s = (record.time_ns - deed.at_ns) / S
        case.expect(-0.01 <= late_s <= slack_s(deed), f"{name}: failure of {deed.worker.pid} told {late_s:.3f} s late")
        if true.kind == "exception":
            case.expect("ValueError" in of.get(semconv.EXCEPTION_STACKTRACE, ""), f"{name}: no traceback")
        case.same(causes[round_], 1, f"{name}: first failures in round {round_}")


def is_cause(record: Received) -> bool:
    """Whether it is told as the first failure of its agent."""
    return bool(record.attributes.get(semconv.FAILURE_ROLE) == "cause")


def _restarts(case: Case, name: str) -> None:
    """One completed restart for each round after another, with the agreed reason and cause."""
    rounds = case.truth.rounds_of(name)
    again = [after for before, after in itertools.pairwise(rounds)]
    completed = ours(case.seen.records[name], semconv.RESTART_COMPLETED)
    case.same([each.get(semconv.RENDEZVOUS_ROUND) for each in completed], again, f"{name}: completed restarts")
    case.same(
        len(ours(case.seen.records[name], semconv.RESTART_STARTED)) >= len(again), True, f"{name}: restarts began"
    )
    for told in completed:
        round_ = told[semconv.RENDEZVOUS_ROUND]
        if round_ not in again:
            continue
        before = case.truth.rounds[round_ - 1]
        own = [deed for _, deed in case.struck(name, round_ - 1)]
        static = case.truth.backend == "static"
        agreed = case.agreed and not static
        cause = None if before.first is None else case.stage.deeds[before.first]
        reason = before.restart
        if not agreed and len(before.nodes) > 1:
            # each node tells what it sees itself
            reason = "worker_failure" if own else "membership_change"
            cause = own[0] if own else None
        case.same(told.get(semconv.RESTART_REASON), reason, f"{name}: reason of restart {round_}")
        case.same(told.get(semconv.RESTART_INDEX), round_, f"{name}: index of restart {round_}")
        if not static and max(len(each.nodes) for each in case.truth.rounds[round_ - 1 : round_ + 1]) > 1:
            case.same(told.get(semconv.RESTART_AGREED), agreed, f"{name}: restart {round_} is agreed on")
        if reason == "worker_failure" and cause is not None and cause.worker is not None:
            said = tuple(told.get(f"{semconv.CAUSE}.{key}") for key in ("pid", "rank", "exit_code", "error_type"))
            true = failing(cause)
            expected = (cause.worker.pid, cause.worker.rank, true.exit_code, true.error_type)
            case.same(said, expected, f"{name}: cause of restart {round_}")
            took_s = (case.workers(name, round_)[0].began_ns - cause.at_ns) / S
            lasted = told[semconv.RESTART_DURATION]
            if agreed or own:
                # it begins with the worker's end, and ends with the start, before Python's own start, of the next one
                end_s = slack_s(cause) - SLACK_S
                true_s = 0.4 * took_s - end_s - SLACK_S <= lasted <= took_s + SLACK_S
                case.expect(true_s, f"{name}: restart {round_} took {took_s:.2f} s, not {lasted}")
        if reason in ("node_lost", "node_left") and agreed:
            gone = next(iter(before.lost + before.left))
            said_id = told.get(f"{semconv.CAUSE}.node.id")
            case.same(said_id and pid_of(said_id), case.pid(gone), f"{name}: who was gone before restart {round_}")
        phases = [told.get(semconv.RESTART_PHASE_DURATION.format(phase=phase)) for phase in RESTART_PHASES]
        case.expect(all(isinstance(each, (int, float)) and each >= 0 for each in phases), f"{name}: phases {phases}")
        total = told.get(semconv.RESTART_DURATION, 0)
        case.expect(abs(sum(phases) - total) < 0.01, f"{name}: the phases of restart {round_} do not sum up")
