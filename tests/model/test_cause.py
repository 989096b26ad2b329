"""Which of several proposals holds, whatever the order in which agents make them."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchelastic_otel import semconv
from torchelastic_otel.model.cause import (
    MAX_CULPRITS,
    NODE_LEFT,
    NODE_LOST,
    REASONS,
    WORKER_FAILURE,
    Cause,
    add_culprits,
    earlier,
    with_culprits,
)
from torchelastic_otel.model.failure import HANG, Evidence

texts = st.one_of(st.none(), st.text(max_size=8))
numbers = st.one_of(st.none(), st.integers(-9, 9))
causes = st.builds(
    Cause,
    kind=st.sampled_from(REASONS),
    time_ns=st.integers(0, 12),
    error_ns=st.integers(0, 4),
    host=texts,
    node_id=texts,
    group_rank=numbers,
    rank=numbers,
    pid=numbers,
    message=texts,
    ambiguous=st.booleans(),
    waited=st.booleans(),
)


@given(causes, causes)
def test_it_does_not_matter_who_is_asked_first(one: Cause, other: Cause) -> None:
    """Agents come in any order and must agree."""
    assert earlier(one, other) == earlier(other, one)


@given(st.lists(causes, min_size=1, max_size=4))
def test_the_same_one_holds_in_every_order_and_however_often_it_is_proposed(proposed: list[Cause]) -> None:
    """Retries and races of compare-and-set are orders of proposals; only the doubt may depend on them."""
    held = {
        replace(functools.reduce(earlier, [*order, *order]), ambiguous=False)
        for order in itertools.permutations(proposed)
    }
    assert len(held) == 1
    (winner,) = held
    assert (winner.weight, winner.time_ns) == min((cause.weight, cause.time_ns) for cause in proposed)


@given(causes, causes)
def test_who_proposes_again_what_is_held_changes_nothing(one: Cause, other: Cause) -> None:
    """A proposal ends when the store holds what it would: that has to happen, and must not take a doubt away."""
    held = earlier(one, other)
    for each in (one, other, replace(held, ambiguous=False)):
        assert earlier(held, each) == earlier(each, held) == held


@pytest.mark.parametrize(
    ("late", "ambiguous"),
    [
        (Cause(WORKER_FAILURE, 150, rank=1), False),
        (Cause(WORKER_FAILURE, 150, error_ns=49, rank=1), False),
        (Cause(WORKER_FAILURE, 150, error_ns=50, rank=1), True),
        (Cause(WORKER_FAILURE, 100, rank=1), True),
        (Cause(NODE_LEFT, 150, error_ns=50), False),
    ],
)
def test_a_doubt_is_told_where_the_other_one_may_have_been_earlier(late: Cause, ambiguous: bool) -> None:
    """The error bound says by how much a failure may have been earlier than its time."""
    held = earlier(Cause(WORKER_FAILURE, 100, rank=0), late)
    others = late.kind == WORKER_FAILURE
    assert held == Cause(WORKER_FAILURE, 100, rank=0, ambiguous=ambiguous, others_failed=others)


def test_a_node_whose_last_heartbeat_is_before_the_failure_makes_it_a_node_loss() -> None:
    """The failure was what the loss did to others, and there is no doubt in that."""
    lost, failed = Cause(NODE_LOST, 100, node_id="a_1_0"), Cause(WORKER_FAILURE, 101, error_ns=50)
    assert earlier(failed, lost) == replace(lost, others_failed=True)


@given(causes)
def test_causes_survive_the_store(cause: Cause) -> None:
    """What another node reads is what was meant, in ASCII."""
    line = cause.to_json()
    assert line.isascii()
    assert Cause.from_json(line) == cause


@pytest.mark.parametrize("line", ["", "null", "[]", "5", "{}", '{"kind": "x"}'])
def test_what_is_no_cause_is_said_to_be_none(line: str) -> None:
    """Somebody else's key under our name must not become a cause."""
    with pytest.raises(ValueError):
        Cause.from_json(line)


def test_attributes_leave_out_what_is_not_known() -> None:
    """Only what is known of a cause is told of it."""
    told = Cause(NODE_LOST, 5, host="h", group_rank=0).attributes()
    assert told == {
        "torchelastic.cause.host": "h",
        "torchelastic.cause.group.rank": 0,
        "torchelastic.cause.time": 5,
        "torchelastic.cause.time_error": 0.0,
        semconv.RESTART_REASON: "node_lost",
        semconv.FAILURE_AMBIGUOUS: False,
    }


TIMED_OUT = "Timed out waiting 4000ms for recv operation to complete"


def test_who_waited_for_another_is_no_cause_where_something_failed_by_itself() -> None:
    """The rank that timed out is often the first to end."""
    waited = Cause(WORKER_FAILURE, 100, rank=0, message=TIMED_OUT, error_type="RuntimeError")
    failed = Cause(WORKER_FAILURE, 500, rank=1, message="loss is NaN", error_type="ValueError")
    cause = earlier(waited, failed)
    assert (cause.rank, cause.ambiguous, cause.evidence) == (1, False, Evidence.OTHERS_WAITED)
    lost = Cause(NODE_LOST, 700, node_id="a_1_0")
    assert earlier(waited, lost).kind == NODE_LOST


def test_of_a_hang_all_culprits_are_named_if_all_that_failed_waited() -> None:
    """They have not failed: their stacks at the stop show where each was."""
    waited = Cause(WORKER_FAILURE, 100, rank=0, waited=True)
    where = {"function": "load_batch", "file": "/job/hang.py", "line": 7}
    culprits = [Cause(WORKER_FAILURE, 900, host="h", rank=r, failure_kind=HANG, **where) for r in (3, 1)]  # type: ignore[arg-type]
    stored = add_culprits(add_culprits((), culprits[:1]), culprits[1:])
    cause = with_culprits(waited, stored)
    assert cause is not None
    assert (cause.rank, cause.failure_kind, cause.evidence) == (1, HANG, Evidence.STACK_AT_STOP)
    assert cause.culprits == ("rank 1 on h in load_batch (hang.py:7)", "rank 3 on h in load_batch (hang.py:7)")
    failed = Cause(WORKER_FAILURE, 950, rank=2)
    assert with_culprits(failed, stored) == failed
    assert with_culprits(None, stored) is None, "workers are outside a collective whenever a node joins"
    assert with_culprits(waited, ()) == waited
    assert waited.evidence == Evidence.ALL_WAITED


@given(st.lists(causes, max_size=30), st.randoms())
def test_culprits_are_the_same_in_every_order(proposed: list[Cause], random: Random) -> None:
    """Each node adds its own, and repeats it."""
    shuffled = [*proposed, *proposed]
    random.shuffle(shuffled)
    stored: tuple[Cause, ...] = ()
    for cause in shuffled:
        stored = add_culprits(stored, [cause])
    assert stored == add_culprits((), proposed)
    assert len(stored) <= MAX_CULPRITS
