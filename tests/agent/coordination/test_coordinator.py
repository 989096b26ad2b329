"""What one, two and three agents agree on over one real store, and who says what of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.observed_job import ANSWER_WITHIN_S, Job, failure
from tests.support.observers import LONGEST_S, Server, moment
from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination import coordinator, job_store


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that wait for the store, as before they join, get what they wait for; 50 ms need not be enough."""
    for module in (coordinator, job_store):
        monkeypatch.setattr(module, "MAX_WAIT_S", LONGEST_S)


@pytest.fixture
def server() -> Server:
    """The job's store."""
    return Server()


@pytest.mark.torch
@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_agents_are_told_the_same_run_once(server: Server, count: int) -> None:
    """Without it, two runs with one id would share their traces."""
    job = Job(count, server)
    job.wait_until_idle()
    told = [agent.attributes_of(semconv.RUN_IDENTIFIED) for agent in job.agents]
    assert [len(each) for each in told] == [1] * count
    assert {each[0][semconv.INFERRED_FROM] for each in told} == {"store"}
    assert len({each[0][semconv.RUN_NONCE] for each in told}) == 1
    assert [each[0][semconv.HOSTS_STORE] for each in told] == [number == 0 for number in range(count)]
    assert {agent.facts.nonce for agent in job.agents} == {told[0][0][semconv.RUN_NONCE]}
    job.advance(ANSWER_WITHIN_S + 1)
    assert [len(agent.attributes_of(semconv.RUN_IDENTIFIED)) for agent in job.agents] == [1] * count
    job.close()


@pytest.mark.torch
@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_agents_are_told_the_earliest_failure_and_one_speaks_for_all(server: Server, count: int) -> None:
    """A peer sees another node's failure as a membership change: the agreed reason is what is told."""
    job = Job(count, server)
    job.join(0)
    assert [agent.attributes_of(semconv.RESTART_CAUSE_AGREED) for agent in job.agents] == [[]] * count
    for number, agent in enumerate(job.agents):
        agent.facts.propose(failure(20 - number, number))
        agent.facts.on_restart("worker_failure")
    job.join(1)
    first = count - 1
    for number, agent in enumerate(job.agents):
        assert agent.attributes_of(semconv.RESTART_CAUSE_AGREED) == [
            {
                semconv.RENDEZVOUS_ROUND: 1,
                semconv.RESTART_INDEX: 1,
                semconv.RESTART_AGREED: True,
                semconv.WRITER: number == 0,
                semconv.INFERRED_FROM: "store",
                **replace(failure(20 - first, first), others_failed=count > 1).attributes(),
            }
        ]
        assert agent.attributes_of(semconv.MEMBERSHIP_CHANGED) == []
    job.close()


@pytest.mark.torch
def test_one_node_that_failed_is_the_cause_for_the_others_too(server: Server) -> None:
    """The failing agent waits for the next round, the others only see that somebody waits."""
    job = Job(3, server)
    job.join(0)
    job.agents[2].facts.propose(failure(20, 2, error_type="ValueError"))
    for number, agent in enumerate(job.agents):
        agent.facts.on_restart("worker_failure" if number == 2 else "membership_change")
    job.join(1)
    told = [agent.attributes_of(semconv.RESTART_CAUSE_AGREED)[0] for agent in job.agents]
    assert {each[semconv.RESTART_REASON] for each in told} == {"worker_failure"}
    assert {each[f"{semconv.CAUSE}.host"] for each in told} == {"host2"}
    # and the next restart has a cause of its own
    job.agents[0].facts.propose(failure(30, 0))
    job.join(2)
    told = [agent.attributes_of(semconv.RESTART_CAUSE_AGREED)[1] for agent in job.agents]
    assert {each[f"{semconv.CAUSE}.host"] for each in told} == {"host0"}
    assert {each[semconv.RESTART_INDEX] for each in told} == {2}
    job.close()


@pytest.mark.torch
def test_the_start_of_a_round_is_said_once_when_the_last_node_runs(server: Server) -> None:
    """The root of the bring-up ends with it."""
    job = Job(3, server)
    job.join(0)
    job.up(job.agents[:2])
    job.wait_until_idle()
    job.advance(1)
    assert [agent.attributes_of(semconv.ROUND_STARTED) for agent in job.agents] == [[], [], []]
    job.agents[2].facts.on_workers_up(moment(9).wall_ns, moment(15).wall_ns, moment(16).wall_ns)
    job.wait_until_idle()
    job.advance(1)
    assert [agent.attributes_of(semconv.ROUND_STARTED) for agent in job.agents] == [
        [
            {
                semconv.RENDEZVOUS_ROUND: 0,
                semconv.GROUP_WORLD_SIZE: 3,
                semconv.ROUND_BEGAN: moment(9).wall_ns,
                semconv.ROUND_DURATION: 7.0,
                semconv.RENDEZVOUS_LAST_JOINER: job.agents[2].node,
                semconv.WRITER: True,
                semconv.INFERRED_FROM: "store",
            }
        ],
        [],
        [],
    ]
    job.advance(5)
    assert len(job.agents[0].attributes_of(semconv.ROUND_STARTED)) == 1
    job.close()


