"""The demonstration's comparison of what was stored with what arrived, and the history that it shows."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.job_streams import failing_job
from tests.support.orphaned_spools import Spools
from torchelastic_otel.cli.demo import describe_history
from torchelastic_otel.demo.delivery import (
    StoredEvents,
    compare,
    describe,
    describe_accepted,
    read_stored_events,
    spools_of,
)
from torchelastic_otel.processing.processor import ORIGIN_KEY
from torchelastic_otel.spool import adoption
from torchelastic_otel.testing.received import ReceivedRecord

NODES = ("node-a", "node-b")


def wrote(*sequences: int, origin: str = "aa", node: str = "node-a", pending: int = 0, lost: int = 0) -> StoredEvents:
    """The spool of an agent that stored these events."""
    return StoredEvents(origin, node, sequences, pending, lost)


SPOOLS = [wrote(1, 2, 3), wrote(1, 2, origin="bb", node="node-b")]


def arrived(sequence: int, origin: str = "aa", node: str = "node-a") -> ReceivedRecord:
    """A record that arrived."""
    return ReceivedRecord(
        uid=f"{origin}-{sequence}",
        event_name="torchelastic.rendezvous.joined",
        time_ns=1_000 + sequence,
        severity=9,
        body="a body",
        attributes={},
        resource={"host.name": node},
        protocol="grpc" if node == "node-a" else "http/protobuf",
    )


def both_nodes() -> list[ReceivedRecord]:
    """Three events of one node and two of the other."""
    return [
        *(arrived(sequence) for sequence in (1, 2, 3)),
        *(arrived(sequence, "bb", "node-b") for sequence in (1, 2)),
    ]


def text(*arguments: Any) -> str:
    """The comparison as a person reads it."""
    return "\n".join(describe(compare(*arguments)))


def test_a_complete_job_is_shown_by_node() -> None:
    """The end of the demo: each node, by which protocol, and that nothing is missing."""
    delivery = compare(both_nodes(), SPOOLS, NODES)
    assert delivery.is_complete
    assert [(n.node, n.protocols, n.arrived, n.stored, n.missing) for n in delivery.nodes] == [
        ("node-a", ("grpc",), 3, 3, ()),
        ("node-b", ("http/protobuf",), 2, 2, ()),
    ]
    assert describe(delivery) == [
        "node-a: 3 of 3 events by grpc",
        "node-b: 2 of 2 events by http/protobuf",
        "Nothing is missing: 5 events of 2 agents, all that their spools have.",
    ]


def test_the_order_of_arrival_does_not_matter() -> None:
    """Two exporters race; the conclusion must not."""
    records = both_nodes()
    expected = compare(records, SPOOLS, NODES)
    assert expected.is_complete
    for seed in range(10):
        random.Random(seed).shuffle(records)
        assert compare(records, SPOOLS, NODES) == expected


def test_what_was_stored_and_did_not_arrive_is_named() -> None:
    """The one thing the demonstration must not hide; sequence numbers of spans and heartbeats are no gap."""
    spool = wrote(1, 2, 3, 4, 6, 9)
    records = [arrived(sequence) for sequence in (2, 6)]
    delivery = compare(records, [spool], ["node-a"])
    assert not delivery.is_complete
    assert delivery.nodes[0].missing == (1, 3, 4, 9)
    assert "node-a: 4 of 6 events, sequences 1,3-4,9" in text(records, [spool], ["node-a"])
    assert compare([arrived(sequence) for sequence in (1, 2, 3, 4, 6, 9)], [spool], ["node-a"]).is_complete


def test_without_its_spool_nothing_proves_that_nothing_of_an_agent_is_missing() -> None:
    """Whatever arrived proves nothing about what did not."""
    records = [arrived(1), arrived(2)]
    assert not compare(records, [], ["node-a"]).is_complete
    assert "node-a: its spool cannot be read" in text(records, [], ["node-a"])


def test_a_node_from_which_nothing_came_is_named() -> None:
    """No event at all leaves no gap: the nodes that ran are the measure."""
    delivery = compare([arrived(1)], [wrote(1)], NODES)
    assert not delivery.is_complete
    assert delivery.silent_nodes == ("node-b",)
    assert "nothing arrived from node-b" in text([arrived(1)], [wrote(1)], NODES)


def test_a_duplicate_counts_once_and_is_shown() -> None:
    """At least once is the promise; the uid is what makes it bearable."""
    records = [*both_nodes(), arrived(2)]
    delivery = compare(records, SPOOLS, NODES)
    assert delivery.is_complete
    assert delivery.duplicates == 1
    assert [node.arrived for node in delivery.nodes] == [3, 2]
    assert "Duplicates: 1" in text(records, SPOOLS, NODES)


@pytest.mark.parametrize("uid", ["", "aa", "aa-0", "aa-x"])
def test_a_record_without_a_usable_uid_leaves_no_conclusion(uid: str) -> None:
    """Without numbers nobody can say that nothing is missing."""
    record = ReceivedRecord(uid, "e", 1, 9, "b", {}, {"host.name": "node-a"}, "grpc")
    delivery = compare([arrived(1), record], [wrote(1)], ["node-a"])
    assert not delivery.is_complete
    assert delivery.without_uid == 1


@given(st.sets(st.integers(1, 60), min_size=1))
def test_missing_numbers_are_shown_as_ranges_and_none_is_left_out(numbers: set[int]) -> None:
    """A person compares them with the spool."""
    shown = re.search(
        r"node-a: .* sequences ([\d,-]+)", text([arrived(100)], [wrote(*sorted(numbers), 100)], ["node-a"])
    )
    assert shown is not None
    ranges = [tuple(map(int, each.split("-"))) for each in shown[1].split(",")]
    assert [number for each in ranges for number in range(each[0], each[-1] + 1)] == sorted(numbers)


def test_spools_are_compared_and_shown_as_history(tmp_path: Path) -> None:
    """What the demo reads when its agents have ended: sequence numbers to compare, and the first failure to show."""
    spools = Spools(tmp_path)
    agents = failing_job()
    for agent in agents:
        owned = adoption.create(spools.directory, agent.origin.id, 1 << 22)
        owned.spool.put_meta(ORIGIN_KEY, agent.origin.to_json())
        owned.spool.subscribe({"otlp": ["null"]})
        owned.spool.append([("null", event.to_json()) for event in agent.events])
        owned.spool.acknowledge("otlp", 2, delivered=1, rejected=1)
        owned.release()
    stored = read_stored_events({"node": spools.directory})
    assert {each.origin_id: (len(each.sequences), each.pending, each.lost) for each in stored} == {
        agent.origin.id: (len(agent.events), len(agent.events) - 2, 1) for agent in agents
    }
    shown = describe_history(spools_of(spools.directory))
    assert re.search(
        r"round 0  failed .*\n(.*\n)*    failed .*node 1 \(node-b\), rank 3 .*: ValueError: boom", shown
    ), shown
    assert re.search(r"round 1  succeeded ", shown), shown


def test_a_real_collector_is_judged_by_the_spools() -> None:
    """Nobody can ask a collector what it has: what it accepted is what counts."""
    nodes = {"node-a": "grpc", "node-b": "grpc"}
    accepted = [wrote(1, 2, 3, 5, 7), wrote(1, 2, 3, 4, origin="bb", node="node-b")]
    lines, complete = describe_accepted(accepted, nodes, "http://c:4317")
    assert complete
    assert "node-a         5 of 5 events by grpc, 0 pending, 0 rejected or lost" in lines
    for bad in (
        [wrote(1, 2, 3, 5, 7, pending=1), accepted[1]],
        [wrote(1, 2, 3, 5, 7, lost=1), accepted[1]],
        [wrote(), accepted[1]],
        accepted[:1],
    ):
        assert not describe_accepted(bad, nodes, "http://c:4317")[1]
