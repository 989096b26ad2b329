"""What one agent is seen to do: its phases, its round, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.observed_agent import NOBODY, UP, Play, nobodies, when
from tests.support.observers import done, moment
from torchelastic_otel import semconv


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
        play.at(at).on_poll()
    play.clock.seconds = 20
    play.let_go(0, 1)
    play.at(20.5).on_close_begin(play.codes())
    play.at(20.5).on_close_end(play.codes())
    play.at(20.5).on_poll()
    play.at(20.6).on_exit_barrier()
    play.at(22).on_close_begin(play.codes())
    play.at(22).on_exit("succeeded", None)
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
    play.at(40).on_rendezvous_begin()
    play.at(41).on_rendezvous_end(1, 4)
    rounds = [told.get(semconv.RENDEZVOUS_ROUND) for told in play.told(semconv.AGENT_PHASE_ENTERED)]
    assert [round_ for round_ in rounds if round_ is not None] == [0, 0, 0, 1]


def test_an_agent_that_goes_in_its_first_rendezvous_says_so(play: Play) -> None:
    """There are no workers yet, and no round to name a cause for."""
    play.at(0).on_rendezvous_begin()
    play.at(5).on_leave("SIGTERM")
    play.at(5).on_exit("terminated", "SignalException")
    assert [phase for phase, _, _ in play.phases()] == ["rendezvous", "ended"]
    assert len(play.told(semconv.AGENT_LEAVING)) == 1


def test_phases_never_begin_before_the_one_before(play: Play) -> None:
    """A worker may have ended before torch was done with starting it."""
    play.bring_up(0, [play.worker(0, "exit 5")])
    play.clock.seconds = 3.5
    play.let_go(0)
    play.at(5).on_close_begin(play.codes())
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
    play.at(0).on_rendezvous_begin()
    play.at(2).on_rendezvous_end(0, 2)
    parent = play.watch.traceparent()
    assert parent is not None
    version, trace, span, flags = parent.split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "01")


def test_a_thousand_restarts_remember_one(play: Play) -> None:
    """An agent that runs for weeks must not grow with its restarts."""
    play.bring_up(0, nobodies())
    for number in range(1, 50):
        play.at(number * 10 + 5).on_close_begin({0: 1, 1: None})
        play.at(number * 10 + 6).on_close_end({0: 1, 1: -15})
        play.at(number * 10 + 6).on_restart("worker_failure", number)
        play.at(number * 10 + 6).on_stop()
        play.bring_up(number * 10 + 10, nobodies(), number)
    play.at(10_000)
    assert len(play.thread._timers) <= 4
    assert play.thread._readers == {}
    assert len(play.told(semconv.RESTART_CAUSE_AGREED)) == 49
    assert len(play.told(semconv.ROUND_STARTED)) == 50
