"""The history is a function of the set of events: shuffled, repeated or cut, it is the same, or less is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.job_streams import AgentTape, clean_job, failing_job
from tests.support.recordings import SCENARIOS, scenario
from torchelastic_otel import semconv
from torchelastic_otel.history.reducer import HistoryState, add, build_runs
from torchelastic_otel.history.types import Outcome, Run, State
from torchelastic_otel.model.event import StoredEvent


def lost_node() -> list[AgentTape]:
    """A node is killed; the other one's worker fails since it is gone, and goes on alone."""
    first, second = agents = [AgentTape(f"node-{name}") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    first.fail(16)
    first.lose(21, second, "2026-11-22T12:53:35.000Z", 1)
    first.restart(17, "worker_failure", 1)
    first.bring_up(22, 1, 0, [first])
    first.succeed(40)
    return agents


def exhausted() -> list[AgentTape]:
    """The second node's worker fails for good."""
    agents = [AgentTape(f"node-{name}") for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    agents[1].fail(20)
    agents[1].give_up(22, 0)
    agents[0].die(23, "error", "RendezvousClosedError")
    return agents


def of(agents: list[AgentTape]) -> list[StoredEvent]:
    """All their events."""
    return [delivery for agent in agents for delivery in agent.deliveries]


JOBS: dict[str, Callable[[], list[StoredEvent]]] = {
    "clean": lambda: of(clean_job(3)),
    "failing": lambda: of(failing_job()),
    "not agreed": lambda: of(failing_job(agreed=False)),
    "lost node": lambda: of(lost_node()),
    "exhausted": lambda: of(exhausted()),
}
STREAMS = {name: make() for name, make in JOBS.items()} | {name: scenario(name) for name in SCENARIOS}


def runs_of(deliveries: list[StoredEvent]) -> tuple[Run, ...]:
    """The runs."""
    return build_runs(add(HistoryState(), deliveries))


@pytest.mark.parametrize("job", STREAMS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_shuffled_repeated_and_in_pieces_it_is_the_same_story(job: str, data: st.DataObject) -> None:
    """Files are read in any order, a Collector sends twice, and late events come at last."""
    stream = STREAMS[job]
    shuffled = data.draw(st.permutations(stream))
    again = data.draw(st.lists(st.sampled_from(stream), max_size=20))
    cut = data.draw(st.integers(0, len(stream)))
    state = add(add(add(HistoryState(), shuffled[:cut]), again), shuffled[cut:])
    assert build_runs(state) == runs_of(stream)


@pytest.mark.parametrize("job", STREAMS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_with_events_missing_it_is_never_another_outcome(job: str, data: st.DataObject) -> None:
    """Missing events may make a history shorter, and unknown; they may not turn a success into a failure, nor back."""
    stream = STREAMS[job]
    some = data.draw(st.sets(st.integers(0, len(stream) - 1)))
    few = data.draw(st.booleans())
    kept = [delivery for number, delivery in enumerate(stream) if (number in some) == few]
    truth = {run.run_id: run.outcome for run in runs_of(stream)}
    for run in runs_of(kept):
        # of a node that failed, and nothing else, nobody can know that the others did without it
        if any(round_.world_size is not None for round_ in run.rounds):
            assert run.outcome in (truth[run.run_id], Outcome.UNKNOWN), (run, run.unknown)
        if run.outcome == Outcome.UNKNOWN:
            assert run.unknown, "what is unknown is listed"
        holds_together(run)


def test_the_wall_time_reaches_to_the_last_heartbeat_that_a_peer_reports() -> None:
    """The peer is in no round here: the lost node's training ends with that heartbeat, after its last event."""
    kept = {("node-a", semconv.AGENT_STARTED), ("node-a", semconv.AGENT_LOST), ("node-b", semconv.RENDEZVOUS_JOINED)}
    stream = [each for each in STREAMS["lost node"] if (each.origin.id[:6], each.event.name) in kept]
    [run] = runs_of(stream)
    assert (run.time[State.TRAINING], run.wall_ns) == (13 * 10**9, 15 * 10**9)


@pytest.mark.parametrize("job", STREAMS)
def test_every_beginning_of_a_story_holds_together(job: str) -> None:
    """A live job is looked at whenever somebody looks."""
    stream = sorted(STREAMS[job], key=lambda delivery: delivery.event.time_ns or 0)
    alive = {delivery.origin.id for delivery in stream}
    for cut in range(0, len(stream), max(1, len(stream) // 60)):
        for run in build_runs(add(HistoryState(), stream[:cut]), alive=alive):
            holds_together(run)


@pytest.mark.parametrize("job", JOBS)
def test_without_heartbeats_it_is_the_same_story(job: str) -> None:
    """Log records carry none, unless asked for; only the count of them differs."""
    beats = semconv.HEARTBEATS
    [whole] = runs_of(STREAMS[job])
    [run] = runs_of([delivery for delivery in STREAMS[job] if delivery.event.name not in beats])
    quiet = tuple(replace(member, heartbeats=0, last_ns=0) for member in whole.nodes)
    assert run.rounds == whole.rounds
    assert tuple(replace(member, last_ns=0) for member in run.nodes) == quiet
    assert (run.time, run.unknown, run.inferred) == (whole.time, whole.unknown, whole.inferred)


def holds_together(run: Run) -> None:
    """What no events whatever may break."""
    assert all(took >= 0 for took in run.time.values())
    assert sum(run.time.values()) <= (run.wall_ns or 0)
    assert run.training_ratio is None or 0 <= run.training_ratio <= 1
    numbers = [round_.round for round_ in run.rounds]
    assert numbers == sorted(set(numbers))
    for round_ in run.rounds:
        names = [node.node_id for node in round_.nodes if node.node_id is not None]
        assert len(names) == len(set(names))
        assert round_.first_failure not in round_.victims
        for node in round_.nodes:
            assert all(stretch.duration_ns is None or stretch.duration_ns >= 0 for stretch in node.phases)
