"""What one, two and three agents agree on over one real store, who says what of it, and what each says without one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from support.watching import Clock, S, Said, Server, all_done, moment

from torchelastic_otel import semconv
from torchelastic_otel.capture.job_facts import ANSWER_WITHIN_NS, JobFacts, Silent
from torchelastic_otel.capture.job_store import JobStore
from torchelastic_otel.capture.round_start import Joined
from torchelastic_otel.capture.watch_thread import WatchThread
from torchelastic_otel.model.cause import NODE_LEFT, NODE_LOST, WORKER_FAILURE, Cause

ANSWER_WITHIN_S = ANSWER_WITHIN_NS / S


class Agent:
    """One agent's facts, on a watch thread and over a connection of its own."""

    def __init__(self, number: int, clock: Clock, *, shared_rounds: bool = True) -> None:
        self.node = f"host{number}_{100 + number}_0"
        self.said, self.thread = Said(), WatchThread(clock.monotonic_ns)
        self.facts = JobFacts(
            "run", lambda: f"agent {number}", f"host{number}", self.said, self.thread, shared_rounds=shared_rounds
        )
        self.store: JobStore | None = None
        self.round: int | None = None

    def join(self, round_: int, participants: Sequence[Agent]) -> None:
        """Join a round with these agents, in the order of their ranks; all of them are there."""
        before, self.round = self.round, round_
        nodes = tuple(agent.node for agent in participants)
        self.facts.joined(Joined(round_, before, participants.index(self), len(nodes), nodes, self.node))

    def told(self, name: str) -> list[dict[str, Any]]:
        """The attributes of what was said under a name, without the run's."""
        return [{k: v for k, v in f.attributes.items() if k != semconv.RUN_ID} for f in self.said.of(name)]


class Job:
    """Agents around one store; the first one hosts it."""

    def __init__(self, count: int, server: Server | None, *, hosted: bool = True, shared_rounds: bool = True) -> None:
        self.clock, self.server, self.hosted = Clock(), server, hosted
        self.shared_rounds = shared_rounds
        self.agents = [self.come(number) for number in range(count)]

    def come(self, number: int) -> Agent:
        """One more agent, which learns which run it is in."""
        agent = Agent(number, self.clock, shared_rounds=self.shared_rounds)
        if self.server is not None:
            agent.store = JobStore(self.server.client, self.server.prefix, self.clock.monotonic_ns)
        agent.facts.use(agent.store, hosts_store=self.hosted and number == 0)
        return agent

    def join(self, round_: int, agents: Sequence[Agent] | None = None) -> None:
        """These agents join a round together, and what follows from it is said."""
        agents = self.agents if agents is None else agents
        for agent in agents:
            agent.facts.before_join()
        for agent in agents:
            agent.join(round_, agents)
        self.settle(agents)

    def settle(self, agents: Sequence[Agent] | None = None) -> None:
        """Wait until nothing is under way."""
        agents = self.agents if agents is None else agents
        all_done([agent.thread for agent in agents], [agent.store for agent in agents if agent.store is not None])

    def after(self, seconds: float) -> None:
        """Time passes."""
        for _ in range(round(seconds * 10)):
            self.clock.seconds += 0.1
            self.settle()

    def up(self, agents: Sequence[Agent], *, at: float = 10) -> None:
        """The workers of these nodes run, one second after each other."""
        for number, agent in enumerate(agents):
            agent.facts.up(moment(at).wall_ns, moment(at + number).wall_ns, moment(at + 2 + number).wall_ns)

    def close(self) -> None:
        """The agents end."""
        for agent in self.agents:
            agent.facts.finish()


@pytest.fixture
def server() -> Server:
    """The job's store."""
    return Server()


def failure(at: float, rank: int, **more: Any) -> Cause:
    """A worker's failure as a node proposes it."""
    return Cause(WORKER_FAILURE, moment(at).wall_ns, host=f"host{rank}", rank=rank, **more)


