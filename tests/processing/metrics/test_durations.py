"""Where the time went: the states sum to wall time, and the job's time is counted by one agent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.agent_streams import AgentStream
from torchelastic_otel import semconv
from torchelastic_otel.model.phases import Phase

AGENT, JOB = semconv.METRIC_AGENT_TIME, semconv.METRIC_TIME


def begun(run_id: str = "run") -> AgentStream:
    """An agent whose series have all begun, so that what is counted is what is told."""
    stream = AgentStream(run_id)
    stream.say(0, semconv.AGENT_STARTED)
    stream.snapshot(0)
    return stream


def told(stream: AgentStream, metric: str, at_s: float) -> dict[str, float]:
    """A metric's states that are not 0, in seconds; asked twice, since the job's first snapshot holds back."""
    stream.snapshot(at_s)
    return {states[0]: value for states, value in stream.snapshot(at_s).get(metric, {}).items() if value}


def test_every_phase_counts_to_its_state_and_the_open_one_up_to_now() -> None:
    """Rank assignment counts to starting; a phase that lasts for hours must not wait for its end to be seen."""
    stream = begun()
    stream.bring_up(10, 0, writer=True)
    stream.enter(20, Phase.DETECT)
    stream.enter(21, Phase.STOP)
    stream.enter(24, Phase.RENDEZVOUS)
    assert told(stream, AGENT, 30) == {
        "rendezvous": 2 + 6,
        "starting": 2,
        "running": 6,
        "detecting": 1,
        "stopping": 3,
    }


def test_the_exit_barrier_counts_and_what_comes_after_the_end_does_not() -> None:
    """A finished agent's process may live on."""
    stream = begun()
    stream.bring_up(0, 0, writer=None)
    stream.enter(9, Phase.EXIT_BARRIER)
    stream.enter(12, Phase.ENDED, agent_outcome="succeeded")
    assert told(stream, AGENT, 100) == {"rendezvous": 2, "starting": 2, "running": 5, "exit_barrier": 3}


def test_time_told_as_running_before_the_failure_was_noticed_is_paid_back_by_what_runs_next() -> None:
    """The failure is noticed 30 s late, after a snapshot: nothing falls, the sum stays, and in the end all is right."""
    stream = begun()
    stream.bring_up(0, 0, writer=True)
    assert told(stream, AGENT, 40)["running"] == 36
    stream.enter(20, Phase.DETECT)
    stream.enter(50, Phase.STOP)
    after = told(stream, AGENT, 50)
    assert (after["running"], after["detecting"], sum(after.values())) == (36, 10, 50)
    stream.bring_up(51, 1, writer=True)
    later = told(stream, AGENT, 100)
    assert (later["running"], later["detecting"], sum(later.values())) == (16 + 45, 30, 100)


