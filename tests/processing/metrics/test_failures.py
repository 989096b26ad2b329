"""A worker's failure counts once, as cause or victim by what the agents agreed on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.agent_streams import AgentStream
from torchelastic_otel import semconv
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.processing.metrics.failures import MAX_REMEMBERED


def running() -> AgentStream:
    """An agent whose workers run, and whose series have begun."""
    stream = AgentStream()
    stream.bring_up(0, 0, writer=None)
    stream.snapshot(5)
    return stream


def failures(stream: AgentStream) -> dict[tuple[str, ...], int]:
    """Failures by kind and role, where there are any."""
    return {kind: n for kind, n in stream.snapshot(100)[semconv.METRIC_FAILURES].items() if n}


def test_a_failure_waits_for_its_role_until_the_cause_is_agreed_on() -> None:
    """This agent's first failure may be another node's victim: counted before that is known, it could not be moved."""
    stream = running()
    stream.fail(10, rank=0, failure_kind="exception")
    stream.fail(10.1, rank=1, role="victim", failure_kind="signal")
    assert failures(stream) == {}
    stream.bring_up(12, 1, writer=None)
    stream.say(15, semconv.RESTART_CAUSE_AGREED, cause=(7, 507), restart_agreed=True, restart_reason="worker_failure")
    assert failures(stream) == {("exception", "victim"): 1, ("signal", "victim"): 1}


def test_the_agreed_cause_is_this_agents_worker() -> None:
    """The one that it was counts as cause, also where this agent saw another one first."""
    stream = running()
    stream.fail(10, rank=0)
    stream.fail(10.1, rank=1, role="victim")
    stream.bring_up(12, 1, writer=None)
    stream.say(15, semconv.RESTART_CAUSE_AGREED, cause=(1, 101), restart_agreed=True, restart_reason="worker_failure")
    assert failures(stream) == {("exit", "victim"): 1, ("exit", "cause"): 1}


@pytest.mark.parametrize(
    ("agreed", "reason", "role"),
    [(False, "worker_failure", "cause"), (True, "node_lost", "victim"), (True, "membership_change", "cause")],
)
def test_without_an_agreed_worker_the_own_view_holds_but_for_a_lost_node(agreed: bool, reason: str, role: str) -> None:
    """A node's death makes victims of all; where nobody agreed, what this agent saw is all there is."""
    stream = running()
    stream.fail(10, rank=0)
    stream.bring_up(12, 1, writer=None)
    stream.say(15, semconv.RESTART_CAUSE_AGREED, restart_agreed=agreed, restart_reason=reason)
    assert failures(stream) == {("exit", role): 1}


def test_a_failure_of_the_new_round_is_not_judged_by_the_old_rounds_cause() -> None:
    """The store may answer late, when the next failure is there already."""
    stream = running()
    stream.fail(10, rank=0)
    stream.bring_up(12, 1, writer=None)
    stream.fail(17, rank=1)
    stream.say(18, semconv.RESTART_CAUSE_AGREED, cause=(0, 100), restart_agreed=True, restart_reason="worker_failure")
    assert failures(stream) == {("exit", "cause"): 1}


def test_torchs_own_word_at_the_end_repeats_ours_and_counts_nothing() -> None:
    """Torch says failures at the end of a job, again, and those that it stopped itself with exit code -15 (2.13)."""
    stream = running()
    stream.fail(10, rank=0)
    stream.enter(11, Phase.STOP)
    for rank, signal in ((0, None), (1, "SIGTERM")):
        told: dict[str, Any] = {} if signal is None else {"worker_signal": signal}
        stream.say(12, semconv.WORKER_FAILED, worker_rank=rank, worker_pid=100 + rank, **told)
    stream.enter(13, Phase.ENDED, agent_outcome="failed")
    stream.say(14, semconv.WORKER_FAILED, worker_rank=0, worker_pid=100)
    assert failures(stream) == {("exit", "cause"): 1}


def test_where_only_torch_speaks_its_word_counts() -> None:
    """A hook that does not fit this torch must not make failures vanish from the metrics."""
    stream = AgentStream()
    stream.say(0, semconv.RENDEZVOUS_JOINED)
    stream.snapshot(1)
    stream.say(2, semconv.WORKER_FAILED, worker_rank=3, worker_pid=9, exception_type="ValueError")
    stream.say(2, semconv.WORKER_FAILED, worker_rank=4, worker_pid=10, worker_signal="SIGSEGV")
    stream.say(2, semconv.WORKER_FAILED, worker_rank=5, worker_pid=11, worker_signal="SIGTERM")
    assert failures(stream) == {("exception", "cause"): 1, ("signal", "victim"): 1}


def test_the_end_decides_by_this_agents_own_view() -> None:
    """The last round has no barrier after which something could be agreed on."""
    stream = running()
    stream.fail(10, rank=0)
    stream.fail(10, rank=1, role="victim", failure_kind="uninterruptible_sleep")
    stream.enter(13, Phase.ENDED, agent_outcome="failed")
    assert failures(stream) == {("exit", "cause"): 1, ("uninterruptible_sleep", "victim"): 1}


def test_a_dead_agents_failures_are_counted_when_its_spool_is_delivered() -> None:
    """An agent that is killed while it waits for the next round would take the failure with it."""
    stream = running()
    stream.fail(10, rank=0)
    assert stream.snapshot(20, final=True)[semconv.METRIC_FAILURES]["exit", "cause"] == 1


def test_what_is_remembered_is_bounded() -> None:
    """A round with endless failures must not make the tally endless; each still counts."""
    stream = running()
    for rank in range(MAX_REMEMBERED + 50):
        stream.fail(10, rank=rank)
    failed = stream.tally.runs[-1].failures
    assert len(failed.seen) == MAX_REMEMBERED
    assert len(failed.undecided) <= MAX_REMEMBERED
    stream.enter(11, Phase.ENDED)
    assert failures(stream) == {("exit", "cause"): MAX_REMEMBERED + 50}


def test_a_new_round_forgets_the_old_ones_failures() -> None:
    """A job that restarts for months must not remember every worker it ever had."""
    stream = running()
    for round_ in range(1, 20):
        stream.fail(round_ * 10, rank=0)
        stream.bring_up(round_ * 10 + 1, round_, writer=None)
        stream.say(round_ * 10 + 5, semconv.RESTART_CAUSE_AGREED, restart_agreed=False)
    assert len(stream.tally.runs[-1].failures.seen) == 1
    assert failures(stream) == {("exit", "cause"): 19}
