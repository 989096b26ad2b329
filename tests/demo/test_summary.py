"""The demonstration's verdict, as a function of what arrived."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchelastic_otel.demo.job import FailureFile
from torchelastic_otel.demo.received import Received
from torchelastic_otel.demo.render import render_spools, render_summary
from torchelastic_otel.demo.spools import SpoolReport
from torchelastic_otel.demo.summary import describe, summarise

NODES = ("node-a", "node-b")


def wrote(*sequences: int, origin: str = "aa", node: str = "node-a", pending: int = 0, lost: int = 0) -> SpoolReport:
    """The spool of an agent that wrote these events."""
    return SpoolReport(origin, node, sequences, pending, lost)


SPOOLS = [wrote(1, 2, 3), wrote(1, 2, origin="bb", node="node-b")]


def arrived(
    sequence: int,
    origin: str = "aa",
    node: str = "node-a",
    name: str = "torchelastic.rendezvous.joined",
    **attributes: Any,
) -> Received:
    """A record that arrived; ``__`` in an attribute name stands for a dot."""
    return Received(
        uid=f"{origin}-{sequence}",
        event_name=name,
        time_ns=1_000 + sequence,
        severity=9,
        body="a body",
        attributes={key.replace("__", "."): value for key, value in attributes.items()},
        resource={"host.name": node},
        protocol="grpc" if node == "node-a" else "http/protobuf",
    )


def both_nodes() -> list[Received]:
    """Three events of one node and two of the other."""
    return [
        *(arrived(sequence) for sequence in (1, 2, 3)),
        *(arrived(sequence, "bb", "node-b", "torchelastic.worker.started") for sequence in (1, 2)),
    ]


def test_a_complete_job_is_told_by_node_and_rank() -> None:
    """The summary a person reads at the end: held as data."""
    records = [
        arrived(1, torchelastic__rendezvous__round=0),
        arrived(2, name="torchelastic.worker.started", torchelastic__worker__rank=0, torchelastic__restart__count=0),
        arrived(3, name="torchelastic.worker.started", torchelastic__worker__rank=1, torchelastic__restart__count=1),
        arrived(4, name="torchelastic.worker.started", torchelastic__worker__rank=1, torchelastic__rendezvous__round=1),
    ]
    summary = summarise(records, [wrote(1, 2, 3, 4)], ["node-a"])
    [agent] = summary.agents
    assert summary.complete
    assert agent.counts == {
        "agent": Counter({"torchelastic.rendezvous.joined": 1}),
        "rank 0": Counter({"torchelastic.worker.started": 1}),
        "rank 1": Counter({"torchelastic.worker.started": 2}),
    }
    assert (agent.node, agent.protocols, agent.arrived, agent.written) == ("node-a", ("grpc",), 4, 4)
    assert (agent.rounds, agent.restarts) == ((0, 1), 1)
    assert "Nothing is missing: 4 events of 1 agents" in render_summary(summary, [])


def test_the_order_of_arrival_does_not_matter() -> None:
    """Two exporters race; the verdict must not."""
    records = both_nodes()
    expected = summarise(records, SPOOLS, NODES)
    assert expected.complete
    for seed in range(10):
        random.Random(seed).shuffle(records)
        assert summarise(records, SPOOLS, NODES) == expected


def test_what_the_spool_holds_and_did_not_arrive_is_named() -> None:
    """The one thing the demonstration must not hide; numbers of spans and heartbeats are nobody's gap."""
    spool = wrote(1, 2, 3, 4, 6, 9)
    summary = summarise([arrived(sequence) for sequence in (2, 6)], [spool], ["node-a"])
    assert not summary.complete
    assert summary.agents[0].missing == (1, 3, 4, 9)
    assert "node-a: 1, 3 to 4, 9, of 6 events" in render_summary(summary, [])
    assert summarise([arrived(sequence) for sequence in (1, 2, 3, 4, 6, 9)], [spool], ["node-a"]).complete


