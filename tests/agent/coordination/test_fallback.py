"""What each agent says where nothing is agreed: no store, one that does not answer, and static."""

from __future__ import annotations

import pytest

from tests.support.observed_job import ANSWER_WITHIN_S, Agent, HungStore, Job, SlowConnection, failure, silent
from tests.support.observers import Clock, S, Server, moment, wait_until_all_idle
from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination.job_store import CONNECT_TIMEOUT_NS, JobStore


@pytest.fixture
def server() -> Server:
    """The job's store."""
    return Server()


def test_without_a_store_each_agent_tells_its_own_view_and_says_so() -> None:
    """Torch before 2.4, etcd: nothing is agreed, and nothing is guessed silently."""
    job = Job(2, None)
    job.join(0)
    failed, peer = job.agents
    failed.facts.propose(failure(20, 0))
    failed.facts.on_restart("worker_failure")
    peer.facts.on_restart("membership_change")
    job.join(1)
    job.up(job.agents)
    job.wait_until_idle()
    assert len({agent.attributes_of(semconv.RUN_IDENTIFIED)[0][semconv.RUN_NONCE] for agent in job.agents}) == 2
    told = [agent.attributes_of(semconv.RESTART_CAUSE_AGREED)[0] for agent in job.agents]
    assert [each[semconv.RESTART_REASON] for each in told] == ["worker_failure", "membership_change"]
    assert [each[semconv.RESTART_AGREED] for each in told] == [False, False]
    assert {each[semconv.INFERRED_FROM] for each in told} == {"own_view"}
    assert [len(agent.attributes_of(semconv.ROUND_STARTED)) for agent in job.agents] == [1, 0]
    assert job.agents[0].attributes_of(semconv.ROUND_STARTED)[0][semconv.INFERRED_FROM] == "own_view"
    job.close()


@pytest.mark.torch
def test_under_static_each_agent_counts_for_itself_and_the_run_is_agreed_on(server: Server) -> None:
    """Rank 0 "re-rendezvoused" in 2 ms, and its peer noticed nothing (torch-elastic's static backend)."""
    job = Job(2, server, shared_rounds=False)
    job.join(0)
    one = job.agents[0]
    one.facts.propose(failure(20, 0))
    one.facts.on_restart("worker_failure")
    one.join(1, job.agents)
    job.wait_until_idle()
    (told,) = one.attributes_of(semconv.RESTART_CAUSE_AGREED)
    assert (told[semconv.RESTART_REASON], told[semconv.RESTART_AGREED]) == ("worker_failure", False)
    assert job.agents[1].attributes_of(semconv.RESTART_CAUSE_AGREED) == []
    assert len({agent.attributes_of(semconv.RUN_IDENTIFIED)[0][semconv.RUN_NONCE] for agent in job.agents}) == 1
    job.close()


@pytest.mark.torch
def test_under_static_the_start_is_said_after_the_run_is_known(server: Server) -> None:
    """The store comes with the first rendezvous: whoever reads the log in order must find the run first."""
    clock = Clock()
    agent = Agent(0, clock, shared_rounds=False)
    agent.join(0, [agent])
    agent.facts.on_workers_up(moment(0).wall_ns, moment(0).wall_ns, moment(2).wall_ns)
    wait_until_all_idle([agent.thread], [])
    assert agent.events.facts == []
    agent.store = JobStore(server.client, server.prefix, clock.monotonic_ns)
    agent.facts.set_store(agent.store, hosts_store=True)
    wait_until_all_idle([agent.thread], [agent.store])
    assert [event.name for event in agent.events.facts] == [semconv.RUN_IDENTIFIED, semconv.ROUND_STARTED]
    agent.facts.finish()


