"""Who did it, from the failures of any nodes in any order."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchelastic_otel.model.failure import (
    HANG,
    Evidence,
    Weight,
    decide,
    waited_for_another,
    weight_of,
)


@dataclass(frozen=True)
class Failed:
    """One failure."""

    rank: int | None
    weight: Weight = Weight.OWN
    at_ns: int | None = 0
    error_ns: int | None = 0


failures = st.lists(
    st.builds(
        Failed,
        rank=st.integers(0, 9),
        weight=st.sampled_from(Weight),
        at_ns=st.integers(0, 12),
        error_ns=st.one_of(st.none(), st.integers(0, 4)),
    ),
    max_size=6,
    unique_by=lambda failed: failed.rank,
)


@given(failures, st.randoms())
def test_neither_order_nor_repetition_matters(failed: list[Failed], random: object) -> None:
    """Events of several nodes come in any order."""
    shuffled = list(failed)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(shuffled) == decide(failed)


@given(failures)
def test_the_cause_has_the_lowest_weight(failed: list[Failed]) -> None:
    """Nothing that only waited goes before what failed by itself."""
    decision = decide(failed)
    if all(each.weight == Weight.HANG for each in failed):
        assert decision.causes == ()
    else:
        assert {each.weight for each in decision.causes} == {min(each.weight for each in failed)}
        assert (decision.evidence is not None) == bool(decision.causes)


def test_evidence_names_what_decided() -> None:
    """It is on the record."""
    own, later = Failed(1, at_ns=100), Failed(2, at_ns=200)
    waited, hangs = Failed(0, Weight.WAITED, 10), Failed(3, Weight.HANG, 900)
    assert decide([own]).evidence == Evidence.ONLY_FAILURE
    assert decide([later, own]).causes == (own,)
    assert decide([later, own]).evidence == Evidence.EARLIEST
    assert decide([waited, own, hangs]).causes == (own,)
    assert decide([waited, own, hangs]).evidence == Evidence.OTHERS_WAITED
    assert decide([waited, hangs, Failed(2, Weight.HANG, 950)]).causes == (Failed(2, Weight.HANG, 950), hangs)
    assert decide([waited, hangs]).evidence == Evidence.STACK_AT_STOP
    alone = decide([waited, Failed(5, Weight.WAITED, 8)])
    assert (alone.causes, alone.evidence, alone.ambiguous) == (
        (Failed(5, Weight.WAITED, 8),),
        Evidence.ALL_WAITED,
        True,
    )
    assert decide([hangs]).causes == (), "workers are stopped whenever a node joins"


def test_times_that_overlap_are_ambiguous_among_those_that_failed_by_themselves() -> None:
    """The error bound says by how much a failure may have been earlier than its time."""
    first = Failed(1, at_ns=100)
    assert decide([first, Failed(2, at_ns=150, error_ns=50)]).ambiguous
    assert decide([first, Failed(2, at_ns=150, error_ns=None)]).ambiguous
    assert not decide([first, Failed(2, at_ns=150, error_ns=49)]).ambiguous
    assert not decide([first, Failed(2, Weight.WAITED, 150, 80)]).ambiguous


WAITED = (
    # gloo of torch 2.15 and 2.2, three ranks, one asleep
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv "
    "operation to complete",
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [::1]:24282. "
    "This is typically caused by a remote worker crashing.",
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5842",
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:525] Read error [127.0.0.1]:5842: Connection reset by peer",
    "Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:144] no error",
    "[Rank 0]: Rank 1 failed to pass monitoredBarrier in 3000 ms",
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:525] readv [10.0.0.1]:5842: Connection reset by peer",
    "Broken pipe",
    # NCCL, from the sources of torch 2.2 to 2.15
    "NCCL error in: ProcessGroupNCCL.cpp:1970, remote process exited or there was a network error, NCCL version 2.19.3",
    "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=17, OpType=ALLREDUCE) ran for 600009 "
    "milliseconds before timing out.",
    # the store
    "wait timeout after 300000ms, keys: /torch.rendezvous.x",
    "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
    "Timed out after 11 seconds waiting for clients. 1/2 clients joined.",
)


@pytest.mark.parametrize("text", WAITED)
def test_a_failure_says_that_it_waited(text: str) -> None:
    """Recorded texts of the versions named beside them."""
    assert waited_for_another("RuntimeError", text)
    assert weight_of("exception", "DistBackendError", text) == Weight.WAITED


@pytest.mark.parametrize(
    ("error_type", "text"),
    [
        ("ValueError", "loss is NaN"),
        ("RuntimeError", "CUDA error: an illegal memory access was encountered"),
        ("TimeoutError", "reading the data set timed out"),
        ("OSError", "[Errno 5] Input/output error: '/data/shard-3'"),
        ("ConnectionResetError", "[Errno 104] Connection reset by peer"),
        ("BrokenPipeError", "[Errno 32] Broken pipe"),
        ("ConnectionError", "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))"),
        ("ConnectionClosedError", "the connection was closed by peer"),
        (None, None),
        ("exit", ""),
    ],
)
def test_an_unknown_text_is_no_victim(error_type: str | None, text: str | None) -> None:
    """A wrong victim hides the cause."""
    assert not waited_for_another(error_type, text)
    assert weight_of("exception", error_type, text) == Weight.OWN


def test_the_loss_of_the_rendezvous_is_a_consequence() -> None:
    """Its host is gone, or the others are."""
    assert waited_for_another("torch.distributed.elastic.rendezvous.api.RendezvousConnectionError", "x")
    assert weight_of(HANG, None, None) == Weight.HANG
