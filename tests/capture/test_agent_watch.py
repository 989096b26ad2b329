"""What one agent is seen to do, said with literal clocks; processes are real where their exits matter."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.watching import EPOCH_NS, Clock, S, Said, done, moment

from torchelastic_otel import semconv
from torchelastic_otel.capture.agent_watch import AgentSpec, AgentWatch, Worker
from torchelastic_otel.capture.job_facts import JobFacts
from torchelastic_otel.capture.waiting import RendezvousView
from torchelastic_otel.capture.watch_thread import WatchThread
from torchelastic_otel.model.facts import Fact

NOBODY = 5_000_000
"""Above every process id of Linux: where torch alone tells how a worker ended."""
SPEC = AgentSpec("run", "c10d", "trainer", "train.py", 1, 2, 2, 3)


class Play:
    """One agent, the clock in the test's hands, and no store."""

    def __init__(self) -> None:
        self.clock, self.said = Clock(), Said()
        self.thread = WatchThread(self.clock.monotonic_ns)
        self.view: RendezvousView | None = None
        self.job = JobFacts("run", lambda: self.watch.id, "here", self.said, self.thread, shared_rounds=True)
        self.job.use(None, hosts_store=False)
        self.watch = AgentWatch(SPEC, self.said, self.thread, self.job, lambda: self.view, self.clock)
        self.processes: list[subprocess.Popen[bytes]] = []

    def at(self, seconds: float) -> AgentWatch:
        """The agent, at that time; what is due by then is done."""
        self.clock.seconds = seconds
        done(self.thread)
        return self.watch

    def bring_up(self, seconds: float, workers: list[Worker], round_: int = 0) -> None:
        """Rendezvous for two seconds, ranks and start for one each; then the workers run."""
        node = "here_1_0"
        self.view = RendezvousView(round_, False, (node,), (), node)
        self.at(seconds).rendezvous_begins()
        self.view = RendezvousView(round_, True, (node, "there_2_0"), (), node)
        self.at(seconds + 2).rendezvous_over(0, 2)
        self.at(seconds + 3).starting()
        self.at(seconds + 4).started(workers)
        done(self.thread)

    def worker(self, local_rank: int, code: str, error_file: Path | None = None) -> Worker:
        """A real process that does this once it is let go."""
        process = subprocess.Popen(["/bin/sh", "-c", f"read go; {code}"], stdin=subprocess.PIPE)
        self.processes.append(process)
        return Worker(local_rank, 10 + local_rank, process.pid, None if error_file is None else str(error_file))

    def let_go(self, *numbers: int) -> None:
        """Let processes go on and end, one after the other, and be seen."""
        for number in numbers:
            process = self.processes[number]
            assert process.stdin is not None
            count = len(self.said.of(semconv.WORKER_EXITED))
            process.stdin.close()
            self.said.wait(semconv.WORKER_EXITED, count + 1)

    def codes(self) -> dict[int, int | None]:
        """Exit codes as torch knows them once it polls."""
        return {rank: process.poll() for rank, process in enumerate(self.processes)}

    def told(self, name: str) -> list[dict[str, Any]]:
        """The attributes of what was said under a name, without the run's."""
        done(self.thread)
        return [{k: v for k, v in f.attributes.items() if k != semconv.RUN_ID} for f in self.said.of(name)]

    def phases(self) -> list[tuple[str, float, float | None]]:
        """Each phase, when it began, and how long the one before took; both in seconds."""
        return [
            (f.attributes[semconv.PHASE], (when(f) - EPOCH_NS) / S, f.attributes.get(semconv.PHASE_DURATION))
            for f in self.said.of(semconv.AGENT_PHASE_ENTERED)
        ]


def when(fact: Fact) -> int:
    """When it happened, as it says."""
    assert fact.at is not None
    return fact.at.wall_ns


@pytest.fixture
def play() -> Iterator[Play]:
    """An agent that was just made."""
    made = Play()
    yield made
    for process in made.processes:
        if process.stdin is not None:
            process.stdin.close()
        process.kill()
        process.wait()