def test_without_its_spool_nobody_knows_what_an_agent_wrote() -> None:
    """Whatever arrived proves nothing about what did not."""
    summary = summarise([arrived(1), arrived(2)], [], ["node-a"])
    assert not summary.complete
    assert "node-a: its spool cannot be read" in render_summary(summary, [])


def test_a_node_from_which_nothing_came_is_named() -> None:
    """No event at all leaves no gap: the nodes that ran are the measure."""
    summary = summarise([arrived(1)], [wrote(1)], NODES)
    assert not summary.complete
    assert summary.silent_nodes == ("node-b",)
    assert "nothing arrived from node-b" in render_summary(summary, [])


def test_a_duplicate_counts_once_and_is_told() -> None:
    """At least once is the promise; the uid is what makes it bearable."""
    summary = summarise([*both_nodes(), arrived(2)], SPOOLS, NODES)
    assert summary.complete
    assert summary.duplicates == 1
    assert [agent.arrived for agent in summary.agents] == [3, 2]
    assert "Duplicates     1" in render_summary(summary, [])


@pytest.mark.parametrize("uid", ["", "aa", "aa-0", "aa-x"])
def test_a_record_without_a_usable_uid_leaves_no_verdict(uid: str) -> None:
    """Without numbers nobody can say that nothing is missing."""
    record = Received(uid, "e", 1, 9, "b", {}, {"host.name": "node-a"}, "grpc")
    summary = summarise([arrived(1), record], [wrote(1)], ["node-a"])
    assert not summary.complete
    assert summary.without_uid == 1


@given(st.sets(st.integers(1, 60)))
def test_numbers_are_told_as_ranges_and_none_is_left_out(numbers: set[int]) -> None:
    """A person compares them with the spool."""
    told = [tuple(map(int, each.split(" to "))) for each in describe(sorted(numbers)).split(", ") if each]
    assert [number for each in told for number in range(each[0], each[-1] + 1)] == sorted(numbers)


def test_the_first_failure_is_told_with_rank_exit_code_and_exception() -> None:
    """The first of them is the cause more often than not; later ones are victims."""
    failed = "torchelastic.worker.failed"
    later = arrived(3, name=failed, torchelastic__worker__rank=0)
    first = arrived(
        2,
        name=failed,
        torchelastic__worker__rank=1,
        process__exit__code=1,
        exception__type="RuntimeError",
        exception__message="told\nto fail",
    )
    summary = summarise([later, arrived(1), first], [], ["node-a"])
    assert "First failure  node-a, rank 1, exit code 1: RuntimeError: told to fail\n" in render_summary(summary, [])


def test_a_failure_torch_is_silent_about_comes_from_the_error_file() -> None:
    """A failure that leads to a restart has no event in torch; the summary says where it knows it from."""
    text = render_summary(summarise([arrived(1)], [], ["node-a"]), [FailureFile("node-a", 1, "RuntimeError: x")])
    assert "node-a, local rank 1: RuntimeError: x (from the worker's error file" in text


def test_a_real_collector_is_judged_by_the_spools() -> None:
    """Nobody can ask a collector what it has: what it accepted is what counts."""
    nodes = {"node-a": "grpc", "node-b": "grpc"}
    accepted = [wrote(1, 2, 3, 5, 7), wrote(1, 2, 3, 4, origin="bb", node="node-b")]
    text, complete = render_spools(accepted, nodes, "http://c:4317")
    assert complete
    assert "node-a         5 of 5 events by grpc, 0 pending" in text
    for bad in (
        [wrote(1, 2, 3, 5, 7, pending=1), accepted[1]],
        [wrote(1, 2, 3, 5, 7, lost=1), accepted[1]],
        [wrote(), accepted[1]],
        accepted[:1],
    ):
        assert not render_spools(bad, nodes, "http://c:4317")[1]
