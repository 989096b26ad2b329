"""An agent's numbers, folded over its events."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.agent_streams import AgentStream
from torchelastic_otel import semconv
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.processing.metrics import MetricState
from torchelastic_otel.processing.metrics.state import MAX_RUNS
from torchelastic_otel.torch_events.catalogue import EVENT_NAMES


def a_life() -> AgentStream:
    """A round, a failure, a restart in which this agent speaks, a third round that is held up."""
    stream = AgentStream()
    stream.say(0, semconv.AGENT_STARTED)
    stream.bring_up(0, 0, writer=True)
    stream.say(5, semconv.RENDEZVOUS_KEEP_ALIVE_SENT)
    stream.fail(10, rank=0)
    stream.enter(10, Phase.DETECT)
    stream.enter(11, Phase.STOP)
    stream.bring_up(12, 1, writer=True)
    took = {semconv.RESTART_PHASE_DURATION.format(phase="stop"): 1.0}
    stream.say(17, semconv.RESTART_COMPLETED, (0, 100), took, writer=True, restart_reason="worker_failure")
    stream.fail(20, rank=1)
    stream.enter(20, Phase.RENDEZVOUS)
    return stream


def test_a_tally_survives_the_spool_unchanged() -> None:
    """What a dead process counted is read by another one; it must be the same to the last number."""
    stream = a_life()
    stream.snapshot(21)
    assert stream.tally.runs[-1].failures.undecided
    assert stream.tally.runs[-1].histograms
    again = MetricState.from_json(stream.tally.to_json())
    assert again == stream.tally
    assert again.to_json() == stream.tally.to_json()
    assert stream.tally.to_json().isascii()


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"start_ns": 1, "runs": [{}], "shown": []}', "null"])
def test_what_is_no_tally_is_a_value_error(line: str) -> None:
    """A spool of another version is adopted with a fresh tally, not with a crash."""
    with pytest.raises(ValueError, match=r"no MetricState|Expecting value"):
        MetricState.from_json(line)


def test_a_tally_grows_with_the_metrics_and_not_with_the_job() -> None:
    """A job of ten thousand nodes that restarts a thousand times must leave the same few kilobytes behind."""
    stream = a_life()
    sizes = []
    for round_ in range(2, 1002):
        at = round_ * 100
        stream.world_size = 10_000
        stream.fail(at, rank=round_)
        stream.bring_up(at + 1, round_, writer=True)
        nodes = tuple(f"node{n}_1_0" for n in range(round_))
        stream.say(at + 6, semconv.MEMBERSHIP_CHANGED, membership_lost=nodes, membership_joined=nodes)
        stream.say(at + 7, semconv.RESTART_COMPLETED, writer=True, restart_reason="node_lost")
        sizes.append(len(stream.tally.to_json()))
    assert max(sizes) < 6_000
    assert sizes[-1] - sizes[100] < 200


def test_every_event_name_of_ours_is_counted_by_its_name() -> None:
    """A new event must not hide among the unknown ones."""
    source = Path(semconv.__file__).read_text()
    sections = re.findall(r"# --- events.*?(?=# ---|\Z)", source, re.DOTALL)
    names = {
        getattr(semconv, constant)
        for section in sections
        for constant in re.findall(r"^([A-Z]\w+): Final", section, re.MULTILINE)
    }
    assert {name for name in names if isinstance(name, str)} == set(EVENT_NAMES)


def test_an_event_of_a_newer_version_is_counted_as_unknown() -> None:
    """Names never come from data."""
    stream = AgentStream()
    stream.say(0, semconv.AGENT_STARTED)
    stream.snapshot(0)
    stream.say(1, "torchelastic.of.tomorrow")
    assert stream.snapshot(2)[semconv.METRIC_EVENTS][(semconv.UNKNOWN_EVENT,)] == 1


def test_what_came_before_the_run_was_known_belongs_to_it() -> None:
    """The first events of an agent do not say the run; they are no run of their own."""
    stream = AgentStream(run_id=None)
    stream.say(0, semconv.RENDEZVOUS_MESSAGE)
    stream.run_id = "run"
    stream.say(1, semconv.AGENT_STARTED)
    assert [run.id for run in stream.tally.runs] == ["run"]
    assert sum(stream.tally.runs[0].counts.values()) == 2


def test_another_run_in_the_same_process_has_numbers_of_its_own() -> None:
    """A notebook launches one job after another; the first one's last numbers must not be lost with it."""
    stream = a_life()
    stream.snapshot(25)
    stream.run_id, stream.round = "other", None
    stream.say(30, semconv.AGENT_STARTED)
    stream.enter(30, Phase.RENDEZVOUS)
    first, second = stream.tally.runs
    assert (first.id, second.id) == ("run", "other")
    assert first.durations.phase is None
    assert sum(first.durations.agent.values()) == 30 * 10**9
    assert not first.failures.undecided
    assert sum(second.counts.values()) == 2