def nobodies(count: int = 2) -> list[Worker]:
    """Workers whose processes nobody can watch."""
    return [Worker(rank, 10 + rank, NOBODY + rank) for rank in range(count)]


UP = [("rendezvous", 0, None), ("assign_ranks", 2, 2), ("start", 3, 1), ("running", 4, 1)]


def test_an_agent_says_how_it_was_launched(play: Play) -> None:
    """What is missing in a rendezvous, and how many restarts are left, follows from it."""
    assert play.told(semconv.AGENT_STARTED) == [
        {
            semconv.AGENT_ID: play.watch.id,
            semconv.NODES_MIN: 1,
            semconv.NODES_MAX: 2,
            semconv.LOCAL_WORLD_SIZE: 2,
            semconv.RESTARTS_MAX: 3,
            semconv.ROLE_NAME: "trainer",
            semconv.RENDEZVOUS_BACKEND: "c10d",
            semconv.ENTRY_POINT: "train.py",
        }
    ]


def test_a_clean_end_is_six_phases_without_a_gap(play: Play) -> None:
    """The agent is at exactly one phase at any time: they sum to wall time."""
    play.bring_up(0, [play.worker(0, "exit 0"), play.worker(1, "exit 0")])
    for at in (5, 6, 7):
        play.at(at).polled()
    play.clock.seconds = 20
    play.let_go(0, 1)
    play.at(20.5).closing(play.codes())
    play.at(20.5).closed(play.codes())
    play.at(20.5).polled()
    play.at(20.6).exit_barrier()
    play.at(22).closing(play.codes())
    play.at(22).ended("succeeded", None)
    assert play.phases() == [*UP, ("exit_barrier", 20.6, pytest.approx(16.6)), ("ended", 22, pytest.approx(1.4))]
    exits = play.told(semconv.WORKER_EXITED)
    assert [(told[semconv.WORKER_RANK], told[semconv.PROCESS_EXIT_CODE]) for told in exits] == [(10, 0), (11, 0)]
    assert [when(fact) for fact in play.said.of(semconv.WORKER_EXITED)] == [moment(20).wall_ns] * 2
    assert {told[semconv.INFERRED_FROM] for told in exits} == {"pidfd"}
    assert play.told(semconv.WORKER_FAILED) == []
    assert play.told(semconv.AGENT_PHASE_ENTERED)[-1][semconv.AGENT_OUTCOME] == "succeeded"


def test_the_phases_say_the_round_and_who_is_in_it(play: Play) -> None:
    """Torch's own agent events carry the round before."""
    play.bring_up(0, nobodies())
    ranks, _, running = play.told(semconv.AGENT_PHASE_ENTERED)[1:]
    assert ranks == {
        semconv.PHASE: "assign_ranks",
        semconv.PHASE_PREVIOUS: "rendezvous",
        semconv.PHASE_DURATION: 2,
        semconv.RENDEZVOUS_ROUND: 0,
        semconv.GROUP_RANK: 0,
        semconv.GROUP_WORLD_SIZE: 2,
        semconv.NODE_ID: "here_1_0",
        semconv.RENDEZVOUS_PARTICIPANTS: ("here_1_0", "there_2_0"),
    }
    assert running[semconv.WORKER_PIDS] == (f"0:10:{NOBODY}", f"1:11:{NOBODY + 1}")


def test_a_backend_that_tells_no_round_is_counted(play: Play) -> None:
    """Static and etcd keep their state to themselves."""
    for number in range(3):
        play.bring_up(number * 10, nobodies())
        play.view = None
    play.view = None
    play.at(40).rendezvous_begins()
    play.at(41).rendezvous_over(1, 4)
    rounds = [told.get(semconv.RENDEZVOUS_ROUND) for told in play.told(semconv.AGENT_PHASE_ENTERED)]
    assert [round_ for round_ in rounds if round_ is not None] == [0, 0, 0, 1]


