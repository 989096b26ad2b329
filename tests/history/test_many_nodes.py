"""What is inferred and unknown of a thousand nodes is a few sentences; each names some nodes and counts the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.job_streams import AgentTape
from torchelastic_otel import semconv
from torchelastic_otel.history.reducer import HistoryState, add, build_runs
from torchelastic_otel.history.types import Run
from torchelastic_otel.model.event import AttributeValue, ElasticEvent, Origin, StoredEvent

NODES = 1_000
_Job = Callable[[], tuple[list[StoredEvent], set[str]]]


def events_of(agents: list[AgentTape]) -> list[StoredEvent]:
    """What the agents say."""
    return [delivery for agent in agents for delivery in agent.deliveries]


def training() -> list[AgentTape]:
    """The nodes, once their workers run; who takes part is in no event, as in rounds as large as this."""
    agents = [AgentTape(f"gpu-{number:04}") for number in range(NODES)]
    for rank, agent in enumerate(agents):
        agent.node_id = agent.standing[semconv.NODE_ID] = f"gpu-{rank:04}_77_0"
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
        agent.events = [replace(event, attributes=without_participants(event)) for event in agent.events]
    return agents


def without_participants(event: ElasticEvent) -> dict[str, AttributeValue]:
    """An event's attributes, but for who takes part."""
    return {name: value for name, value in event.attributes.items() if name != semconv.RENDEZVOUS_PARTICIPANTS}


def the_store_is_lost() -> tuple[list[StoredEvent], set[str]]:
    """All but the store's host die of it."""
    agents = training()
    for agent in agents[1:]:
        agent.die(30, "error", "RendezvousConnectionError")
    return events_of(agents), {agents[0].origin.id}


def all_are_killed() -> tuple[list[StoredEvent], set[str]]:
    """As a scheduler does it."""
    agents = training()
    return events_of(agents), {agent.origin.id for agent in agents}


def each_is_recorded_twice() -> tuple[list[StoredEvent], set[str]]:
    """Two captures of each agent."""
    agents = training()
    once = events_of(agents)
    for agent in agents:
        agent.origin = Origin(agent.origin.id + "-again", agent.name, agent.origin.pid, agent.origin.started_ns)
    return once + events_of(agents), set()


def nobody_says_how_it_ended() -> tuple[list[StoredEvent], set[str]]:
    """Each agent has returned, and no event tells of its workers."""
    agents = training()
    for agent in agents:
        agent.say(30, semconv.AGENT_SUCCEEDED)
    return events_of(agents), set()


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (the_store_is_lost, "and 991 more lost the others: they ended with RendezvousConnectionError, which does not"),
        (all_are_killed, "and 992 more are considered lost in round 0 because their events stop without an end"),
        (each_is_recorded_twice, "and 992 more; the one with more events is used"),
        (nobody_says_how_it_ended, "and 992 more ended: no event reports the end of the workers"),
    ],
)
def test_a_thousand_nodes_are_a_few_sentences(job: _Job, sentence: str) -> None:
    """A screen, not a scroll: whoever is woken reads eight names, and how many there are."""
    deliveries, gone = job()
    [run] = build_runs(add(HistoryState(), deliveries), exited=gone)
    sentences = [*run.inferred, *run.unknown]
    assert len(run.nodes) == NODES
    assert sum(sentence in each for each in sentences) == 1
    assert len(sentences) <= 6
    assert max(map(len, sentences)) < 400


def flapping(rounds: int) -> Run:
    """A job of one node in which torch tells of no failure, but of each restart's count."""
    [agent] = agents = [AgentTape("node-a", nonce=None)]
    for number in range(rounds):
        agent.standing[semconv.RESTART_COUNT] = number
        agent.standing |= {semconv.RENDEZVOUS_ROUND: number, semconv.GROUP_RANK: 0, semconv.GROUP_WORLD_SIZE: 1}
        agent.say(number * 30, semconv.RENDEZVOUS_JOIN_ATTEMPTED)
        agent.say(number * 30 + 1, semconv.RENDEZVOUS_JOINED)
        agent.say(number * 30 + 2, semconv.WORKER_STARTED, worker_rank=0, worker_local_rank=0, worker_pid=number + 1)
    [run] = build_runs(add(HistoryState(), events_of(agents)))
    return run


def test_a_hundred_rounds_are_a_few_sentences() -> None:
    """What is unknown of each of them is one sentence."""
    run = flapping(100)
    assert len(run.rounds) == 100
    assert run.unknown[2:] == (
        "which worker failed in rounds 0-98: torch records no event for a failure that leads to a restart",
        "how long detect, stop, start took in the restart after rounds 0-98",
    )
    assert flapping(2).unknown[2].startswith("which worker failed in round 0: ")
