"""Agents around one store, and what each of them was told; time passes when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.observers import Clock, EventCollector, S, Server, moment, wait_until_all_idle
from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination.coordinator import JobCoordinator
from torchelastic_otel.agent.coordination.fallback import ANSWER_TIMEOUT_NS
from torchelastic_otel.agent.coordination.job_store import JobStore
from torchelastic_otel.agent.coordination.membership import SilentNode
from torchelastic_otel.agent.coordination.round_start import JoinedRound
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.cause import WORKER_FAILURE, Cause

ANSWER_WITHIN_S = ANSWER_TIMEOUT_NS / S


class Agent:
    """One agent's facts, on a watch thread and over a connection of its own."""

    def __init__(self, number: int, clock: Clock, *, shared_rounds: bool = True) -> None:
        self.node = f"host{number}_{100 + number}_0"
        self.events, self.thread = EventCollector(), EventLoopThread(clock.monotonic_ns)
        self.facts = JobCoordinator(
            "run", lambda: f"agent {number}", f"host{number}", self.events, self.thread, shared_rounds=shared_rounds
        )
        self.store: JobStore | None = None
        self.round: int | None = None

    def join(self, round_: int, participants: Sequence[Agent]) -> None:
        """Join a round with these agents, in the order of their ranks; all of them are there."""
        before, self.round = self.round, round_
        nodes = tuple(agent.node for agent in participants)
        self.facts.on_joined(JoinedRound(round_, before, participants.index(self), len(nodes), nodes, self.node))

    def attributes_of(self, name: str) -> list[dict[str, Any]]:
        """The attributes of what was said under a name, without the run's."""
        return [{k: v for k, v in f.attributes.items() if k != semconv.RUN_ID} for f in self.events.of(name)]


class Job:
    """Agents around one store; the first one hosts it."""

    def __init__(self, count: int, server: Server | None, *, hosted: bool = True, shared_rounds: bool = True) -> None:
        self.clock, self.server, self.hosted = Clock(), server, hosted
        self.shared_rounds = shared_rounds
        self.agents = [self.add_agent(number) for number in range(count)]

    def add_agent(self, number: int) -> Agent:
        """One more agent, which learns which run it is in."""
        agent = Agent(number, self.clock, shared_rounds=self.shared_rounds)
        if self.server is not None:
            agent.store = JobStore(self.server.client, self.server.prefix, self.clock.monotonic_ns)
        agent.facts.set_store(agent.store, hosts_store=self.hosted and number == 0)
        return agent

    def join(self, round_: int, agents: Sequence[Agent] | None = None) -> None:
        """These agents join a round together, and what follows from it is said."""
        agents = self.agents if agents is None else agents
        for agent in agents:
            agent.facts.before_join()
        for agent in agents:
            agent.join(round_, agents)
        self.wait_until_idle(agents)

    def wait_until_idle(self, agents: Sequence[Agent] | None = None) -> None:
        """Wait until nothing is under way."""
        agents = self.agents if agents is None else agents
        wait_until_all_idle(
            [agent.thread for agent in agents], [agent.store for agent in agents if agent.store is not None]
        )

    def advance(self, seconds: float) -> None:
        """Time passes."""
        for _ in range(round(seconds * 10)):
            self.clock.seconds += 0.1
            self.wait_until_idle()

    def up(self, agents: Sequence[Agent], *, at: float = 10) -> None:
        """The workers of these nodes run, one second after each other."""
        for number, agent in enumerate(agents):
            agent.facts.on_workers_up(moment(at).wall_ns, moment(at + number).wall_ns, moment(at + 2 + number).wall_ns)

    def close(self) -> None:
        """The agents end."""
        for agent in self.agents:
            agent.facts.finish()


def failure(at: float, rank: int, **more: Any) -> Cause:
    """A worker's failure as a node proposes it."""
    return Cause(WORKER_FAILURE, moment(at).wall_ns, host=f"host{rank}", rank=rank, **more)


def silent(agent: Agent, at: float, rank: int | None, *, own_beats_failed: bool = False) -> SilentNode:
    """An agent whose heartbeats have stopped."""
    return SilentNode(agent.node, rank, moment(at).wall_ns, own_beats_failed)


class HungStore:
    """A store that does not answer until it is let, as one whose host is stopped."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def connect(self) -> HungStore:
        """Answers."""
        return self

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        """Stays out."""
        self.open.wait()
        raise RuntimeError("gone")

    def check(self, keys: Sequence[str]) -> bool:
        """Stays out."""
        self.open.wait()
        raise RuntimeError("gone")


class SlowConnection:
    """A store that answers at once, and lets nobody in until it is let, as where the DNS does not answer."""

    def __init__(self, behind: Callable[[], Any]) -> None:
        self.open = threading.Event()
        self._behind = behind

    def connect(self) -> Any:
        """Takes as long as it takes."""
        self.open.wait()
        return self._behind()