def test_a_failure_is_told_with_its_own_moment_before_torch_restarts(play: Play, tmp_path: Path) -> None:
    """A worker failure that leads to a restart emits no event at all in torch (trap 2)."""
    error = tmp_path / "error.json"
    error.write_text(json.dumps({"message": {"message": "ValueError: bad", "extraInfo": {"py_callstack": "Trace"}}}))
    play.bring_up(0, [play.worker(0, "exit 0"), play.worker(1, "exit 1", error)])
    play.at(29.95).polled()
    play.clock.seconds = 30
    play.let_go(1)
    play.at(30.05).closing({0: None, 1: 1})
    play.let_go(0)
    play.at(31).closed({0: -15, 1: 1})
    play.at(31).result({play.processes[1].pid: 1}, ())
    play.at(31).polled()
    play.at(31).restarting("worker_failure", 1)
    play.at(31).stopping()
    play.at(31).closing({0: -15, 1: 1})
    play.at(31).closed({0: -15, 1: 1})
    play.bring_up(32, nobodies(), 1)
    assert play.phases() == [
        *UP,
        ("detect", 30, 26),
        ("stop", 30.05, pytest.approx(0.05)),
        ("rendezvous", 32, pytest.approx(1.95)),
        ("assign_ranks", 34, 2),
        ("start", 35, 1),
        ("running", 36, 1),
    ]
    assert play.told(semconv.WORKER_FAILED) == [
        {
            semconv.WORKER_RANK: 11,
            semconv.WORKER_LOCAL_RANK: 1,
            semconv.WORKER_PID: play.processes[1].pid,
            semconv.PROCESS_EXIT_CODE: 1,
            semconv.WORKER_SIGNAL: None,
            semconv.FAILURE_KIND: "exception",
            semconv.FAILURE_ROLE: "cause",
            semconv.FAILURE_TIME_ERROR: 0,
            semconv.FAILURE_AMBIGUOUS: None,
            semconv.INFERRED_FROM: "pidfd",
        }
    ]
    failed = play.said.one(semconv.WORKER_FAILED)
    assert (when(failed), failed.error_file) == (moment(30).wall_ns, error.read_text())
    assert play.told(semconv.RESTART_STARTED) == [{semconv.RESTART_TRIGGER: "worker_failure", semconv.RESTART_COUNT: 1}]
    (agreed,) = play.told(semconv.RESTART_CAUSE_AGREED)
    assert agreed[semconv.RESTART_REASON] == "worker_failure"
    assert agreed[f"{semconv.CAUSE}.rank"] == 11
    assert agreed[f"{semconv.CAUSE}.error_type"] == "ValueError"
    assert agreed[f"{semconv.CAUSE}.message"] == "bad"
    assert agreed[f"{semconv.CAUSE}.time"] == moment(30).wall_ns


def test_of_two_failures_the_earlier_one_is_the_cause_whatever_their_ranks(play: Play) -> None:
    """The victim of a collective that broke fails 50 ms after who broke it, and torch sees both in one poll."""
    play.bring_up(0, [play.worker(0, "exit 7"), play.worker(1, "kill -KILL $$")])
    play.clock.seconds = 30
    play.let_go(1)
    play.clock.seconds = 30.05
    play.let_go(0)
    play.at(30.1).closing(play.codes())
    told = play.told(semconv.WORKER_FAILED)
    assert [(t[semconv.WORKER_RANK], t[semconv.FAILURE_ROLE], t[semconv.FAILURE_KIND]) for t in told] == [
        (11, "cause", "signal"),
        (10, "victim", "exit"),
    ]
    assert [(t[semconv.PROCESS_EXIT_CODE], t[semconv.WORKER_SIGNAL]) for t in told] == [(-9, "SIGKILL"), (7, None)]
    assert [t[semconv.FAILURE_AMBIGUOUS] for t in told] == [None, None]
    # all have ended by themselves: there is nobody left to stop
    assert play.phases()[-1] == ("detect", 30, 26)
    play.at(30.2).stopping()
    assert play.phases()[-1] == ("stop", 30.2, pytest.approx(0.2))


