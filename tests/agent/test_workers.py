"""Workers that fail, hang or are stopped: what is said of each, when, and whose fault it was."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.observed_agent import UNWATCHED_PID, UP, ObservedAgent, unwatched_workers, when
from tests.support.observers import moment
from torchelastic_otel import semconv
from torchelastic_otel.agent.processes import Worker


def test_a_failure_is_told_with_its_own_moment_before_torch_restarts(observed: ObservedAgent, tmp_path: Path) -> None:
    """A worker failure that leads to a restart emits no event at all in torch (trap 2)."""
    error = tmp_path / "error.json"
    error.write_text(json.dumps({"message": {"message": "ValueError: bad", "extraInfo": {"py_callstack": "Trace"}}}))
    observed.bring_up(0, [observed.worker(0, "exit 0"), observed.worker(1, "exit 1", error)])
    observed.at(29.95).on_poll()
    observed.clock.seconds = 30
    observed.let_end(1)
    observed.at(30.05).on_close_begin({0: None, 1: 1})
    observed.let_end(0)
    observed.at(31).on_close_end({0: -15, 1: 1})
    observed.at(31).on_result({observed.processes[1].pid: 1}, ())
    observed.at(31).on_poll()
    observed.at(31).on_restart("worker_failure", 1)
    observed.at(31).on_stop()
    observed.at(31).on_close_begin({0: -15, 1: 1})
    observed.at(31).on_close_end({0: -15, 1: 1})
    observed.bring_up(32, unwatched_workers(), 1)
    assert observed.phases() == [
        *UP,
        ("detect", 30, 26),
        ("stop", 30.05, pytest.approx(0.05)),
        ("rendezvous", 32, pytest.approx(1.95)),
        ("assign_ranks", 34, 2),
        ("start", 35, 1),
        ("running", 36, 1),
    ]
    assert observed.attributes_of(semconv.WORKER_FAILED) == [
        {
            semconv.RENDEZVOUS_ROUND: 0,
            semconv.WORKER_RANK: 11,
            semconv.WORKER_LOCAL_RANK: 1,
            semconv.WORKER_PID: observed.processes[1].pid,
            semconv.PROCESS_EXIT_CODE: 1,
            semconv.WORKER_SIGNAL: None,
            semconv.FAILURE_KIND: "exception",
            semconv.FAILURE_ROLE: "cause",
            semconv.FAILURE_TIME_ERROR: 0,
            semconv.FAILURE_AMBIGUOUS: None,
            semconv.FAILURE_EVIDENCE: "only_failure",
            semconv.INFERRED_FROM: "pidfd",
        }
    ]
    failed = observed.events.one(semconv.WORKER_FAILED)
    assert (when(failed), failed.error_file) == (moment(30).wall_ns, error.read_text())
    assert observed.attributes_of(semconv.RESTART_STARTED) == [
        {semconv.RESTART_TRIGGER: "worker_failure", semconv.RESTART_COUNT: 1}
    ]
    (agreed,) = observed.attributes_of(semconv.RESTART_CAUSE_AGREED)
    assert agreed[semconv.RESTART_REASON] == "worker_failure"
    assert agreed[f"{semconv.CAUSE}.rank"] == 11
    assert agreed[f"{semconv.CAUSE}.error_type"] == "ValueError"
    assert agreed[f"{semconv.CAUSE}.message"] == "bad"
    assert agreed[f"{semconv.CAUSE}.time"] == moment(30).wall_ns


def test_of_two_failures_the_earlier_one_is_the_cause_whatever_their_ranks(observed: ObservedAgent) -> None:
    """The victim of a collective that broke fails 50 ms after who broke it, and torch sees both in one poll."""
    observed.bring_up(0, [observed.worker(0, "exit 7"), observed.worker(1, "kill -KILL $$")])
    observed.clock.seconds = 30
    observed.let_end(1)
    observed.clock.seconds = 30.05
    observed.let_end(0)
    observed.at(30.1).on_close_begin(observed.codes())
    told = observed.attributes_of(semconv.WORKER_FAILED)
    assert [(t[semconv.WORKER_RANK], t[semconv.FAILURE_ROLE], t[semconv.FAILURE_KIND]) for t in told] == [
        (11, "cause", "signal"),
        (10, "victim", "exit"),
    ]
    assert [(t[semconv.PROCESS_EXIT_CODE], t[semconv.WORKER_SIGNAL]) for t in told] == [(-9, "SIGKILL"), (7, None)]
    assert [t[semconv.FAILURE_AMBIGUOUS] for t in told] == [None, None]
    # all have ended by themselves: there is nobody left to stop
    assert observed.phases()[-1] == ("detect", 30, 26)
    observed.at(30.2).on_stop()
    assert observed.phases()[-1] == ("stop", 30.2, pytest.approx(0.2))


def test_failures_within_the_error_of_their_times_are_told_as_ambiguous(observed: ObservedAgent) -> None:
    """Without pidfd the poll is all there is, and it sees both at once: nothing is guessed silently."""
    observed.bring_up(0, unwatched_workers(3))
    observed.at(29.9).on_poll()
    observed.at(30).on_close_begin({0: None, 1: 3, 2: 4})
    told = observed.attributes_of(semconv.WORKER_FAILED)
    assert [t[semconv.FAILURE_AMBIGUOUS] for t in told] == [True, True]
    assert [t[semconv.FAILURE_TIME_ERROR] for t in told] == [pytest.approx(0.1)] * 2
    assert {t[semconv.INFERRED_FROM] for t in told} == {"poll"}
    assert sorted(t[semconv.FAILURE_ROLE] for t in told) == ["cause", "victim"]


def test_a_worker_cannot_have_failed_before_it_was_started(observed: ObservedAgent) -> None:
    """The last poll before it may be an hour ago: a rendezvous came between."""
    observed.at(1).on_poll()
    observed.bring_up(3600, unwatched_workers())
    observed.at(3604.5).on_close_begin({0: 1, 1: None})
    (told,) = observed.attributes_of(semconv.WORKER_FAILED)
    assert told[semconv.FAILURE_TIME_ERROR] == 0.5


@pytest.mark.parametrize(
    ("written", "known_by", "at", "error"),
    [(29.95, "error_file", 29.95, 0.0), (20, "poll", 30, 0.1), (31, "poll", 30, 0.1), (None, "poll", 30, 0.1)],
)
def test_without_pidfd_the_time_of_the_error_file_tells_if_it_can_be_true(
    observed: ObservedAgent, tmp_path: Path, written: float | None, known_by: str, at: float, error: float
) -> None:
    """A file that is older than the last poll, or of the future, is not when the worker ended."""
    file = tmp_path / "error.json"
    if written is not None:
        file.write_text("{}")
        os.utime(file, ns=(moment(written).wall_ns,) * 2)
    observed.bring_up(0, [Worker(0, 10, UNWATCHED_PID, str(file)), Worker(1, 11, UNWATCHED_PID + 1)])
    observed.at(29.9).on_poll()
    observed.at(30).on_close_begin({0: 1, 1: None})
    (told,) = observed.attributes_of(semconv.WORKER_FAILED)
    assert told[semconv.INFERRED_FROM] == known_by
    assert told[semconv.FAILURE_TIME_ERROR] == pytest.approx(error)
    assert when(observed.events.one(semconv.WORKER_FAILED)) == moment(at).wall_ns
    assert told[semconv.FAILURE_KIND] == ("exit" if written is None else "exception")


def test_the_exit_code_may_be_known_to_torch_alone(observed: ObservedAgent) -> None:
    """Kernels and sandboxes without pidfd: each exit is still told, once, however often torch closes."""
    observed.bring_up(0, unwatched_workers())
    observed.at(29.9).on_poll()
    observed.at(30).on_close_begin({0: 3, 1: None})
    for _ in range(3):
        observed.at(31).on_close_end({0: 3, 1: -15})
    told = observed.attributes_of(semconv.WORKER_EXITED)
    assert [(t[semconv.WORKER_RANK], t[semconv.PROCESS_EXIT_CODE], t[semconv.WORKER_SIGNAL]) for t in told] == [
        (10, 3, None),
        (11, -15, "SIGTERM"),
    ]
    assert {t[semconv.INFERRED_FROM] for t in told} == {"poll"}
    # of the one that failed what was said of its failure, of the other one when torch knew
    assert [t[semconv.FAILURE_TIME_ERROR] for t in told] == [pytest.approx(0.1), pytest.approx(1.1)]
    assert [when(event) for event in observed.events.of(semconv.WORKER_EXITED)] == [
        moment(30).wall_ns,
        moment(31).wall_ns,
    ]


def test_workers_that_the_agent_stops_have_not_failed(observed: ObservedAgent) -> None:
    """They get SIGTERM because the membership changed; torch 2.13 calls them FAILED with -15."""
    observed.bring_up(0, [observed.worker(0, "exit 0"), observed.worker(1, "exit 0")])
    observed.at(30).on_restart("membership_change", 0)
    observed.at(30).on_stop()
    observed.at(30).on_close_begin({0: None, 1: None})
    for process in observed.processes:
        process.terminate()
    observed.events.wait(semconv.WORKER_EXITED, 2)
    observed.at(31).on_close_end(observed.codes())
    observed.at(31).on_result({process.pid: -15 for process in observed.processes}, ())
    assert observed.attributes_of(semconv.WORKER_FAILED) == []
    assert [told[semconv.WORKER_SIGNAL] for told in observed.attributes_of(semconv.WORKER_EXITED)] == ["SIGTERM"] * 2
    assert observed.phases()[4:] == [("stop", 30, 26)]


def test_a_worker_that_failed_before_the_agent_stopped_it_has_failed(observed: ObservedAgent) -> None:
    """On the peer of a failing node the collective breaks too: torch restarts for the membership and sees nothing."""
    observed.bring_up(0, [observed.worker(0, "exit 0"), observed.worker(1, "kill -ABRT $$")])
    observed.at(29.9).on_poll()
    observed.clock.seconds = 29.95
    observed.let_end(1)
    observed.at(30).on_restart("membership_change", 0)
    observed.at(30).on_stop()
    observed.at(30).on_close_begin({0: None, 1: -6})
    (told,) = observed.attributes_of(semconv.WORKER_FAILED)
    assert (told[semconv.WORKER_RANK], told[semconv.WORKER_SIGNAL]) == (11, "SIGABRT")
    assert observed.phases()[4:] == [("detect", 29.95, pytest.approx(25.95)), ("stop", 30, pytest.approx(0.05))]


def test_each_failure_is_told_once_though_torch_reports_it_again(observed: ObservedAgent) -> None:
    """The same worker comes at the closing, in the result, and at the end of the job."""
    observed.bring_up(0, unwatched_workers())
    observed.at(30).on_close_begin({0: 3, 1: None})
    observed.at(31).on_close_end({0: 3, 1: -15})
    observed.at(31).on_result({UNWATCHED_PID: 3, UNWATCHED_PID + 1: -15}, ())
    observed.at(32).on_stop()
    observed.at(32).on_close_begin({0: 3, 1: -15})
    observed.at(33).on_exit("failed", None)
    assert len(observed.attributes_of(semconv.WORKER_FAILED)) == 1


def test_a_result_tells_what_no_closing_told(observed: ObservedAgent) -> None:
    """Projects override how workers are monitored, and close them in ways of their own."""
    observed.bring_up(0, unwatched_workers())
    observed.at(29.9).on_poll()
    observed.at(30).on_result({UNWATCHED_PID + 1: 3, 77: 1}, ())
    (told,) = observed.attributes_of(semconv.WORKER_FAILED)
    assert (told[semconv.WORKER_RANK], told[semconv.PROCESS_EXIT_CODE]) == (11, 3)
    assert observed.phases()[-1] == ("detect", 30, 26)


def test_a_worker_that_hangs_for_good_has_failed(observed: ObservedAgent) -> None:
    """Uninterruptible sleep: torch returns UNHEALTHY with no failures, and would exit 0 (trap 9)."""
    observed.bring_up(0, unwatched_workers())
    observed.at(30).on_result({}, (UNWATCHED_PID + 1,))
    observed.at(30).on_stop()
    observed.at(90).on_close_end({0: -15, 1: None})
    observed.at(90).on_exit("failed", None)
    (told,) = observed.attributes_of(semconv.WORKER_FAILED)
    assert (told[semconv.WORKER_RANK], told[semconv.FAILURE_KIND]) == (11, "uninterruptible_sleep")
    assert (told[semconv.ERROR_TYPE], told[semconv.FAILURE_ROLE]) == ("uninterruptible_sleep", "cause")
    assert [phase for phase, _, _ in observed.phases()[4:]] == ["detect", "stop", "ended"]


def test_a_process_of_an_earlier_start_that_ends_late_is_told_as_what_it_was(observed: ObservedAgent) -> None:
    """Torch gives up on a process that does not die, and starts the next round beside it."""
    observed.bring_up(0, [observed.worker(0, "exit 9")])
    observed.at(30).on_stop()
    observed.bring_up(60, [Worker(0, 20, UNWATCHED_PID)], 1)
    observed.clock.seconds = 70
    observed.let_end(0)
    (told,) = observed.attributes_of(semconv.WORKER_EXITED)
    assert (told[semconv.WORKER_RANK], told[semconv.WORKER_PID]) == (10, observed.processes[0].pid)


def test_an_agent_that_is_told_to_go_says_so_and_its_workers_have_not_failed(observed: ObservedAgent) -> None:
    """SIGTERM: its peers must know that it left, and Ctrl-C reaches the workers before the agent looks."""
    observed.bring_up(0, [observed.worker(0, "kill -INT $$")])
    observed.clock.seconds = 30
    observed.let_end(0)
    observed.at(30.1).on_leave("SIGINT")
    observed.at(30.1).on_close_begin(observed.codes())
    observed.at(31).on_exit("terminated", "SignalException")
    assert observed.attributes_of(semconv.AGENT_LEAVING) == [{semconv.WORKER_SIGNAL: "SIGINT"}]
    assert observed.attributes_of(semconv.WORKER_FAILED) == []
    assert [phase for phase, _, _ in observed.phases()[4:]] == ["stop", "ended"]
    last = observed.attributes_of(semconv.AGENT_PHASE_ENTERED)[-1]
    assert (last[semconv.AGENT_OUTCOME], last[semconv.ERROR_TYPE]) == ("terminated", "SignalException")


def test_a_failure_whose_first_event_is_interrupted_is_reported_by_the_next_call(observed: ObservedAgent) -> None:
    """A signal may raise in the event in front of it: the failure, and with it the cause, is not lost."""
    observed.bring_up(0, unwatched_workers(2))
    observed.at(29.9).on_poll()
    observed.events.interrupted = lambda event: event.attributes.get(semconv.PHASE) == "detect"
    with pytest.raises(KeyboardInterrupt):
        observed.at(30).on_close_begin({0: None, 1: 3})
    assert observed.attributes_of(semconv.WORKER_FAILED) == []
    observed.at(30.1).on_close_begin({0: None, 1: 3})
    (failed,) = observed.attributes_of(semconv.WORKER_FAILED)
    assert (failed[semconv.PROCESS_EXIT_CODE], failed[semconv.FAILURE_ROLE]) == (3, "cause")


def note_exception(worker: Worker, seconds: float) -> None:
    """What a worker's hooks write when it raises an exception."""
    at = moment(seconds)
    record = {
        **{"kind": "exception", "time_ns": at.wall_ns, "monotonic_ns": at.monotonic_ns, "type": "ValueError"},
        **{"message": "bad", "stack": "Traceback", "place": ["/job/train.py", 7, "train_step"], "thread": "MainThread"},
    }
    Path(f"{worker.evidence}.{worker.pid}").write_text(f"\x1e{json.dumps(record)}\n")


