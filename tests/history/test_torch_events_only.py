"""The history of real streams of torch's own events: what they contain, and a list of what they do not reveal."""

from __future__ import annotations

import json

import pytest

from tests.support.recordings import DIRECTORY, SCENARIOS, scenario
from torchelastic_otel.history.reducer import HistoryState, add, build_runs
from torchelastic_otel.history.types import LeftReason, Outcome, Run
from torchelastic_otel.model.event import Origin, StoredEvent
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.processing.enrichment import AgentContext, enrich
from torchelastic_otel.torch_events.parser import parse


def run_of(name: str) -> Run:
    """The run of a recorded scenario."""
    [run] = build_runs(add(HistoryState(), scenario(name)))
    return run


@pytest.mark.parametrize(
    ("name", "outcome", "restarts", "nodes", "rounds"),
    [
        ("agent-sigkill", Outcome.SUCCEEDED, 1, 2, [Outcome.FAILED, Outcome.SUCCEEDED]),
        ("clean-1node", Outcome.SUCCEEDED, 0, 1, [Outcome.SUCCEEDED]),
        ("clean-2node", Outcome.SUCCEEDED, 0, 2, [Outcome.SUCCEEDED]),
        ("max-restarts-exhausted", Outcome.FAILED, 1, 1, [Outcome.FAILED, Outcome.FAILED]),
        ("node-joins-scaleup-noshare", Outcome.SUCCEEDED, 1, 2, [Outcome.INTERRUPTED, Outcome.SUCCEEDED]),
        ("redundancy", Outcome.SUCCEEDED, 0, 3, [Outcome.SUCCEEDED]),
        ("rendezvous-timeout", Outcome.FAILED, 0, 1, [Outcome.FAILED]),
        ("store-unreachable", Outcome.FAILED, 0, 1, []),
        ("torch1.13.1-clean-2node", Outcome.SUCCEEDED, 0, 2, [Outcome.SUCCEEDED]),
        ("worker-exception-restart", Outcome.SUCCEEDED, 1, 1, [Outcome.FAILED, Outcome.SUCCEEDED]),
        ("worker-sigkill-restart", Outcome.SUCCEEDED, 1, 1, [Outcome.FAILED, Outcome.SUCCEEDED]),
    ],
)
def test_every_recorded_scenario_ends_as_it_did(
    name: str, outcome: Outcome, restarts: int, nodes: int, rounds: list[Outcome]
) -> None:
    """AGENT SUCCEEDED is no outcome: exhausted restarts say it, too (torch 2.13)."""
    run = run_of(name)
    assert (run.outcome, run.restarts, len(run.nodes)) == (outcome, restarts, nodes)
    assert [round_.outcome for round_ in run.rounds] == rounds
    assert sum(run.time.values()) <= (run.wall_ns or 0)


def test_every_scenario_has_its_line_above() -> None:
    """A recording that is added must be looked at."""
    assert len(SCENARIOS) == 11


def test_a_restart_that_torch_tells_nothing_of_is_known_by_the_count_and_its_worker_is_unknown() -> None:
    """A worker's failure that leads to a restart has no event in torch (1.13 to 2.15)."""
    run = run_of("worker-exception-restart")
    first = run.rounds[0]
    assert first.first_failure is None
    assert first.nodes[0].left_reason == LeftReason.WORKER_FAILURE
    assert first.restart is not None
    assert (first.restart.reason, first.restart.agreed, first.restart.index) == ("worker_failure", False, 1)
    assert first.restart.phases == {
        "detect": None,
        "stop": None,
        "rendezvous": 18_414_800,
        "assign_ranks": 908_700,
        "start": 3_636_500,
    }
    assert run.unknown == (
        "which worker failed in round 0: torch records no event for a failure that leads to a restart",
        "how long detect, stop took in the restart after round 0",
    )
    assert any("inferred from torch's own events" in sentence for sentence in run.inferred)


def test_the_last_rounds_failure_is_told_with_its_traceback_and_who_was_stopped_is_its_victim() -> None:
    """Torch says FAILED of both, one with SIGTERM: that is the agent's doing."""
    run = run_of("max-restarts-exhausted")
    failure = run.rounds[1].first_failure
    assert failure is not None
    assert (failure.rank, failure.local_rank, failure.pid, failure.exit_code) == (0, 0, 23324, 1)
    assert (failure.error_type, failure.message, failure.inferred_from) == ("ValueError", "boom from worker", "torch")
    assert failure.error_ns is None, "torch tells it at the end of the job, not when it happened"
    assert not failure.ambiguous
    assert "ValueError: boom from worker" in (failure.traceback or "")
    assert [(victim.rank, victim.signal) for victim in run.rounds[1].victims] == [(1, "SIGTERM")]


