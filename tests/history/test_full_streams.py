"""The history of jobs whose agents report all that is hooked; the streams are made by hand, so the truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.job_streams import NONCE, AgentTape, S, at, clean_job, failing_job
from torchelastic_otel import semconv
from torchelastic_otel.history.reducer import HistoryState, add, build_runs
from torchelastic_otel.history.types import LeftReason, Outcome, Run, State
from torchelastic_otel.model.event import Origin, StoredEvent
from torchelastic_otel.model.phases import Phase


def without(delivery: StoredEvent, attribute: str) -> StoredEvent:
    """The event without one of its attributes."""
    attributes = {name: value for name, value in delivery.event.attributes.items() if name != attribute}
    return replace(delivery, event=replace(delivery.event, attributes=attributes))


def run_of(*agents: AgentTape, **known: Any) -> Run:
    """The one run of these agents."""
    [run] = build_runs(add(HistoryState(), [delivery for agent in agents for delivery in agent.deliveries]), **known)
    return run


def test_a_clean_end_is_told_whole_and_its_time_sums_to_the_wall() -> None:
    """If everything is reported, nothing may be unknown, and no moment may be counted twice."""
    run = run_of(*clean_job(3))
    assert (run.run_id, run.nonce, run.outcome, run.restarts) == ("job", NONCE, Outcome.SUCCEEDED, 0)
    assert (run.started_ns, run.ended_ns) == (at(0), at(14.5))
    assert run.time == {
        State.TRAINING: 10 * S,
        State.RENDEZVOUS: 2 * S,
        State.STARTING: 2 * S,
        State.DETECTING: 0,
        State.STOPPING: 0,
        State.EXIT_BARRIER: S // 2,
    }
    assert sum(run.time.values()) == run.wall_ns == 14.5 * S
    assert run.training_ratio == 10 / 14.5
    [round_] = run.rounds
    assert (round_.outcome, round_.world_size, round_.first_failure, round_.restart) == (
        Outcome.SUCCEEDED,
        3,
        None,
        None,
    )
    assert [(node.host, node.group_rank, node.joined_ns, node.left_ns, node.left_reason) for node in round_.nodes] == [
        (f"node-{rank}", rank, at(rank / 10), at(14.5), LeftReason.SUCCEEDED) for rank in range(3)
    ]
    assert round_.last_joiner == "node-2_106_0"
    assert (run.inferred, run.unknown) == ((), ())


def test_a_failure_that_was_agreed_on_is_the_rounds_and_so_is_its_restart() -> None:
    """The peer saw a change of membership only; the history has what all agreed on, with the traceback."""
    run = run_of(*failing_job())
    first, second = run.rounds
    assert (run.outcome, run.restarts) == (Outcome.SUCCEEDED, 1)
    assert (first.outcome, second.outcome) == (Outcome.FAILED, Outcome.SUCCEEDED)
    failure = first.first_failure
    assert failure is not None
    assert (failure.kind, failure.host, failure.group_rank, failure.rank, failure.local_rank, failure.pid) == (
        "exception",
        "node-b",
        1,
        3,
        1,
        1011,
    )
    assert (failure.exit_code, failure.error_type, failure.message, failure.at_ns) == (1, "ValueError", "boom", at(20))
    assert (failure.inferred_from, failure.ambiguous) == ("pidfd", False)
    assert failure.traceback is not None
    assert failure.traceback.endswith("ValueError: boom")
    assert first.victims == ()
    assert first.restart is not None
    assert (first.restart.reason, first.restart.index, first.restart.agreed) == ("worker_failure", 1, True)
    assert first.restart.phases == {
        "detect": S // 2,
        "stop": 3 * S // 2,
        "rendezvous": 2 * S,
        "assign_ranks": S,
        "start": S // 2,
    }
    assert [node.left_reason for node in first.nodes] == [LeftReason.MEMBERSHIP_CHANGE, LeftReason.WORKER_FAILURE]
    assert [node.left_ns for node in first.nodes] == [at(22), at(20.5)]
    assert second.last_joiner == "node-b_106_0"
    assert run.unknown == ()


def test_training_ends_with_the_first_failure_anywhere() -> None:
    """A node that still runs after another's failure trains nothing; its seconds are the detection's."""
    run = run_of(*failing_job())
    assert run.time == {
        State.TRAINING: (16 + 19) * S,  # 4 to 20, 26 to 45
        State.RENDEZVOUS: (2 + 1) * S,
        State.STARTING: (2 + 2) * S,
        State.DETECTING: 2 * S,  # 20 to 22: the first node does not know yet
        State.STOPPING: 1 * S,  # 22 to 23: the second node has not come back yet
        State.EXIT_BARRIER: S // 2,
    }
    assert sum(run.time.values()) == run.wall_ns


def test_without_agreement_the_nodes_are_merged_and_that_is_said() -> None:
    """Torch below 2.4, etcd, a store that was given up: the times decide, and the history lists this."""
    run = run_of(*failing_job(agreed=False))
    first = run.rounds[0]
    assert first.first_failure is not None
    assert (first.first_failure.host, first.first_failure.rank) == ("node-b", 3)
    assert first.restart is not None
    assert (first.restart.reason, first.restart.index, first.restart.agreed) == ("worker_failure", 1, False)
    assert first.restart.phases["detect"] == S // 2
    assert run.inferred == (
        "the first failure in round 0 was determined by the times of the nodes whose events are available",
    )


def test_the_last_rounds_cause_is_the_earliest_failure_of_all_nodes() -> None:
    """Nobody agrees on anything after the last round; each node holds its own first failure for the cause."""
    first, second = agents = [AgentTape(f"node-{name}") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    first.fail(20.4, process_exit_code=-6, worker_signal="SIGABRT", failure_kind="signal", error_type="SIGABRT")
    second.fail(20.1, error=0.1, process_exit_code=3)
    for agent in agents:
        agent.give_up(25, 0)
    run = run_of(*agents)
    [round_] = run.rounds
    assert (run.outcome, round_.outcome) == (Outcome.FAILED, Outcome.FAILED)
    assert round_.first_failure is not None
    assert (round_.first_failure.host, round_.first_failure.exit_code) == ("node-b", 3)
    assert not round_.first_failure.ambiguous
    assert [(victim.host, victim.signal) for victim in round_.victims] == [("node-a", "SIGABRT")]
    assert [node.left_reason for node in round_.nodes] == [LeftReason.WORKER_FAILURE] * 2


def test_failures_within_each_others_error_are_ambiguous() -> None:
    """Half a second between two polls cannot be distinguished; to name one for certain would be a guess."""
    first, second = agents = [AgentTape(f"node-{name}") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    first.fail(20.4, error=0.5)
    second.fail(20.1)
    for agent in agents:
        agent.give_up(25, 0)
    run = run_of(*agents)
    failure = run.rounds[0].first_failure
    assert failure is not None
    assert (failure.host, failure.ambiguous) == ("node-b", True)
    assert any("which failure came first in round 0" in sentence for sentence in run.unknown)


def test_a_node_that_was_lost_before_the_failure_is_the_cause() -> None:
    """The survivor's worker fails because its peer is lost: a victim; the restart's reason is the node's loss."""
    first, second = agents = [AgentTape(f"node-{name}") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    second.beat(15)
    first.fail(16)
    first.lose(21, second, "2026-11-22T12:53:35.000Z", 1)
    first.restart(17, "worker_failure", 1)
    first.bring_up(22, 1, 0, [first])
    first.succeed(40)
    run = run_of(*agents)
    assert run.outcome == Outcome.SUCCEEDED
    round_ = run.rounds[0]
    assert round_.first_failure is not None
    assert (round_.first_failure.kind, round_.first_failure.host, round_.first_failure.group_rank) == (
        "node_lost",
        "node-b",
        1,
    )
    assert round_.first_failure.at_ns == at(15)
    assert [victim.host for victim in round_.victims] == ["node-a"]
    assert round_.restart is not None
    assert round_.restart.reason == "node_lost"
    assert round_.lost == (second.node_id,)
    assert [node.left_reason for node in round_.nodes] == [LeftReason.WORKER_FAILURE, LeftReason.LOST]
    assert [missing.host for missing in run.rounds[1].missing] == ["node-b"]
    assert {member.host: member.outcome for member in run.nodes} == {
        "node-a": Outcome.SUCCEEDED,
        "node-b": Outcome.LOST,
    }


def test_a_node_that_lived_on_after_the_failure_is_not_its_cause() -> None:
    """It was lost, but later: its last heartbeat is behind the failure."""
    first, second = agents = [AgentTape(f"node-{name}") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    second.beat(18)
    first.fail(16)
    first.restart(17, "worker_failure", 1)
    first.lose(22, second, "2026-11-22T12:53:38.000Z", 1)
    first.bring_up(22, 1, 0, [first])
    first.succeed(40)
    round_ = run_of(*agents).rounds[0]
    assert round_.first_failure is not None
    assert (round_.first_failure.kind, round_.first_failure.host) == ("exit", "node-a")
    assert round_.restart is not None
    assert round_.restart.reason == "worker_failure"


def test_the_survivors_alone_name_the_lost_node_and_say_that_its_events_are_missing() -> None:
    """The node that died is the one whose disk is gone."""
    first, second = agents = [AgentTape(f"node-{name}") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    first.lose(21, second, "2026-11-22T12:53:35.000Z", 1)
    first.restart(21, "membership_change")
    first.bring_up(22, 1, 0, [first])
    first.succeed(40)
    run = run_of(first)
    lost = run.rounds[0].nodes[1]
    assert (lost.host, lost.node_id, lost.group_rank, lost.left_reason, lost.has_events) == (
        "node-b",
        second.node_id,
        1,
        LeftReason.LOST,
        False,
    )
    assert run.rounds[0].restart is not None
    assert run.rounds[0].restart.reason == "node_lost"
    assert f"the events of 1 of 2 nodes are missing: {second.node_id}" in run.unknown


def test_an_agent_that_lost_the_others_is_a_victim_and_the_run_has_failed() -> None:
    """RendezvousConnectionError shows that the store is lost, never why; a run has failed if any node failed."""
    first, second = agents = [AgentTape(f"node-{name}") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    first.succeed(14)
    second.die(16, "error", "RendezvousConnectionError")
    run = run_of(*agents)
    assert run.outcome == Outcome.FAILED
    [round_] = run.rounds
    assert (round_.outcome, round_.first_failure) == (Outcome.FAILED, None)
    assert [node.left_reason for node in round_.nodes] == [LeftReason.SUCCEEDED, LeftReason.ERROR]
    assert any("RendezvousConnectionError, which does not give the reason" in sentence for sentence in run.unknown)


def test_a_worker_in_uninterruptible_sleep_is_a_failure_though_torch_ends_well() -> None:
    """Torch 2.13 gives UNHEALTHY without failures: exit status 0, WORKER TERMINATED, AGENT SUCCEEDED."""
    [agent] = agents = [AgentTape("node-a")]
    agent.start(0)
    agent.bring_up(0, 0, 0, agents)
    agent.fail(20, failure_kind="uninterruptible_sleep", error_type="uninterruptible_sleep", process_exit_code=None)
    agent.say(25, semconv.WORKER_TERMINATED, worker_rank=0, worker_local_rank=0, worker_pid=agent.pid)
    agent.enter(25, Phase.ENDED, agent_outcome="succeeded")
    agent.say(25, semconv.AGENT_SUCCEEDED)
    run = run_of(agent)
    assert run.outcome == Outcome.FAILED
    assert run.rounds[0].first_failure is not None
    assert run.rounds[0].first_failure.kind == "uninterruptible_sleep"


def test_a_signalled_node_leaves_and_the_others_go_on() -> None:
    """Nothing failed: the round was interrupted, and its reason is that a node left."""
    first, second = agents = [AgentTape(f"node-{name}") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    second.ours(20, semconv.AGENT_LEAVING, worker_signal="SIGTERM")
    second.enter(20, Phase.STOP)
    second.die(21, "terminated", "SignalException")
    first.restart(21, "membership_change")
    first.bring_up(22, 1, 0, [first])
    first.agree(25.6, "node_left", cause={"node.id": second.node_id, "time": at(20)})
    first.succeed(40)
    run = run_of(*agents)
    round_ = run.rounds[0]
    assert (run.outcome, round_.outcome, round_.first_failure) == (Outcome.SUCCEEDED, Outcome.INTERRUPTED, None)
    assert round_.restart is not None
    assert round_.restart.reason == "node_left"
    assert round_.left == (second.node_id,)
    assert round_.nodes[1].left_reason == LeftReason.TERMINATED
    assert round_.nodes[1].left_ns == at(21)
    assert run.rounds[1].missing == ()


def test_a_standby_that_is_promoted_is_told_with_both_moments() -> None:
    """Who pays for a spare wants to know whether it was needed."""
    first, spare = AgentTape("node-a"), AgentTape("node-s")
    first.start(0)
    first.bring_up(0, 0, 0, [first])
    spare.start(1)
    spare.seek(1)
    spare.say(2, semconv.RENDEZVOUS_REDUNDANCY_LIST_ADDED, rendezvous_round=1)
    first.fail(20)
    first.restart(21, "worker_failure", 1)
    first.bring_up(22, 1, 0, [first, spare])
    spare.join(24, 1, 1, [first, spare], arrived=23)
    spare.ours(24, semconv.RUN_IDENTIFIED, run_nonce=NONCE, inferred_from="store")
    spare.run(25.5, trained=26)
    for agent in (first, spare):
        agent.succeed(40)
    run = run_of(first, spare)
    member = next(member for member in run.nodes if member.host == "node-s")
    assert (member.standby_ns, member.promoted_round, member.rounds) == (at(2), 1, (1,))
    assert run.rounds[1].joined == (spare.node_id,)
    # its waiting for a place held up nobody
    assert run.time[State.RENDEZVOUS] == 4 * S
    assert run.time[State.TRAINING] == (16 + 14) * S


def test_runs_with_one_id_and_two_nonces_are_two() -> None:
    """Torchrun's default run id is "none": two jobs on one node at the same time share it."""
    jobs = [clean_job(2, run_id="none", nonce=str(n) * 32) for n in (1, 2)]
    for number, job in enumerate(jobs):
        for agent in job:
            agent.origin = Origin(f"{agent.name}-{number}", agent.name, 100, at(0))
    deliveries = [delivery for job in jobs for agent in job for delivery in agent.deliveries]
    runs = build_runs(add(HistoryState(), deliveries))
    assert sorted((run.run_id, run.nonce, run.outcome, len(run.nodes)) for run in runs) == [
        ("none", "1" * 32, Outcome.SUCCEEDED, 2),
        ("none", "2" * 32, Outcome.SUCCEEDED, 2),
    ]


def test_a_process_that_runs_one_job_after_another_is_an_agent_in_each() -> None:
    """A program may call ``elastic_launch`` in a loop, with one run id; its events are in one spool."""
    one, two = clean_job(1, nonce="1" * 32)[0], clean_job(1, nonce="2" * 32)[0]
    two.origin = one.origin
    second_job = [later(delivery, len(one.events), 100) for delivery in two.deliveries]
    first, second = build_runs(add(HistoryState(), [*one.deliveries, *second_job]))
    assert (first.nonce, first.outcome, second.nonce, second.outcome) == (
        "1" * 32,
        Outcome.SUCCEEDED,
        "2" * 32,
        Outcome.SUCCEEDED,
    )
    assert (first.started_ns, second.started_ns) == (at(0), at(100))


def test_two_jobs_at_once_without_a_nonce_are_told_apart_where_their_nodes_contradict() -> None:
    """Two agents cannot both be rank 0 of round 0 of one run."""
    jobs = [clean_job(1, nonce=None) for _ in range(2)]
    jobs[1][0].origin = Origin("another", "node-0", 200, at(0))
    jobs[1][0].node_id = "other"
    again = [with_node_id(delivery, "node-0_200_0") for delivery in jobs[1][0].deliveries]
    assert len(build_runs(add(HistoryState(), [*jobs[0][0].deliveries, *again]))) == 2


@pytest.mark.parametrize("absent", [semconv.RENDEZVOUS_MISSING_NODES, semconv.RENDEZVOUS_MISSING_NODE_IDS])
def test_a_rendezvous_that_times_out_names_who_was_missing(absent: str) -> None:
    """The question of the person on call: whom are we waiting for? Older spools have no node ids beside the text."""
    first, second = agents = [AgentTape(f"node-{name}") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    first.fail(20)
    first.restart(21, "worker_failure", 1)
    first.lack(60, 1, second, 1)
    first.die(82, "error", "RendezvousTimeoutError")
    [run] = build_runs(add(HistoryState(), [without(delivery, absent) for delivery in first.deliveries]))
    round_ = run.rounds[1]
    assert (run.outcome, round_.round, round_.outcome, round_.world_size) == (Outcome.FAILED, 1, Outcome.FAILED, None)
    assert [(each.host, each.node_id, each.group_rank) for each in round_.missing] == [("node-b", second.node_id, 1)]
    assert round_.missing_count == 1
    assert round_.first_failure is not None
    assert (round_.first_failure.kind, round_.first_failure.error_type) == ("agent_error", "RendezvousTimeoutError")
    assert run.rounds[0].restart is None


def test_a_live_process_runs_and_a_killed_one_was_lost() -> None:
    """The same events, and what is known of the process decides; without it, it is unknown."""
    [agent] = agents = [AgentTape("node-a")]
    agent.start(0)
    agent.bring_up(0, 0, 0, agents)
    agent.beat(30)
    origin = agent.origin.id
    running, killed, unknown = (run_of(agent, alive={origin}), run_of(agent, exited={origin}), run_of(agent))
    assert (running.outcome, running.rounds[0].outcome, running.ended_ns) == (Outcome.RUNNING, Outcome.RUNNING, None)
    assert running.time[State.TRAINING] == 26 * S
    assert (killed.outcome, killed.nodes[0].outcome) == (Outcome.FAILED, Outcome.LOST)
    assert killed.rounds[0].first_failure is not None
    assert killed.rounds[0].first_failure.kind == "node_lost"
    assert unknown.outcome == Outcome.UNKNOWN
    assert any("stop without an end; it may still be running" in sentence for sentence in unknown.unknown)


def test_one_of_two_nodes_alone_cannot_say_that_all_went_well() -> None:
    """The end has no barrier: another node may have failed after this one was done."""
    run = run_of(clean_job(2)[0])
    assert run.outcome == Outcome.UNKNOWN
    assert "how the run ended: some of its nodes are missing; the available ones did not fail" in run.unknown


def test_static_rendezvous_has_rounds_though_torch_tells_of_none() -> None:
    """Static and etcd record no rendezvous events; phases are all there is."""
    run = run_of(*clean_job(2, backend="static"))
    [round_] = run.rounds
    assert (run.outcome, run.backend, round_.outcome, round_.world_size) == (
        Outcome.SUCCEEDED,
        "static",
        Outcome.SUCCEEDED,
        2,
    )
    assert sum(run.time.values()) == run.wall_ns


def test_an_agent_that_is_stopped_in_its_first_rendezvous_has_a_run_without_a_round() -> None:
    """Torch says nothing at all then; we do."""
    [agent] = [AgentTape("node-a", nonce=None)]
    agent.start(0)
    agent.seek(0)
    agent.ours(5, semconv.AGENT_LEAVING, worker_signal="SIGTERM")
    agent.enter(5, Phase.ENDED, agent_outcome="terminated")
    run = run_of(agent)
    assert (run.outcome, run.nodes[0].outcome) == (Outcome.FAILED, Outcome.TERMINATED)
    [round_] = run.rounds
    assert (round_.world_size, round_.outcome, round_.nodes[0].left_reason) == (
        None,
        Outcome.FAILED,
        LeftReason.TERMINATED,
    )


def with_node_id(delivery: Any, node_id: str) -> Any:
    """A delivery under another node id."""
    attributes = {**delivery.event.attributes, semconv.NODE_ID: node_id}
    attributes.pop(semconv.RENDEZVOUS_PARTICIPANTS, None)
    return replace(delivery, event=replace(delivery.event, attributes=attributes))


def later(delivery: Any, sequences: int, seconds: float) -> Any:
    """A delivery of the same process, later."""
    event = delivery.event
    moved = replace(event, time_ns=event.time_ns + round(seconds * S))
    return replace(delivery, sequence=delivery.sequence + sequences, event=moved)


def test_under_static_a_node_may_restart_alone_and_the_others_end_in_their_own_round() -> None:
    """Rank 0 "re-rendezvoused" in 2 ms and its peer noticed nothing: a round is each agent's own count there."""
    first, _ = agents = [AgentTape(f"node-{name}", backend="static") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    first.fail(20)
    first.restart(21, "worker_failure", 1)
    first.bring_up(22, 1, 0, agents)
    for agent in agents:
        agent.succeed(40)
    run = run_of(*agents)
    assert (run.outcome, [len(round_.nodes) for round_ in run.rounds]) == (Outcome.SUCCEEDED, [2, 1])
    assert run.unknown == ()
    assert any("static backend" in sentence for sentence in run.inferred)