@pytest.mark.torch
@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_agents_are_told_the_same_run_once(server: Server, count: int) -> None:
    """Without it, two runs with one id would share their traces."""
    job = Job(count, server)
    job.settle()
    told = [agent.told(semconv.RUN_IDENTIFIED) for agent in job.agents]
    assert [len(each) for each in told] == [1] * count
    assert {each[0][semconv.INFERRED_FROM] for each in told} == {"store"}
    assert len({each[0][semconv.RUN_NONCE] for each in told}) == 1
    assert [each[0][semconv.HOSTS_STORE] for each in told] == [number == 0 for number in range(count)]
    assert {agent.facts.nonce for agent in job.agents} == {told[0][0][semconv.RUN_NONCE]}
    job.after(ANSWER_WITHIN_S + 1)
    assert [len(agent.told(semconv.RUN_IDENTIFIED)) for agent in job.agents] == [1] * count
    job.close()


@pytest.mark.torch
@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_agents_are_told_the_earliest_failure_and_one_speaks_for_all(server: Server, count: int) -> None:
    """A peer sees another node's failure as a membership change: the agreed reason is what is told."""
    job = Job(count, server)
    job.join(0)
    assert [agent.told(semconv.RESTART_CAUSE_AGREED) for agent in job.agents] == [[]] * count
    for number, agent in enumerate(job.agents):
        agent.facts.propose(failure(20 - number, number))
        agent.facts.restarting("worker_failure")
    job.join(1)
    first = count - 1
    for number, agent in enumerate(job.agents):
        assert agent.told(semconv.RESTART_CAUSE_AGREED) == [
            {
                semconv.RENDEZVOUS_ROUND: 1,
                semconv.RESTART_INDEX: 1,
                semconv.RESTART_AGREED: True,
                semconv.WRITER: number == 0,
                semconv.INFERRED_FROM: "store",
                **failure(20 - first, first).attributes(),
            }
        ]
        assert agent.told(semconv.MEMBERSHIP_CHANGED) == []
    job.close()


@pytest.mark.torch
def test_one_node_that_failed_is_the_cause_for_the_others_too(server: Server) -> None:
    """The failing agent waits for the next round, the others only see that somebody waits."""
    job = Job(3, server)
    job.join(0)
    job.agents[2].facts.propose(failure(20, 2, error_type="ValueError"))
    for number, agent in enumerate(job.agents):
        agent.facts.restarting("worker_failure" if number == 2 else "membership_change")
    job.join(1)
    told = [agent.told(semconv.RESTART_CAUSE_AGREED)[0] for agent in job.agents]
    assert {each[semconv.RESTART_REASON] for each in told} == {"worker_failure"}
    assert {each[f"{semconv.CAUSE}.host"] for each in told} == {"host2"}
    # and the next restart has a cause of its own
    job.agents[0].facts.propose(failure(30, 0))
    job.join(2)
    told = [agent.told(semconv.RESTART_CAUSE_AGREED)[1] for agent in job.agents]
    assert {each[f"{semconv.CAUSE}.host"] for each in told} == {"host0"}
    assert {each[semconv.RESTART_INDEX] for each in told} == {2}
    job.close()