def test_a_node_whose_stream_stops_while_the_others_go_on_was_lost_and_that_is_inferred() -> None:
    """Torch says nothing of a node's death by default."""
    run = run_of("agent-sigkill")
    first = run.rounds[0]
    assert [node.left_reason for node in first.nodes] == [LeftReason.WORKER_FAILURE, LeftReason.LOST]
    assert first.restart is not None
    assert first.restart.reason == "node_lost"
    assert first.first_failure is not None
    assert (first.first_failure.kind, first.first_failure.node_id) == ("node_lost", "localhost_24677_0")
    assert "localhost_24677_0 is considered lost in round 0 because its events stop without an end" in run.inferred


def test_a_spare_that_is_left_over_does_not_fail_the_run() -> None:
    """It ends with RendezvousConnectionError when the job is done: its status is 1, and nobody is to be woken."""
    run = run_of("redundancy")
    spare = next(member for member in run.nodes if member.standby_ns is not None)
    assert (spare.rounds, spare.promoted_round, spare.outcome) == ((), None, Outcome.FAILED)
    assert spare.error_type == "RendezvousConnectionError"
    assert run.outcome == Outcome.SUCCEEDED
    assert [round_.round for round_ in run.rounds] == [0], "what it waited for is no round"


def test_a_node_that_joined_is_told_with_when_it_began_to_wait() -> None:
    """A scale-up is no failure: the round was interrupted."""
    run = run_of("node-joins-scaleup-noshare")
    assert run.rounds[1].joined == ("localhost_25165_0",)
    assert run.rounds[0].restart is not None
    assert run.rounds[0].restart.reason == "membership_change"
    joined = next(member for member in run.nodes if member.node_id == "localhost_25165_0")
    assert joined.wait_listed_ns is not None
    assert run.rounds[1].last_joiner == "localhost_25161_0", "it came back while the other one had been waiting"
    assert run.rounds[1].started_ns == run.rounds[1].nodes[0].joined_ns == run.rounds[1].nodes[1].joined_ns


def test_torch_1_13_tells_of_no_phases_between_the_rendezvous_and_the_end() -> None:
    """There were no agent events but the last ones; what is in between counts as running."""
    run = run_of("torch1.13.1-clean-2node")
    assert [[stretch.phase for stretch in node.phases] for node in run.rounds[0].nodes] == [
        [Phase.RENDEZVOUS, Phase.RUNNING, Phase.ENDED]
    ] * 2


def test_streams_without_times_give_a_story_without_times() -> None:
    """Torch's raw JSON has no times: order is all there is, and the history lists this."""
    origin, standing, deliveries = Origin("raw", "node-a", 1, 0), AgentContext(restart_count=0), []
    for delivery in scenario("max-restarts-exhausted"):
        standing, event = enrich(standing, parse(json.dumps(raw_of(delivery)), "null", time_ns=None, observed_ns=0))
        deliveries.append(StoredEvent(delivery.sequence, event, origin))
    [run] = build_runs(add(HistoryState(), deliveries))
    assert (run.outcome, run.restarts, run.started_ns, run.training_ratio) == (Outcome.FAILED, 1, None, None)
    assert run.rounds[1].first_failure is not None
    assert run.rounds[1].first_failure.message == "boom from worker"
    assert any(sentence.startswith("times:") for sentence in run.unknown)


def raw_of(delivery: StoredEvent) -> object:
    """What torch had recorded."""
    lines = (DIRECTORY / "max-restarts-exhausted-A.jsonl").read_text().splitlines()
    return json.loads(lines[delivery.sequence - 1])["event"]


def test_two_recordings_of_one_agent_are_one_agent() -> None:
    """Somebody gives a node's spool and what its torchrun wrote to stderr."""
    stream = scenario("clean-1node")
    other = Origin("another-recording", "localhost", 22990, 0)
    again = [StoredEvent(delivery.sequence, delivery.event, other) for delivery in stream[:-3]]
    [run] = build_runs(add(HistoryState(), [*stream, *again]))
    assert (len(run.nodes), run.outcome) == (1, Outcome.SUCCEEDED)
    assert any("there are two recordings of" in sentence for sentence in run.unknown)


def test_one_nodes_recording_says_which_nodes_are_missing() -> None:
    """Torch names no other nodes: their number is known, and their ranks."""
    deliveries = [
        d
        for d in scenario("clean-2node")
        if d.event.attributes.get("torchelastic.node.id") != "localhost_22996_0" and d.origin.pid == 22997
    ]
    [run] = build_runs(add(HistoryState(), deliveries))
    assert run.outcome == Outcome.UNKNOWN
    assert "round 0 had 2 nodes; there are no events of node 0" in run.unknown