@pytest.mark.torch
def test_a_node_that_never_runs_does_not_keep_the_start_from_being_said(server: Server) -> None:
    """After two seconds it is told with what is known, and says so."""
    job = Job(2, server)
    job.join(0)
    job.up(job.agents[:1])
    job.advance(2.5)
    (told,) = job.agents[0].attributes_of(semconv.ROUND_STARTED)
    assert (told[semconv.INFERRED_FROM], told[semconv.ROUND_DURATION]) == ("own_view", 2.0)
    job.up(job.agents[1:])
    job.advance(3)
    assert len(job.agents[0].attributes_of(semconv.ROUND_STARTED)) == 1
    job.close()


@pytest.mark.torch
def test_rounds_that_follow_each_other_quickly_are_each_said_once(server: Server) -> None:
    """Workers that fail in their first second: the timers of the rounds before are still running."""
    job = Job(2, server)
    for round_ in range(5):
        job.join(round_)
        job.up(job.agents if round_ % 2 else job.agents[:1])
        job.advance(0.5)
    job.advance(5)
    rounds = [told[semconv.RENDEZVOUS_ROUND] for told in job.agents[0].attributes_of(semconv.ROUND_STARTED)]
    assert rounds == [0, 1, 2, 3, 4]
    assert job.agents[1].attributes_of(semconv.ROUND_STARTED) == []
    job.close()


@pytest.mark.torch
def test_where_the_host_of_the_store_takes_no_part_the_first_node_speaks(server: Server) -> None:
    """A store of its own, or a host that stands by: somebody has to say what is the whole job's, and one only."""
    job = Job(3, server, hosted=False)
    job.join(0)
    job.join(1)
    job.up(job.agents)
    job.advance(4)
    assert [len(agent.attributes_of(semconv.ROUND_STARTED)) for agent in job.agents] == [1, 0, 0]
    told = [agent.attributes_of(semconv.RESTART_CAUSE_AGREED) for agent in job.agents]
    assert [[each[semconv.WRITER] for each in of] for of in told] == [[True], [False], [False]]
    job.close()


@pytest.mark.torch
def test_a_change_of_membership_is_said_by_one_agent_only(server: Server) -> None:
    """A counter that three agents raise is wrong by three."""
    job = Job(3, server)
    job.join(0, job.agents[:2])
    assert all(agent.attributes_of(semconv.MEMBERSHIP_CHANGED) == [] for agent in job.agents)
    for agent in job.agents[:2]:
        agent.facts.on_restart("membership_change")
    job.join(1)
    joined = {
        semconv.RENDEZVOUS_ROUND: 1,
        semconv.MEMBERSHIP_JOINED: (job.agents[2].node,),
        semconv.MEMBERSHIP_LEFT: (),
        semconv.MEMBERSHIP_LOST: (),
    }
    assert [agent.attributes_of(semconv.MEMBERSHIP_CHANGED) for agent in job.agents] == [[joined], [], []]
    reasons = [
        [told[semconv.RESTART_REASON] for told in a.attributes_of(semconv.RESTART_CAUSE_AGREED)] for a in job.agents
    ]
    assert reasons == [["membership_change"]] * 3
    job.join(2, [job.agents[1], job.agents[2]])
    job.advance(2)
    left = {
        semconv.RENDEZVOUS_ROUND: 2,
        semconv.MEMBERSHIP_JOINED: (),
        semconv.MEMBERSHIP_LEFT: (job.agents[0].node,),
        semconv.MEMBERSHIP_LOST: (),
    }
    assert [agent.attributes_of(semconv.MEMBERSHIP_CHANGED) for agent in job.agents] == [[joined], [left], []]
    job.close()


@pytest.mark.torch
def test_who_stood_by_for_a_round_says_nothing_of_the_membership(server: Server) -> None:
    """What it knows of is older, and another one who was there has said it."""
    job = Job(3, server)
    job.join(0)
    job.join(1, job.agents[1:])
    job.advance(2)
    job.join(2)
    said = [len(agent.attributes_of(semconv.MEMBERSHIP_CHANGED)) for agent in job.agents]
    assert said == [0, 2, 0]
    job.close()


@pytest.mark.torch
def test_a_newcomer_is_told_why_the_job_restarted_and_says_no_change(server: Server) -> None:
    """It was not there; but its log, too, must say in which restart it came."""
    job = Job(1, server)
    job.join(0)
    job.agents[0].facts.propose(failure(20, 0))
    job.agents.append(job.add_agent(1))
    job.join(1)
    assert job.agents[1].attributes_of(semconv.RESTART_CAUSE_AGREED)[0][f"{semconv.CAUSE}.host"] == "host0"
    assert job.agents[1].attributes_of(semconv.MEMBERSHIP_CHANGED) == []
    job.close()


@pytest.mark.torch
def test_what_is_proposed_is_there_before_the_agent_joins(server: Server) -> None:
    """The rendezvous is the barrier: who joined reads what all others proposed before they joined."""
    job = Job(2, server)
    job.join(0)
    for number in range(1, 20):
        job.agents[number % 2].facts.propose(failure(20 + number, number))
        # nobody waits for anything here but the agents themselves, before they join
        for agent in job.agents:
            agent.facts.before_join()
        for agent in job.agents:
            agent.join(number, job.agents)
    job.wait_until_idle()
    for agent in job.agents:
        told = agent.attributes_of(semconv.RESTART_CAUSE_AGREED)
        hosts = {each[semconv.RENDEZVOUS_ROUND]: each.get(f"{semconv.CAUSE}.host") for each in told}
        assert hosts == {round_: f"host{round_}" for round_ in hosts}
        assert 19 in hosts
    job.close()