def test_a_worker_that_raised_and_does_not_end_is_reported_after_ten_seconds(
    observed: ObservedAgent, tmp_path: Path
) -> None:
    """Its teardown may hang for good, and torch sees nothing of it."""
    worker = replace(observed.worker(0, "exit 1"), evidence=str(tmp_path / "evidence"))
    observed.bring_up(0, [worker])
    note_exception(worker, 20)
    observed.at(29)
    assert observed.attributes_of(semconv.WORKER_FAILED) == []
    observed.at(35)
    failed = observed.events.wait(semconv.WORKER_FAILED)[0]
    assert when(failed) == moment(20).wall_ns
    assert failed.attributes[semconv.CODE_FUNCTION_NAME] == "train_step"
    assert failed.attributes[semconv.FAILURE_EXPLANATION] == "it raised the exception 15 s ago and has not ended"
    observed.let_end(0)
    assert len(observed.attributes_of(semconv.WORKER_FAILED)) == 1


def test_a_worker_that_raised_first_and_ends_last_is_the_cause(observed: ObservedAgent, tmp_path: Path) -> None:
    """The order of exits is not the order of exceptions."""
    workers = [replace(observed.worker(n, "exit 1"), evidence=str(tmp_path / f"{n}")) for n in range(2)]
    observed.bring_up(0, workers)
    note_exception(workers[1], 20)
    note_exception(workers[0], 21)
    observed.clock.seconds = 22
    observed.let_end(0)
    observed.at(22).on_close_begin({0: 1, 1: None})
    observed.let_end(1)
    observed.at(23).on_close_end({0: 1, 1: -15})
    failed = observed.attributes_of(semconv.WORKER_FAILED)
    assert [(each[semconv.WORKER_LOCAL_RANK], each[semconv.FAILURE_ROLE]) for each in failed] == [
        (1, "cause"),
        (0, "victim"),
    ]
    assert failed[0][semconv.FAILURE_EVIDENCE] == "earliest"


def test_an_error_file_that_is_a_fifo_holds_nobody(observed: ObservedAgent, tmp_path: Path) -> None:
    """A worker may put anything there."""
    fifo = tmp_path / "error.json"
    os.mkfifo(fifo)
    observed.bring_up(0, [observed.worker(0, "exit 3", fifo)])
    observed.clock.seconds = 20
    observed.let_end(0)
    observed.at(20).on_close_begin({0: 3})
    [failed] = observed.attributes_of(semconv.WORKER_FAILED)
    assert failed[semconv.FAILURE_KIND] == "exit"