@given(
    st.lists(
        st.tuples(st.sampled_from([*Phase]), st.integers(0, 50), st.booleans(), st.sampled_from([None, True, False])),
        max_size=25,
    )
)
def test_whatever_comes_the_states_sum_to_wall_time_and_none_falls(steps: list[tuple[Any, ...]]) -> None:
    """Phases in any order, also begun in the past, snapshots and elections at any time."""
    stream, at, closed, open_since = begun(), 1, 0, None
    before: dict[str, float] = {}
    for number, (phase, passed, look, writer) in enumerate(steps):
        at += passed
        stream.round = number
        stream.enter(at - (passed // 2 if phase is Phase.DETECT else 0), phase, writer=writer)
        if open_since is not None and phase is Phase.ENDED:
            closed, open_since = closed + at - open_since, None
        elif open_since is None and phase is not Phase.ENDED:
            # the first phase may begin in the past as well, but not before the one that ended
            open_since = stream.tally.runs[-1].durations.counted_until_ns / 1e9 - 5_000
        if look:
            now = told(stream, AGENT, at)
            assert sum(now.values()) == pytest.approx(closed + (at - open_since if open_since is not None else 0))
            assert all(now.get(state, 0) >= value for state, value in before.items())
            before = now


def test_the_jobs_time_is_counted_by_the_one_that_speaks_from_the_bring_up_on() -> None:
    """Who speaks is known only after the workers run; what came before is the round's as well."""
    one, other = begun(), begun()
    for stream, writer in ((one, True), (other, None)):
        stream.bring_up(0, 0, writer)
        stream.enter(10, Phase.EXIT_BARRIER)
        stream.enter(12, Phase.ENDED, agent_outcome="succeeded")
    assert told(one, JOB, 20) == {"rendezvous": 2, "starting": 2, "running": 6, "exit_barrier": 2}
    assert told(other, JOB, 20) == {}


def test_two_rounds_with_two_speakers_sum_to_the_jobs_wall_time() -> None:
    """Another agent may be elected in each round; no second is counted twice and none is lost."""
    one, other = begun(), begun()
    for stream, first, second in ((one, True, None), (other, None, True)):
        stream.bring_up(0, 0, first)
        stream.enter(10, Phase.DETECT)
        stream.enter(11, Phase.STOP)
        stream.bring_up(13, 1, second)
        stream.enter(30, Phase.ENDED, agent_outcome="succeeded")
    assert sum(told(one, JOB, 40).values()) == 10
    assert sum(told(other, JOB, 40).values()) == 20


def test_a_rendezvous_of_which_no_round_comes_is_the_last_speakers() -> None:
    """A job that dies waiting for nodes has lost that time, and nobody is elected any more."""
    one, other = begun(), begun()
    for stream, writer in ((one, True), (other, None)):
        stream.bring_up(0, 0, writer)
        stream.enter(10, Phase.STOP)
        stream.enter(11, Phase.RENDEZVOUS)
        stream.enter(611, Phase.ENDED, agent_outcome="error")
    assert told(one, JOB, 700)["rendezvous"] == 602
    assert told(other, JOB, 700) == {}


@pytest.mark.parametrize("noticed_at_s", [14.5, 30])
def test_who_speaks_may_be_learned_when_the_round_is_already_over(noticed_at_s: float) -> None:
    """Workers that fail at once leave the election no time, in the bring-up that follows or after the end."""
    stream = begun()
    stream.bring_up(0, 0, writer=None)
    stream.enter(13, Phase.DETECT)
    stream.enter(14, Phase.STOP)
    if noticed_at_s < 20:
        stream.say(noticed_at_s, semconv.ROUND_STARTED, writer=True)
    stream.enter(20, Phase.ENDED, agent_outcome="failed")
    if noticed_at_s > 20:
        stream.say(noticed_at_s, semconv.ROUND_STARTED, writer=True)
    assert sum(told(stream, JOB, 40).values()) == 20


def test_a_newcomers_wait_was_the_others_running_time() -> None:
    """A node that stood by for an hour and then speaks must not add its hour to the job's."""
    stream = begun()
    stream.enter(0, Phase.RENDEZVOUS)
    stream.join(3600, 5)
    stream.enter(3601, Phase.START)
    stream.enter(3602, Phase.RUNNING)
    stream.say(3603, semconv.ROUND_STARTED, writer=True, round_duration=10.0)
    assert told(stream, JOB, 3612) == {"rendezvous": 8, "starting": 2, "running": 10}


def test_an_agent_that_is_told_that_another_speaks_stops_counting_for_the_job() -> None:
    """A late answer of the store corrects what was assumed."""
    stream = begun()
    stream.bring_up(0, 0, writer=True)
    stream.say(10, semconv.RESTART_CAUSE_AGREED, writer=False)
    assert told(stream, JOB, 20) == {"rendezvous": 2, "starting": 2}


def test_a_second_agent_of_the_same_process_goes_on_counting() -> None:
    """A program that launches one job after another under one run id has one series for both."""
    stream = begun()
    stream.bring_up(0, 0, writer=True)
    stream.enter(10, Phase.ENDED, agent_outcome="succeeded")
    stream.round = None
    stream.say(100, semconv.AGENT_STARTED)
    stream.bring_up(100, 0, writer=True)
    assert told(stream, AGENT, 110)["running"] == 6 + 6
    assert sum(told(stream, JOB, 110).values()) == 20