def test_runs_of_one_process_are_bounded_and_a_user_cannot_make_one() -> None:
    """What a user records may name any run; and a process may launch jobs for ever."""
    stream = AgentStream()
    for number in range(20):
        stream.run_id = f"run {number}"
        stream.say(number, semconv.AGENT_STARTED)
        stream.run_id = f"a user's {number}"
        stream.say(number, semconv.UNKNOWN_EVENT)
    assert [run.id for run in stream.tally.runs] == [f"run {number}" for number in range(20 - MAX_RUNS, 20)]


def test_events_without_what_is_needed_teach_nothing() -> None:
    """A fold that raises would stop every metric of the job."""
    stream = AgentStream(run_id=None)
    for name in (*EVENT_NAMES, "?"):
        stream.say(1, name)
        stream.say(
            1, name, phase="of tomorrow", restart_duration="x", membership_joined=3, writer=True, worker_rank="a"
        )
    stream.snapshot(2)


def test_a_rendezvous_is_measured_by_how_it_ended() -> None:
    """A rendezvous that nobody completed is a failed one; one that a signal ended is neither."""
    stream = AgentStream()
    stream.bring_up(0, 0, writer=None)
    stream.snapshot(5)
    stream.enter(10, Phase.RENDEZVOUS)
    stream.enter(40, Phase.STOP)
    stream.enter(41, Phase.ENDED, agent_outcome="error")
    told = stream.snapshot(50)[semconv.METRIC_RENDEZVOUS_DURATION]
    assert [(told[(o,)].sum, sum(told[(o,)].buckets)) for o in ("succeeded", "failed")] == [(2.0, 1), (30.0, 1)]
    stream.enter(60, Phase.RENDEZVOUS)
    stream.enter(70, Phase.ENDED, agent_outcome="terminated")
    assert stream.snapshot(80)[semconv.METRIC_RENDEZVOUS_DURATION] == told


def test_a_restart_counts_by_its_agreed_reason_with_the_duration_of_each_phase() -> None:
    """Where the time of a restart goes is what one looks for first."""
    stream = AgentStream()
    stream.bring_up(0, 0, writer=True)
    stream.snapshot(5)
    phases = {f"torchelastic.restart.{phase}.duration": 1.5 for phase in ("detect", "stop", "rendezvous")}
    stream.say(6, semconv.RESTART_COMPLETED, writer=True, restart_reason="node_lost", extra=phases)
    stream.say(7, semconv.RESTART_COMPLETED, writer=True, restart_reason="of tomorrow")
    stream.say(8, semconv.RESTART_COMPLETED, restart_reason="node_lost")
    told = stream.snapshot(9)
    assert {reason: n for (reason,), n in told[semconv.METRIC_RESTARTS].items() if n} == {"node_lost": 1, "unknown": 1}
    durations = {phase: d.sum for (phase,), d in told[semconv.METRIC_RESTART_DURATION].items()}
    assert durations == {"detect": 1.5, "stop": 1.5, "rendezvous": 1.5, "assign_ranks": 0, "start": 0}


def test_membership_is_counted_by_the_one_agent_that_tells_it() -> None:
    """It need not be the one that speaks for the round; it alone tells it, so that a sum is right."""
    stream = AgentStream()
    stream.bring_up(0, 1, writer=None)
    stream.say(5, semconv.MEMBERSHIP_CHANGED, membership_joined=("a", "b"), membership_left=(), membership_lost=("c",))
    stream.snapshot(6)
    told = stream.snapshot(7)[semconv.METRIC_MEMBERSHIP_CHANGES]
    assert told == {("joined",): 2, ("left",): 0, ("lost",): 1}


def test_heartbeats_are_counted_and_their_age_is_told_while_they_are_due() -> None:
    """An agent whose beats stop is the next one to be dropped; one that has ended sends none, and is well."""
    stream = AgentStream()
    stream.bring_up(0, 0, writer=None)
    assert semconv.METRIC_KEEP_ALIVE_AGE not in stream.snapshot(5)
    stream.say(6, semconv.RENDEZVOUS_KEEP_ALIVE_SENT)
    stream.say(7, semconv.RENDEZVOUS_KEEP_ALIVE_FAILED)
    stream.say(7, semconv.RENDEZVOUS_STATE_STALE)
    told = stream.snapshot(9)
    assert told[semconv.METRIC_KEEP_ALIVE_AGE] == {(): 3.0}
    for metric in (semconv.METRIC_KEEP_ALIVE_SENT, semconv.METRIC_KEEP_ALIVE_FAILED, semconv.METRIC_STATE_STALE):
        assert told[metric] == {(): 1}
    stream.say(10, semconv.RENDEZVOUS_STATE_SYNCED, rendezvous_committed=(semconv.RENDEZVOUS_KEEP_ALIVE_UPDATED,))
    assert stream.snapshot(11)[semconv.METRIC_KEEP_ALIVE_AGE] == {(): 1.0}
    stream.enter(12, Phase.ENDED)
    assert semconv.METRIC_KEEP_ALIVE_AGE not in stream.snapshot(13)