def test_failures_within_the_error_of_their_times_are_told_as_ambiguous(play: Play) -> None:
    """Without pidfd the poll is all there is, and it sees both at once: nothing is guessed silently."""
    play.bring_up(0, nobodies(3))
    play.at(29.9).polled()
    play.at(30).closing({0: None, 1: 3, 2: 4})
    told = play.told(semconv.WORKER_FAILED)
    assert [t[semconv.FAILURE_AMBIGUOUS] for t in told] == [True, True]
    assert [t[semconv.FAILURE_TIME_ERROR] for t in told] == [pytest.approx(0.1)] * 2
    assert {t[semconv.INFERRED_FROM] for t in told} == {"poll"}
    assert sorted(t[semconv.FAILURE_ROLE] for t in told) == ["cause", "victim"]


def test_a_worker_cannot_have_failed_before_it_was_started(play: Play) -> None:
    """The last poll before it may be an hour ago: a rendezvous came between."""
    play.at(1).polled()
    play.bring_up(3600, nobodies())
    play.at(3604.5).closing({0: 1, 1: None})
    (told,) = play.told(semconv.WORKER_FAILED)
    assert told[semconv.FAILURE_TIME_ERROR] == 0.5


@pytest.mark.parametrize(
    ("written", "known_by", "at", "error"),
    [(29.95, "error_file", 29.95, 0.0), (20, "poll", 30, 0.1), (31, "poll", 30, 0.1), (None, "poll", 30, 0.1)],
)
def test_without_pidfd_the_time_of_the_error_file_tells_if_it_can_be_true(
    play: Play, tmp_path: Path, written: float | None, known_by: str, at: float, error: float
) -> None:
    """A file that is older than the last poll, or of the future, is not when the worker ended."""
    file = tmp_path / "error.json"
    if written is not None:
        file.write_text("{}")
        os.utime(file, ns=(moment(written).wall_ns,) * 2)
    play.bring_up(0, [Worker(0, 10, NOBODY, str(file)), Worker(1, 11, NOBODY + 1)])
    play.at(29.9).polled()
    play.at(30).closing({0: 1, 1: None})
    (told,) = play.told(semconv.WORKER_FAILED)
    assert told[semconv.INFERRED_FROM] == known_by
    assert told[semconv.FAILURE_TIME_ERROR] == pytest.approx(error)
    assert when(play.said.one(semconv.WORKER_FAILED)) == moment(at).wall_ns
    assert told[semconv.FAILURE_KIND] == ("exit" if written is None else "exception")


def test_the_exit_code_may_be_known_to_torch_alone(play: Play) -> None:
    """Kernels and sandboxes without pidfd: each exit is still told, once, however often torch closes."""
    play.bring_up(0, nobodies())
    play.at(29.9).polled()
    play.at(30).closing({0: 3, 1: None})
    for _ in range(3):
        play.at(31).closed({0: 3, 1: -15})
    told = play.told(semconv.WORKER_EXITED)
    assert [(t[semconv.WORKER_RANK], t[semconv.PROCESS_EXIT_CODE], t[semconv.WORKER_SIGNAL]) for t in told] == [
        (10, 3, None),
        (11, -15, "SIGTERM"),
    ]
    assert {t[semconv.INFERRED_FROM] for t in told} == {"poll"}
    # of the one that failed what was said of its failure, of the other one when torch knew
    assert [t[semconv.FAILURE_TIME_ERROR] for t in told] == [pytest.approx(0.1), pytest.approx(1.1)]
    assert [when(fact) for fact in play.said.of(semconv.WORKER_EXITED)] == [moment(30).wall_ns, moment(31).wall_ns]