@pytest.mark.torch
def test_the_start_of_a_round_is_said_once_when_the_last_node_runs(server: Server) -> None:
    """The root of the bring-up ends with it."""
    job = Job(3, server)
    job.join(0)
    job.up(job.agents[:2])
    job.settle()
    job.after(1)
    assert [agent.told(semconv.ROUND_STARTED) for agent in job.agents] == [[], [], []]
    job.agents[2].facts.up(moment(9).wall_ns, moment(15).wall_ns, moment(16).wall_ns)
    job.settle()
    job.after(1)
    assert [agent.told(semconv.ROUND_STARTED) for agent in job.agents] == [
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
    job.after(5)
    assert len(job.agents[0].told(semconv.ROUND_STARTED)) == 1
    job.close()


@pytest.mark.torch
def test_a_node_that_never_runs_does_not_keep_the_start_from_being_said(server: Server) -> None:
    """After two seconds it is told with what is known, and says so."""
    job = Job(2, server)
    job.join(0)
    job.up(job.agents[:1])
    job.after(2.5)
    (told,) = job.agents[0].told(semconv.ROUND_STARTED)
    assert (told[semconv.INFERRED_FROM], told[semconv.ROUND_DURATION]) == ("own_view", 2.0)
    job.up(job.agents[1:])
    job.after(3)
    assert len(job.agents[0].told(semconv.ROUND_STARTED)) == 1
    job.close()


@pytest.mark.torch
def test_rounds_that_follow_each_other_quickly_are_each_said_once(server: Server) -> None:
    """Workers that fail in their first second: the timers of the rounds before are still running."""
    job = Job(2, server)
    for round_ in range(5):
        job.join(round_)
        job.up(job.agents if round_ % 2 else job.agents[:1])
        job.after(0.5)
    job.after(5)
    rounds = [told[semconv.RENDEZVOUS_ROUND] for told in job.agents[0].told(semconv.ROUND_STARTED)]
    assert rounds == [0, 1, 2, 3, 4]
    assert job.agents[1].told(semconv.ROUND_STARTED) == []
    job.close()


@pytest.mark.torch
def test_where_the_host_of_the_store_takes_no_part_the_first_node_speaks(server: Server) -> None:
    """A store of its own, or a host that stands by: somebody has to say what is the whole job's, and one only."""
    job = Job(3, server, hosted=False)
    job.join(0)
    job.join(1)
    job.up(job.agents)
    job.after(4)
    assert [len(agent.told(semconv.ROUND_STARTED)) for agent in job.agents] == [1, 0, 0]
    told = [agent.told(semconv.RESTART_CAUSE_AGREED) for agent in job.agents]
    assert [[each[semconv.WRITER] for each in of] for of in told] == [[True], [False], [False]]
    job.close()


@pytest.mark.torch
def test_a_change_of_membership_is_said_by_one_agent_only(server: Server) -> None:
    """A counter that three agents raise is wrong by three."""
    job = Job(3, server)
    job.join(0, job.agents[:2])
    assert all(agent.told(semconv.MEMBERSHIP_CHANGED) == [] for agent in job.agents)
    for agent in job.agents[:2]:
        agent.facts.restarting("membership_change")
    job.join(1)
    joined = {
        semconv.RENDEZVOUS_ROUND: 1,
        semconv.MEMBERSHIP_JOINED: (job.agents[2].node,),
        semconv.MEMBERSHIP_LEFT: (),
        semconv.MEMBERSHIP_LOST: (),
    }
    assert [agent.told(semconv.MEMBERSHIP_CHANGED) for agent in job.agents] == [[joined], [], []]
    reasons = [[told[semconv.RESTART_REASON] for told in a.told(semconv.RESTART_CAUSE_AGREED)] for a in job.agents]
    assert reasons == [["membership_change"]] * 3
    job.join(2, [job.agents[1], job.agents[2]])
    job.after(2)
    left = {
        semconv.RENDEZVOUS_ROUND: 2,
        semconv.MEMBERSHIP_JOINED: (),
        semconv.MEMBERSHIP_LEFT: (job.agents[0].node,),
        semconv.MEMBERSHIP_LOST: (),
    }
    assert [agent.told(semconv.MEMBERSHIP_CHANGED) for agent in job.agents] == [[joined], [left], []]
    job.close()


@pytest.mark.torch
def test_who_stood_by_for_a_round_says_nothing_of_the_membership(server: Server) -> None:
    """What it knows of is older, and another one who was there has said it."""
    job = Job(3, server)
    job.join(0)
    job.join(1, job.agents[1:])
    job.after(2)
    job.join(2)
    said = [len(agent.told(semconv.MEMBERSHIP_CHANGED)) for agent in job.agents]
    assert said == [0, 2, 0]
    job.close()


@pytest.mark.torch
def test_a_newcomer_is_told_why_the_job_restarted_and_says_no_change(server: Server) -> None:
    """It was not there; but its log, too, must say in which restart it came."""
    job = Job(1, server)
    job.join(0)
    job.agents[0].facts.propose(failure(20, 0))
    job.agents.append(job.come(1))
    job.join(1)
    assert job.agents[1].told(semconv.RESTART_CAUSE_AGREED)[0][f"{semconv.CAUSE}.host"] == "host0"
    assert job.agents[1].told(semconv.MEMBERSHIP_CHANGED) == []
    job.close()


def silent(agent: Agent, at: float, rank: int | None, *, own_beats_failed: bool = False) -> Silent:
    """An agent whose heartbeats have stopped."""
    return Silent(agent.node, rank, moment(at).wall_ns, own_beats_failed)


@pytest.mark.torch
def test_a_lost_node_is_said_by_every_survivor_and_is_the_cause(server: Server) -> None:
    """Torch says nothing of a node's death; what it did to the others is a consequence."""
    job = Job(3, server)
    job.join(0)
    dead, living = job.agents[2], job.agents[:2]
    living[1].facts.propose(failure(21, 1))
    for agent in living:
        agent.facts.silent([silent(dead, 20, 2)])
    job.settle()
    for agent in living:
        (told,) = agent.told(semconv.AGENT_LOST)
        assert (told[semconv.PEER_NODE_ID], told[semconv.PEER_GROUP_RANK]) == (dead.node, 2)
        assert told[semconv.PEER_LAST_HEARTBEAT] == "2023-11-14T22:13:40.000Z"
        assert semconv.WRITER not in told
    job.join(1, living)
    for agent in living:
        (told,) = agent.told(semconv.RESTART_CAUSE_AGREED)
        assert told[semconv.RESTART_REASON] == NODE_LOST
        assert (told[f"{semconv.CAUSE}.host"], told[f"{semconv.CAUSE}.group.rank"]) == ("host2", 2)
    (change,) = living[0].told(semconv.MEMBERSHIP_CHANGED)
    assert (change[semconv.MEMBERSHIP_LOST], change[semconv.MEMBERSHIP_LEFT]) == ((dead.node,), ())
    job.close()


@pytest.mark.torch
def test_one_survivor_takes_the_place_of_a_speaker_that_is_lost(server: Server) -> None:
    """The running's root is told by who lives."""
    job = Job(3, server, hosted=False)
    job.join(0)
    job.after(3)
    for agent in job.agents[1:]:
        agent.facts.silent([silent(job.agents[0], 20, 0)])
    job.settle()
    heirs = [agent.told(semconv.AGENT_LOST)[0].get(semconv.WRITER) for agent in job.agents[1:]]
    assert sorted(heirs, key=str) == [None, True]
    job.close()


@pytest.mark.torch
def test_a_node_in_its_exit_barrier_is_silent_and_not_lost(server: Server) -> None:
    """Torch's barrier holds the client: heartbeats stop, and the node is well and will exit 0 (trap 12)."""
    job = Job(2, server)
    job.join(0)
    job.agents[1].facts.enter_barrier()
    job.settle()
    job.agents[0].facts.silent([silent(job.agents[1], 20, 1)])
    job.settle()
    assert job.agents[0].told(semconv.AGENT_LOST) == []
    assert [told[semconv.PEER_NODE_ID] for told in job.agents[0].told(semconv.AGENT_SILENT)] == [job.agents[1].node]
    job.after(ANSWER_WITHIN_S + 1)
    assert job.agents[0].told(semconv.AGENT_LOST) == []
    job.close()


@pytest.mark.torch
def test_a_node_that_said_it_leaves_is_not_lost_when_its_heartbeats_stop(server: Server) -> None:
    """A SIGTERMed agent does not take itself out of the rendezvous: its peers see its heartbeats stop."""
    job = Job(2, server)
    job.join(0)
    leaver, stays = job.agents[1], job.agents[0]
    leaver.facts.propose(Cause(NODE_LEFT, moment(20).wall_ns, host="host1", node_id=leaver.node, signal="SIGTERM"))
    job.settle()
    stays.facts.silent([silent(leaver, 18, 1)])
    job.settle()
    job.after(ANSWER_WITHIN_S + 1)
    assert stays.told(semconv.AGENT_LOST) == stays.told(semconv.AGENT_SILENT) == []
    job.join(1, [stays])
    (told,) = stays.told(semconv.RESTART_CAUSE_AGREED)
    assert (told[semconv.RESTART_REASON], told[f"{semconv.CAUSE}.signal"]) == (NODE_LEFT, "SIGTERM")
    (change,) = stays.told(semconv.MEMBERSHIP_CHANGED)
    assert (change[semconv.MEMBERSHIP_LEFT], change[semconv.MEMBERSHIP_LOST]) == ((leaver.node,), ())
    job.close()


@pytest.mark.parametrize("own_beats_failed", [False, True])
def test_without_a_store_an_agent_judges_by_its_own_heartbeats(own_beats_failed: bool) -> None:
    """Who cannot be heard itself must not call all others dead."""
    job = Job(2, None)
    job.join(0)
    agent, peer = job.agents
    agent.facts.silent([silent(peer, 20, 1, own_beats_failed=own_beats_failed)])
    job.settle()
    said = (len(agent.told(semconv.AGENT_LOST)), len(agent.told(semconv.AGENT_SILENT)))
    assert said == ((0, 1) if own_beats_failed else (1, 0))
    job.close()


def test_without_a_store_each_agent_tells_its_own_view_and_says_so() -> None:
    """Torch before 2.4, etcd: nothing is agreed, and nothing is guessed silently."""
    job = Job(2, None)
    job.join(0)
    failed, peer = job.agents
    failed.facts.propose(failure(20, 0))
    failed.facts.restarting("worker_failure")
    peer.facts.restarting("membership_change")
    job.join(1)
    job.up(job.agents)
    job.settle()
    assert len({agent.told(semconv.RUN_IDENTIFIED)[0][semconv.RUN_NONCE] for agent in job.agents}) == 2
    told = [agent.told(semconv.RESTART_CAUSE_AGREED)[0] for agent in job.agents]
    assert [each[semconv.RESTART_REASON] for each in told] == ["worker_failure", "membership_change"]
    assert [each[semconv.RESTART_AGREED] for each in told] == [False, False]
    assert {each[semconv.INFERRED_FROM] for each in told} == {"own_view"}
    assert [len(agent.told(semconv.ROUND_STARTED)) for agent in job.agents] == [1, 0]
    assert job.agents[0].told(semconv.ROUND_STARTED)[0][semconv.INFERRED_FROM] == "own_view"
    job.close()


@pytest.mark.torch
def test_under_static_each_agent_counts_for_itself_and_the_run_is_agreed_on(server: Server) -> None:
    """Rank 0 "re-rendezvoused" in 2 ms, and its peer noticed nothing (torch-elastic's static backend)."""
    job = Job(2, server, shared_rounds=False)
    job.join(0)
    one = job.agents[0]
    one.facts.propose(failure(20, 0))
    one.facts.restarting("worker_failure")
    one.join(1, job.agents)
    job.settle()
    (told,) = one.told(semconv.RESTART_CAUSE_AGREED)
    assert (told[semconv.RESTART_REASON], told[semconv.RESTART_AGREED]) == ("worker_failure", False)
    assert job.agents[1].told(semconv.RESTART_CAUSE_AGREED) == []
    assert len({agent.told(semconv.RUN_IDENTIFIED)[0][semconv.RUN_NONCE] for agent in job.agents}) == 1
    job.close()


@pytest.mark.torch
def test_under_static_the_start_is_said_after_the_run_is_known(server: Server) -> None:
    """The store comes with the first rendezvous: whoever reads the log in order must find the run first."""
    clock = Clock()
    agent = Agent(0, clock, shared_rounds=False)
    agent.join(0, [agent])
    agent.facts.up(moment(0).wall_ns, moment(0).wall_ns, moment(2).wall_ns)
    all_done([agent.thread], [])
    assert agent.said.facts == []
    agent.store = JobStore(server.client, server.prefix, clock.monotonic_ns)
    agent.facts.use(agent.store, hosts_store=True)
    all_done([agent.thread], [agent.store])
    assert [fact.name for fact in agent.said.facts] == [semconv.RUN_IDENTIFIED, semconv.ROUND_STARTED]
    agent.facts.finish()


class Hung:
    """A store that does not answer until it is let, as one whose host is stopped."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def connect(self) -> Any:
        """Stays out."""
        self.open.wait()
        raise RuntimeError("gone")


def test_a_store_that_does_not_answer_costs_each_fact_its_time_and_none_is_missing() -> None:
    """After three seconds everything is told as this agent's own view, once."""
    hung = Hung()
    job = Job(0, None)
    for number in range(2):
        agent = Agent(number, job.clock)
        agent.store = JobStore(hung.connect, "p/", job.clock.monotonic_ns)
        agent.facts.use(agent.store, hosts_store=number == 0)
        job.agents.append(agent)
    one, peer = job.agents
    for agent in job.agents:
        agent.join(0, job.agents)
        agent.facts.propose(failure(20, 0))
        agent.facts.restarting("worker_failure")
        agent.join(1, job.agents)
        agent.facts.up(moment(30).wall_ns, moment(31).wall_ns, moment(32).wall_ns)
    one.facts.silent([silent(peer, 20, 1)])
    for agent in job.agents:
        all_done([agent.thread], [])
        assert agent.said.facts == []
    job.clock.seconds = ANSWER_WITHIN_S + 0.1
    for agent in job.agents:
        all_done([agent.thread], [])
        (told,) = agent.told(semconv.RUN_IDENTIFIED)
        assert told[semconv.INFERRED_FROM] == "own_view"
        (told,) = agent.told(semconv.RESTART_CAUSE_AGREED)
        assert (told[semconv.RESTART_AGREED], told[f"{semconv.CAUSE}.host"]) == (False, "host0")
    assert [len(agent.told(semconv.ROUND_STARTED)) for agent in job.agents] == [1, 0]
    assert [len(agent.told(semconv.AGENT_LOST)) for agent in job.agents] == [1, 0]
    job.clock.seconds += 10
    hung.open.set()
    for agent in job.agents:
        all_done([agent.thread], [])
        names = [fact.name for fact in agent.said.facts]
        assert len(names) == len(set(names))
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
    agent.facts.use(agent.store, hosts_store=False)
    agent.join(0, [agent, peer])
    agent.facts.silent([silent(peer, 20, 1)])
    all_done([agent.thread], [])
    job.clock.seconds = ANSWER_WITHIN_S + 0.1
    all_done([agent.thread], [])
    assert len(agent.told(semconv.AGENT_LOST)) == 1
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
    job.settle()
    for agent in job.agents:
        told = agent.told(semconv.RESTART_CAUSE_AGREED)
        hosts = {each[semconv.RENDEZVOUS_ROUND]: each.get(f"{semconv.CAUSE}.host") for each in told}
        assert hosts == {round_: f"host{round_}" for round_ in hosts}
        assert 19 in hosts
    job.close()


def test_an_agent_that_ends_says_what_it_still_had_to_say() -> None:
    """A job of one second must not lose the root of its bring-up."""
    clock = Clock()
    agent = Agent(0, clock)
    agent.store = JobStore(Hung().connect, "p/", clock.monotonic_ns)
    agent.facts.use(agent.store, hosts_store=True)
    agent.join(0, [agent])
    all_done([agent.thread], [])
    clock.seconds = ANSWER_WITHIN_S + 0.1
    all_done([agent.thread], [])
    agent.facts.up(moment(0).wall_ns, moment(0).wall_ns, moment(2).wall_ns)
    agent.facts.finish()
    assert len(agent.said.wait(semconv.ROUND_STARTED)) == 1
    assert agent.store.given_up
