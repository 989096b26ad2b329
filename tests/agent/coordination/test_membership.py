"""Nodes that are lost, silent, done or gone: who says so, and what it is the cause of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.observed_job import ANSWER_WITHIN_S, Agent, Job, failure, silent
from tests.support.observers import Server, moment, wait_until_all_idle
from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination.job_store import JobStore
from torchelastic_otel.model.cause import NODE_LEFT, NODE_LOST, Cause


@pytest.fixture
def server() -> Server:
    """The job's store."""
    return Server()


@pytest.mark.torch
def test_a_lost_node_is_said_by_every_survivor_and_is_the_cause(server: Server) -> None:
    """Torch says nothing of a node's death; what it did to the others is a consequence."""
    job = Job(3, server)
    job.join(0)
    dead, living = job.agents[2], job.agents[:2]
    living[1].facts.propose(failure(21, 1))
    for agent in living:
        agent.facts.on_silent([silent(dead, 20, 2)])
    job.wait_until_idle()
    for agent in living:
        (told,) = agent.attributes_of(semconv.AGENT_LOST)
        assert (told[semconv.PEER_NODE_ID], told[semconv.PEER_GROUP_RANK]) == (dead.node, 2)
        assert told[semconv.PEER_LAST_HEARTBEAT] == "2023-11-14T22:13:40.000Z"
        assert semconv.WRITER not in told
    job.join(1, living)
    for agent in living:
        (told,) = agent.attributes_of(semconv.RESTART_CAUSE_AGREED)
        assert told[semconv.RESTART_REASON] == NODE_LOST
        assert (told[f"{semconv.CAUSE}.host"], told[f"{semconv.CAUSE}.group.rank"]) == ("host2", 2)
    (change,) = living[0].attributes_of(semconv.MEMBERSHIP_CHANGED)
    assert (change[semconv.MEMBERSHIP_LOST], change[semconv.MEMBERSHIP_LEFT]) == ((dead.node,), ())
    job.close()


@pytest.mark.torch
def test_one_survivor_takes_the_place_of_a_speaker_that_is_lost(server: Server) -> None:
    """The running's root is told by who lives."""
    job = Job(3, server, hosted=False)
    job.join(0)
    job.advance(3)
    for agent in job.agents[1:]:
        agent.facts.on_silent([silent(job.agents[0], 20, 0)])
    job.wait_until_idle()
    heirs = [agent.attributes_of(semconv.AGENT_LOST)[0].get(semconv.WRITER) for agent in job.agents[1:]]
    assert sorted(heirs, key=str) == [None, True]
    job.close()


@pytest.mark.torch
def test_a_node_in_its_exit_barrier_is_silent_and_not_lost(server: Server) -> None:
    """Torch's barrier holds the client: heartbeats stop, and the node is well and will exit 0 (trap 12)."""
    job = Job(2, server)
    job.join(0)
    job.agents[1].facts.on_exit_barrier()
    job.wait_until_idle()
    job.agents[0].facts.on_silent([silent(job.agents[1], 20, 1)])
    job.wait_until_idle()
    assert job.agents[0].attributes_of(semconv.AGENT_LOST) == []
    assert [told[semconv.PEER_NODE_ID] for told in job.agents[0].attributes_of(semconv.AGENT_SILENT)] == [
        job.agents[1].node
    ]
    job.advance(ANSWER_WITHIN_S + 1)
    assert job.agents[0].attributes_of(semconv.AGENT_LOST) == []
    job.close()


@pytest.mark.torch
def test_a_node_that_said_it_leaves_is_not_lost_when_its_heartbeats_stop(server: Server) -> None:
    """A SIGTERMed agent does not take itself out of the rendezvous: its peers see its heartbeats stop."""
    job = Job(2, server)
    job.join(0)
    leaver, stays = job.agents[1], job.agents[0]
    leaver.facts.propose(Cause(NODE_LEFT, moment(20).wall_ns, host="host1", node_id=leaver.node, signal="SIGTERM"))
    job.wait_until_idle()
    stays.facts.on_silent([silent(leaver, 18, 1)])
    job.wait_until_idle()
    job.advance(ANSWER_WITHIN_S + 1)
    assert stays.attributes_of(semconv.AGENT_LOST) == stays.attributes_of(semconv.AGENT_SILENT) == []
    job.join(1, [stays])
    (told,) = stays.attributes_of(semconv.RESTART_CAUSE_AGREED)
    assert (told[semconv.RESTART_REASON], told[f"{semconv.CAUSE}.signal"]) == (NODE_LEFT, "SIGTERM")
    (change,) = stays.attributes_of(semconv.MEMBERSHIP_CHANGED)
    assert (change[semconv.MEMBERSHIP_LEFT], change[semconv.MEMBERSHIP_LOST]) == ((leaver.node,), ())
    job.close()


@pytest.mark.parametrize("own_beats_failed", [False, True])
def test_without_a_store_an_agent_judges_by_its_own_heartbeats(own_beats_failed: bool) -> None:
    """Who cannot be heard itself must not call all others dead."""
    job = Job(2, None)
    job.join(0)
    agent, peer = job.agents
    agent.facts.on_silent([silent(peer, 20, 1, own_beats_failed=own_beats_failed)])
    job.wait_until_idle()
    said = (len(agent.attributes_of(semconv.AGENT_LOST)), len(agent.attributes_of(semconv.AGENT_SILENT)))
    assert said == ((0, 1) if own_beats_failed else (1, 0))
    job.close()


def test_a_store_that_breaks_while_a_node_is_judged_does_not_swallow_the_loss() -> None:
    """The host of the store may be the one that died."""
    job = Job(0, None)
    agent, peer = Agent(0, job.clock), Agent(1, job.clock)
    job.agents.append(agent)

    class Breaking:
        calls = 0

        def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
            return desired_value.encode()

        def check(self, keys: Sequence[str]) -> bool:
            if any("left" in key for key in keys):
                raise RuntimeError("Broken pipe")
            return False

    agent.store = JobStore(Breaking, "p/", job.clock.monotonic_ns)
    agent.facts.set_store(agent.store, hosts_store=False)
    agent.join(0, [agent, peer])
    agent.facts.on_silent([silent(peer, 20, 1)])
    wait_until_all_idle([agent.thread], [])
    job.clock.seconds = ANSWER_WITHIN_S + 0.1
    wait_until_all_idle([agent.thread], [])
    assert len(agent.attributes_of(semconv.AGENT_LOST)) == 1
    job.close()