def test_workers_that_the_agent_stops_have_not_failed(play: Play) -> None:
    """They get SIGTERM because the membership changed; torch 2.13 calls them FAILED with -15."""
    play.bring_up(0, [play.worker(0, "exit 0"), play.worker(1, "exit 0")])
    play.at(30).restarting("membership_change", 0)
    play.at(30).stopping()
    play.at(30).closing({0: None, 1: None})
    for process in play.processes:
        process.terminate()
    play.said.wait(semconv.WORKER_EXITED, 2)
    play.at(31).closed(play.codes())
    play.at(31).result({process.pid: -15 for process in play.processes}, ())
    assert play.told(semconv.WORKER_FAILED) == []
    assert [told[semconv.WORKER_SIGNAL] for told in play.told(semconv.WORKER_EXITED)] == ["SIGTERM"] * 2
    assert play.phases()[4:] == [("stop", 30, 26)]


def test_a_worker_that_failed_before_the_agent_stopped_it_has_failed(play: Play) -> None:
    """On the peer of a failing node the collective breaks too: torch restarts for the membership and sees nothing."""
    play.bring_up(0, [play.worker(0, "exit 0"), play.worker(1, "kill -ABRT $$")])
    play.at(29.9).polled()
    play.clock.seconds = 29.95
    play.let_go(1)
    play.at(30).restarting("membership_change", 0)
    play.at(30).stopping()
    play.at(30).closing({0: None, 1: -6})
    (told,) = play.told(semconv.WORKER_FAILED)
    assert (told[semconv.WORKER_RANK], told[semconv.WORKER_SIGNAL]) == (11, "SIGABRT")
    assert play.phases()[4:] == [("detect", 29.95, pytest.approx(25.95)), ("stop", 30, pytest.approx(0.05))]


def test_each_failure_is_told_once_though_torch_reports_it_again(play: Play) -> None:
    """The same worker comes at the closing, in the result, and at the end of the job."""
    play.bring_up(0, nobodies())
    play.at(30).closing({0: 3, 1: None})
    play.at(31).closed({0: 3, 1: -15})
    play.at(31).result({NOBODY: 3, NOBODY + 1: -15}, ())
    play.at(32).stopping()
    play.at(32).closing({0: 3, 1: -15})
    play.at(33).ended("failed", None)
    assert len(play.told(semconv.WORKER_FAILED)) == 1


def test_a_result_tells_what_no_closing_told(play: Play) -> None:
    """Projects override how workers are monitored, and close them in ways of their own."""
    play.bring_up(0, nobodies())
    play.at(29.9).polled()
    play.at(30).result({NOBODY + 1: 3, 77: 1}, ())
    (told,) = play.told(semconv.WORKER_FAILED)
    assert (told[semconv.WORKER_RANK], told[semconv.PROCESS_EXIT_CODE]) == (11, 3)
    assert play.phases()[-1] == ("detect", 30, 26)


def test_a_worker_that_hangs_for_good_has_failed(play: Play) -> None:
    """Uninterruptible sleep: torch returns UNHEALTHY with no failures, and would exit 0 (trap 9)."""
    play.bring_up(0, nobodies())
    play.at(30).result({}, (NOBODY + 1,))
    play.at(30).stopping()
    play.at(90).closed({0: -15, 1: None})
    play.at(90).ended("failed", None)
    (told,) = play.told(semconv.WORKER_FAILED)
    assert (told[semconv.WORKER_RANK], told[semconv.FAILURE_KIND]) == (11, "uninterruptible_sleep")
    assert (told[semconv.ERROR_TYPE], told[semconv.FAILURE_ROLE]) == ("uninterruptible_sleep", "cause")
    assert [phase for phase, _, _ in play.phases()[4:]] == ["detect", "stop", "ended"]


def test_a_process_of_an_earlier_start_that_ends_late_is_told_as_what_it_was(play: Play) -> None:
    """Torch gives up on a process that does not die, and starts the next round beside it."""
    play.bring_up(0, [play.worker(0, "exit 9")])
    play.at(30).stopping()
    play.bring_up(60, [Worker(0, 20, NOBODY)], 1)
    play.clock.seconds = 70
    play.let_go(0)
    (told,) = play.told(semconv.WORKER_EXITED)
    assert (told[semconv.WORKER_RANK], told[semconv.WORKER_PID]) == (10, play.processes[0].pid)