def test_a_store_that_does_not_answer_costs_each_fact_its_time_and_none_is_missing() -> None:
    """After three seconds everything is told as this agent's own view, once."""
    hung = HungStore()
    job = Job(0, None)
    for number in range(2):
        agent = Agent(number, job.clock)
        agent.store = JobStore(hung.connect, "p/", job.clock.monotonic_ns)
        agent.facts.set_store(agent.store, hosts_store=number == 0)
        job.agents.append(agent)
    one, peer = job.agents
    for agent in job.agents:
        agent.join(0, job.agents)
        agent.facts.propose(failure(20, 0))
        agent.facts.on_restart("worker_failure")
        agent.join(1, job.agents)
        agent.facts.on_workers_up(moment(30).wall_ns, moment(31).wall_ns, moment(32).wall_ns)
    one.facts.on_silent([silent(peer, 20, 1)])
    for agent in job.agents:
        wait_until_all_idle([agent.thread], [])
        assert agent.events.facts == []
    job.clock.seconds = ANSWER_WITHIN_S + 0.1
    for agent in job.agents:
        wait_until_all_idle([agent.thread], [])
        (told,) = agent.attributes_of(semconv.RUN_IDENTIFIED)
        assert told[semconv.INFERRED_FROM] == "own_view"
        (told,) = agent.attributes_of(semconv.RESTART_CAUSE_AGREED)
        assert (told[semconv.RESTART_AGREED], told[f"{semconv.CAUSE}.host"]) == (False, "host0")
    assert [len(agent.attributes_of(semconv.ROUND_STARTED)) for agent in job.agents] == [1, 0]
    assert [len(agent.attributes_of(semconv.AGENT_LOST)) for agent in job.agents] == [1, 0]
    job.clock.seconds += 10
    hung.open.set()
    for agent in job.agents:
        wait_until_all_idle([agent.thread], [])
        names = [event.name for event in agent.events.facts]
        assert len(names) == len(set(names))
    job.close()


def test_an_agent_that_ends_says_what_it_still_had_to_say() -> None:
    """A job of one second must not lose the root of its bring-up."""
    clock = Clock()
    agent = Agent(0, clock)
    agent.store = JobStore(HungStore().connect, "p/", clock.monotonic_ns)
    agent.facts.set_store(agent.store, hosts_store=True)
    agent.join(0, [agent])
    wait_until_all_idle([agent.thread], [])
    clock.seconds = ANSWER_WITHIN_S + 0.1
    wait_until_all_idle([agent.thread], [])
    agent.facts.on_workers_up(moment(0).wall_ns, moment(0).wall_ns, moment(2).wall_ns)
    agent.facts.finish()
    assert len(agent.events.wait(semconv.ROUND_STARTED)) == 1
    assert agent.store.given_up


def _through(door: SlowConnection) -> tuple[Agent, Clock]:
    """An agent alone in its round, whose workers run, and whose store lets nobody in yet."""
    clock = Clock()
    agent = Agent(0, clock)
    agent.store = JobStore(door.connect, "p/", clock.monotonic_ns)
    agent.facts.set_store(agent.store, hosts_store=True)
    agent.join(0, [agent])
    agent.facts.on_workers_up(moment(0).wall_ns, moment(0).wall_ns, moment(2).wall_ns)
    wait_until_all_idle([agent.thread], [])
    return agent, clock


@pytest.mark.torch
def test_a_connection_that_takes_seconds_is_waited_for_and_what_it_brings_is_agreed(server: Server) -> None:
    """A name server that does not answer costs torch's client five seconds, and must not cost the run its one trace."""
    door = SlowConnection(server.client)
    agent, clock = _through(door)
    for _ in range(90):
        clock.seconds += 0.1
        wait_until_all_idle([agent.thread], [])
    assert agent.events.facts == []
    door.open.set()
    agent.events.wait(semconv.RUN_IDENTIFIED)
    assert agent.attributes_of(semconv.RUN_IDENTIFIED)[0][semconv.INFERRED_FROM] == "store"
    agent.events.wait(semconv.ROUND_STARTED)
    agent.facts.finish()


def test_a_connection_that_never_comes_is_given_up() -> None:
    """A firewall that drops what it does not like must not keep the facts for ever."""
    agent, clock = _through(SlowConnection(lambda: None))
    for _ in range(round(CONNECT_TIMEOUT_NS / S) + 3):
        clock.seconds += 1
        wait_until_all_idle([agent.thread], [])
    assert agent.attributes_of(semconv.RUN_IDENTIFIED)[0][semconv.INFERRED_FROM] == "own_view"
    assert len(agent.attributes_of(semconv.ROUND_STARTED)) == 1
    agent.facts.finish()


def test_an_agent_that_ends_before_it_is_connected_says_its_own_view() -> None:
    """A job of two seconds behind a slow name server still has a trace, of its own."""
    agent, _ = _through(SlowConnection(lambda: None))
    agent.facts.finish()
    agent.events.wait(semconv.ROUND_STARTED)
    assert [event.name for event in agent.events.facts] == [semconv.RUN_IDENTIFIED, semconv.ROUND_STARTED]
    assert agent.attributes_of(semconv.RUN_IDENTIFIED)[0][semconv.INFERRED_FROM] == "own_view"
