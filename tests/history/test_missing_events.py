"""The history of agents whose events stop: no event shows how long they continued."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.job_streams import AgentTape, S, at, clean_job
from torchelastic_otel import semconv
from torchelastic_otel.history.reducer import HistoryState, add, build_runs
from torchelastic_otel.history.types import LeftReason, Outcome, Run, State
from torchelastic_otel.model.phases import Phase

HOURS_10 = 36_000
HEARD = "2026-11-22T12:54:50Z"
"""Second 90."""


def run_of(*agents: AgentTape, **known: Any) -> Run:
    """The one run of these agents."""
    [run] = build_runs(add(HistoryState(), [delivery for agent in agents for delivery in agent.deliveries]), **known)
    return run


def training(*names: str, backend: str = "c10d", beats: bool = False) -> list[AgentTape]:
    """Nodes that train from second 4 on, with their heartbeats every five seconds of the next two minutes or none."""
    agents = [AgentTape(f"node-{name}", backend=backend, nonce=None) for name in names]
    for rank, agent in enumerate(agents):
        if backend == "static":
            del agent.standing[semconv.NODE_ID]
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    for second in range(5, 125, 5) if beats else ():
        for agent in agents:
            agent.beat(second)
    return agents


@pytest.mark.parametrize("known", ["nothing", "alive", "exited"])
def test_without_heartbeats_nobody_knows_how_long_a_silent_agent_trained(known: str) -> None:
    """A job that has trained for ten hours has no event since its fourth second: "at most 0.0%" would be a lie."""
    [agent] = agents = training("a", backend="static")
    run = run_of(*agents, **({} if known == "nothing" else {known: {agent.origin.id}}))
    assert run.training_ratio is None
    assert (
        "the effective training time: no event shows how long node-a (106) continued after the last event"
        in run.unknown
    )


@pytest.mark.parametrize("known", ["alive", "exited"])
def test_with_heartbeats_the_share_of_training_is_of_the_time_until_the_last_of_them(known: str) -> None:
    """A spool keeps heartbeats: an agent of which they are here was at its phase until then."""
    [agent] = agents = training("a", beats=True)
    assert run_of(*agents, **{known: {agent.origin.id}}).training_ratio == 116 / 120


def test_a_node_that_went_silent_may_have_gone_on_after_the_others_ended() -> None:
    """One node gave up; what the other one did since its fourth second, and for how long, is unknown."""
    first, second = training("a", "b")
    first.fail(HOURS_10)
    first.give_up(HOURS_10 + 1, 0)
    run = run_of(first, second)
    assert (run.outcome, run.training_ratio) == (Outcome.FAILED, None)
    second.lose(HOURS_10 + 1, first, "2026-11-22T12:54:00.000Z", 0)
    assert run_of(first, second).training_ratio is None, "that is heard of the first node, not of the second"
    first.lose(HOURS_10 + 1, second, "2026-11-22T22:53:15.000Z", 1)
    assert run_of(first, second).training_ratio is not None


def test_time_that_nobody_told_of_may_have_been_training() -> None:
    """The share is an upper bound: what is missing must not lower it."""
    whole = run_of(*clean_job(1)).training_ratio
    [agent] = clean_job(1)
    agent.events = [
        event
        for event in agent.events
        if event.attributes.get(semconv.PHASE) not in (Phase.RUNNING.value, Phase.EXIT_BARRIER.value)
    ]
    run = run_of(agent)
    assert (run.outcome, run.time[State.TRAINING]) == (Outcome.SUCCEEDED, 0)
    assert whole is not None
    assert run.training_ratio is not None
    assert run.training_ratio >= whole


def test_who_was_lost_without_a_heartbeat_here_does_not_go_before_what_failed() -> None:
    """Its last event is as old as its start: taken for its last heartbeat, an innocent node would be the cause."""
    runs = {}
    for beats in (True, False):
        first, second = training("a", "b", beats=beats)
        first.fail(100)
        first.restart(101, "worker_failure", 1)
        first.bring_up(130, 1, 0, [first])
        first.succeed(200)
        runs[beats] = run_of(first, second)
    for run in runs.values():
        round_ = run.rounds[0]
        assert round_.first_failure is not None
        assert (round_.first_failure.host, round_.first_failure.at_ns) == ("node-a", at(100))
        assert round_.restart is not None
        assert round_.restart.reason == "worker_failure"
        assert round_.lost == (second.node_id,)
        assert run.time[State.TRAINING] == (96 + 66) * S
    doubt = f"whether {second.node_id} was lost before the first failure in round 0: there are no heartbeats"
    assert [doubt in runs[beats].unknown for beats in (True, False)] == [False, True]
    assert [runs[beats].rounds[0].nodes[1].left_ns for beats in (True, False)] == [at(120), None]


@pytest.mark.parametrize(("its_own", "joins"), [(True, True), (False, True), (True, False)])
def test_a_newcomer_tells_when_the_node_was_last_heard_of_whose_place_it_takes(its_own: bool, joins: bool) -> None:
    """It removes the dead one from the rendezvous, and was in no round itself; it may never come to one."""
    first, second = training("a", "b")
    third = AgentTape("node-c", nonce=None)
    first.fail(100)
    first.restart(101, "membership_change")
    third.start(102)
    third.lose(105, second, HEARD, 1)
    world = [first, third] if joins else [first]
    for rank, agent in enumerate(world):
        agent.bring_up(130, 1, rank, world)
        agent.succeed(200)
    round_ = run_of(first, third, *([second] if its_own else [])).rounds[0]
    assert round_.lost == (second.node_id,)
    assert round_.first_failure is not None
    assert (round_.first_failure.kind, round_.first_failure.node_id) == ("node_lost", second.node_id)
    assert round_.first_failure.at_ns == at(90)


def test_of_two_that_were_lost_without_a_heartbeat_nobody_can_tell_which_was_first() -> None:
    """One of them is named as ambiguous: it may have been the other."""
    agents = training("a", "b")
    run = run_of(*agents, exited={agent.origin.id for agent in agents})
    failure = run.rounds[0].first_failure
    assert failure is not None
    assert (failure.kind, failure.at_ns, failure.ambiguous) == ("node_lost", None, True)
    assert "which failure came first in round 0: no event has the time" in run.unknown


@pytest.mark.parametrize("ends_well", [True, False])
def test_under_static_a_node_whose_process_is_gone_was_lost(ends_well: bool) -> None:
    """There are no node ids and nobody looks after the others: what its spool tells of its process is all there is."""
    agents = training("a", "b", backend="static")
    if ends_well:
        agents[0].succeed(100)
    run = run_of(*agents, exited={agent.origin.id for agent in agents[ends_well:]})
    ends = [Outcome.SUCCEEDED if ends_well else Outcome.LOST, Outcome.LOST]
    assert [member.outcome for member in run.nodes] == ends
    [round_] = run.rounds
    assert (run.outcome, round_.outcome) == (Outcome.FAILED, Outcome.FAILED)
    assert [node.left_reason for node in round_.nodes] == [LeftReason(end.value) for end in ends]
    lost = "node-b (106) is" if ends_well else "node-a (106), node-b (106) are"
    assert any(sentence.startswith(f"{lost} considered lost in round 0 because") for sentence in run.inferred)
    assert not any("may still be running" in sentence for sentence in run.unknown)


def test_a_process_that_is_gone_does_not_still_run() -> None:
    """One agent of a round is known to be gone, of the other nothing is known: only that one may still run."""
    first, second = training("a", "b", beats=True)
    first.restart(130, "membership_change")
    first.bring_up(130, 1, 0, [first])
    run = run_of(first, second, exited={second.origin.id})
    assert run.outcome == Outcome.UNKNOWN
    assert any(
        sentence.startswith("how the run ended: the events of node-a") and "node-b" not in sentence
        for sentence in run.unknown
    )


def test_an_agent_that_is_gone_before_it_was_in_a_round_was_lost() -> None:
    """Killed in its first rendezvous: the run is over, and failed."""
    agent = AgentTape("node-a", nonce=None)
    agent.start(0)
    agent.seek(0)
    run = run_of(agent, exited={agent.origin.id})
    assert (run.outcome, run.nodes[0].outcome, run.rounds[0].nodes[0].left_reason) == (
        Outcome.FAILED,
        Outcome.LOST,
        LeftReason.LOST,
    )
