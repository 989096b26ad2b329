"""What one agent is seen to do: its phases, its round, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.observed_agent import UNWATCHED_PID, UP, ObservedAgent, unwatched_workers, when
from tests.support.observers import moment, wait_until_idle
from torchelastic_otel import semconv


def test_an_agent_says_how_it_was_launched(observed: ObservedAgent) -> None:
    """What is missing in a rendezvous, and how many restarts are left, follows from it."""
    assert observed.attributes_of(semconv.AGENT_STARTED) == [
        {
            semconv.AGENT_ID: observed.watch.id,
            semconv.NODES_MIN: 1,
            semconv.NODES_MAX: 2,
            semconv.LOCAL_WORLD_SIZE: 2,
            semconv.RESTARTS_MAX: 3,
            semconv.ROLE_NAME: "trainer",
            semconv.RENDEZVOUS_BACKEND: "c10d",
            semconv.ENTRY_POINT: "train.py",
        }
    ]


def test_a_clean_end_is_six_phases_without_a_gap(observed: ObservedAgent) -> None:
    """The agent is at exactly one phase at any time: they sum to wall time."""
    observed.bring_up(0, [observed.worker(0, "exit 0"), observed.worker(1, "exit 0")])
    for at in (5, 6, 7):
        observed.at(at).on_poll()
    observed.clock.seconds = 20
    observed.let_end(0, 1)
    observed.at(20.5).on_close_begin(observed.codes())
    observed.at(20.5).on_close_end(observed.codes())
    observed.at(20.5).on_poll()
    observed.at(20.6).on_exit_barrier()
    observed.at(22).on_close_begin(observed.codes())
    observed.at(22).on_exit("succeeded", None)
    assert observed.phases() == [*UP, ("exit_barrier", 20.6, pytest.approx(16.6)), ("ended", 22, pytest.approx(1.4))]
    exits = observed.attributes_of(semconv.WORKER_EXITED)
    assert [(told[semconv.WORKER_RANK], told[semconv.PROCESS_EXIT_CODE]) for told in exits] == [(10, 0), (11, 0)]
    assert [when(event) for event in observed.events.of(semconv.WORKER_EXITED)] == [moment(20).wall_ns] * 2
    assert {told[semconv.INFERRED_FROM] for told in exits} == {"pidfd"}
    assert observed.attributes_of(semconv.WORKER_FAILED) == []
    assert observed.attributes_of(semconv.AGENT_PHASE_ENTERED)[-1][semconv.AGENT_OUTCOME] == "succeeded"


def test_the_phases_say_the_round_and_who_is_in_it(observed: ObservedAgent) -> None:
    """Torch's own agent events carry the round before."""
    observed.bring_up(0, unwatched_workers())
    ranks, _, running = observed.attributes_of(semconv.AGENT_PHASE_ENTERED)[1:]
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
    assert running[semconv.WORKER_PIDS] == (f"0:10:{UNWATCHED_PID}", f"1:11:{UNWATCHED_PID + 1}")


def test_a_backend_that_tells_no_round_is_counted(observed: ObservedAgent) -> None:
    """Static and etcd keep their state to themselves."""
    for number in range(3):
        observed.bring_up(number * 10, unwatched_workers())
        observed.view = None
    observed.view = None
    observed.at(40).on_rendezvous_begin()
    observed.at(41).on_rendezvous_end(1, 4)
    rounds = [told.get(semconv.RENDEZVOUS_ROUND) for told in observed.attributes_of(semconv.AGENT_PHASE_ENTERED)]
    assert [round_ for round_ in rounds if round_ is not None] == [0, 0, 0, 1]


def test_an_agent_that_goes_in_its_first_rendezvous_says_so(observed: ObservedAgent) -> None:
    """There are no workers yet, and no round to name a cause for."""
    observed.at(0).on_rendezvous_begin()
    observed.at(5).on_leave("SIGTERM")
    observed.at(5).on_exit("terminated", "SignalException")
    assert [phase for phase, _, _ in observed.phases()] == ["rendezvous", "ended"]
    assert len(observed.attributes_of(semconv.AGENT_LEAVING)) == 1


def test_phases_never_begin_before_the_one_before(observed: ObservedAgent) -> None:
    """A worker may have ended before torch was done with starting it."""
    observed.bring_up(0, [observed.worker(0, "exit 5")])
    observed.clock.seconds = 3.5
    observed.let_end(0)
    observed.at(5).on_close_begin(observed.codes())
    assert observed.phases()[-1] == ("detect", 4, 0)
    assert when(observed.events.one(semconv.WORKER_FAILED)) == moment(3.5).wall_ns


def test_a_worker_that_trains_is_told(observed: ObservedAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restart overhead then includes loading a checkpoint."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = Path(observed.watch.training.path(1))
    observed.bring_up(0, unwatched_workers())
    path.write_text(f"{moment(9).wall_ns} {moment(9).monotonic_ns}")
    observed.at(10)
    assert observed.attributes_of(semconv.TRAINING_STARTED) == [{semconv.WORKER_RANK: 11, semconv.WORKER_LOCAL_RANK: 1}]
    assert observed.events.one(semconv.TRAINING_STARTED).at == moment(9)


def test_workers_get_the_span_that_will_be_told_of_them(observed: ObservedAgent) -> None:
    """What a worker links to must be there when the agent's spans arrive."""
    assert observed.watch.traceparent() is None
    wait_until_idle(observed.thread)
    observed.at(0).on_rendezvous_begin()
    observed.at(2).on_rendezvous_end(0, 2)
    parent = observed.watch.traceparent()
    assert parent is not None
    version, trace, span, flags = parent.split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "01")


def test_a_thousand_restarts_remember_one(observed: ObservedAgent) -> None:
    """An agent that runs for weeks must not grow with its restarts."""
    observed.bring_up(0, unwatched_workers())
    for number in range(1, 50):
        observed.at(number * 10 + 5).on_close_begin({0: 1, 1: None})
        observed.at(number * 10 + 6).on_close_end({0: 1, 1: -15})
        observed.at(number * 10 + 6).on_restart("worker_failure", number)
        observed.at(number * 10 + 6).on_stop()
        observed.bring_up(number * 10 + 10, unwatched_workers(), number)
    observed.at(10_000)
    assert len(observed.thread._timers) <= 4
    assert observed.thread._readers == {}
    assert len(observed.attributes_of(semconv.RESTART_CAUSE_AGREED)) == 49
    assert len(observed.attributes_of(semconv.ROUND_STARTED)) == 50