def test_an_agent_that_is_told_to_go_says_so_and_its_workers_have_not_failed(play: Play) -> None:
    """SIGTERM: its peers must know that it left, and Ctrl-C reaches the workers before the agent looks."""
    play.bring_up(0, [play.worker(0, "kill -INT $$")])
    play.clock.seconds = 30
    play.let_go(0)
    play.at(30.1).leaving("SIGINT")
    play.at(30.1).closing(play.codes())
    play.at(31).ended("terminated", "SignalException")
    assert play.told(semconv.AGENT_LEAVING) == [{semconv.WORKER_SIGNAL: "SIGINT"}]
    assert play.told(semconv.WORKER_FAILED) == []
    assert [phase for phase, _, _ in play.phases()[4:]] == ["stop", "ended"]
    last = play.told(semconv.AGENT_PHASE_ENTERED)[-1]
    assert (last[semconv.AGENT_OUTCOME], last[semconv.ERROR_TYPE]) == ("terminated", "SignalException")


def test_an_agent_that_goes_in_its_first_rendezvous_says_so(play: Play) -> None:
    """There are no workers yet, and no round to name a cause for."""
    play.at(0).rendezvous_begins()
    play.at(5).leaving("SIGTERM")
    play.at(5).ended("terminated", "SignalException")
    assert [phase for phase, _, _ in play.phases()] == ["rendezvous", "ended"]
    assert len(play.told(semconv.AGENT_LEAVING)) == 1


def test_phases_never_begin_before_the_one_before(play: Play) -> None:
    """A worker may have ended before torch was done with starting it."""
    play.bring_up(0, [play.worker(0, "exit 5")])
    start = play.watch._start
    assert start is not None
    play.clock.seconds = 3.5
    play.let_go(0)
    play.at(5).closing(play.codes())
    assert play.phases()[-1] == ("detect", 4, 0)
    assert when(play.said.one(semconv.WORKER_FAILED)) == moment(3.5).wall_ns


def test_a_worker_that_trains_is_told(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restart overhead then includes loading a checkpoint."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = Path(play.watch.training.path(1))
    play.bring_up(0, nobodies())
    path.write_text(f"{moment(9).wall_ns} {moment(9).monotonic_ns}")
    play.at(10)
    assert play.told(semconv.TRAINING_STARTED) == [{semconv.WORKER_RANK: 11, semconv.WORKER_LOCAL_RANK: 1}]
    assert play.said.one(semconv.TRAINING_STARTED).at == moment(9)


def test_workers_get_the_span_that_will_be_told_of_them(play: Play) -> None:
    """What a worker links to must be there when the agent's spans arrive."""
    assert play.watch.traceparent() is None
    done(play.thread)
    play.at(0).rendezvous_begins()
    play.at(2).rendezvous_over(0, 2)
    parent = play.watch.traceparent()
    assert parent is not None
    version, trace, span, flags = parent.split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "01")


def test_a_thousand_restarts_remember_one(play: Play) -> None:
    """An agent that runs for weeks must not grow with its restarts."""
    play.bring_up(0, nobodies())
    for number in range(1, 50):
        play.at(number * 10 + 5).closing({0: 1, 1: None})
        play.at(number * 10 + 6).closed({0: 1, 1: -15})
        play.at(number * 10 + 6).restarting("worker_failure", number)
        play.at(number * 10 + 6).stopping()
        play.bring_up(number * 10 + 10, nobodies(), number)
    play.at(10_000)
    assert len(play.thread._timers) <= 4
    assert play.thread._readable == {}
    assert len(play.told(semconv.RESTART_CAUSE_AGREED)) == 49
    assert len(play.told(semconv.ROUND_STARTED)) == 50
