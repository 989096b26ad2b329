"""Whole jobs on every torch that is promised: each event arrives, in order, with what its agent knows."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.live.arrivals import assert_arrived, names
from tests.live.environments import Environment
from tests.live.harness import WORKERS, Agents, c10d, otlp, static, usual_way
from tests.support.ports import free_port
from tests.support.received import Receiver
from torchelastic_otel.testing.otlp_receiver import ReceivedRecord

pytestmark = [pytest.mark.live, pytest.mark.torch]


def test_two_nodes_end_well_one_by_grpc_one_by_http(agents: Agents, receiver: Receiver, torch: Environment) -> None:
    """The main promise: nothing of a real job is missing, by either protocol, and every record says whose it is."""
    arguments = [*c10d(free_port(), nodes=2, workers=2), WORKERS / "quick.py"]
    one, other = (
        agents.start(usual_way(torch), *arguments, env=otlp(receiver, protocol))
        for protocol in ("grpc", "http/protobuf")
    )
    assert [one.wait(), other.wait()] == [0, 0]

    ranks = set()
    for agent, protocol in ((one, "grpc"), (other, "http/protobuf")):
        records = assert_arrived(agent, receiver)
        assert {record.protocol for record in records} == {protocol}
        assert {record.resource["host.name"] for record in records} == {socket.gethostname()}
        assert {record.attributes["torchelastic.run.id"] for record in records} == {"live"}
        assert {record.attributes["torchelastic.restart.count"] for record in records} == {0}
        assert names(records).count("worker.succeeded") == 2
        known = since(records, "rendezvous.joined")
        assert {record.attributes["torchelastic.rendezvous.round"] for record in known} == {0}
        assert {record.attributes["torchelastic.group.world_size"] for record in known} == {2}
        (rank,) = {record.attributes["torchelastic.group.rank"] for record in known}
        ranks.add(rank)
        assert sorted(rank_of_workers(records)) == [2 * rank, 2 * rank + 1]
    assert ranks == {0, 1}


def test_a_worker_fails_and_all_start_again(
    agents: Agents, receiver: Receiver, torch: Environment, tmp_path: Path
) -> None:
    """A restart is a new round: what its events carry is the new round's, though torch says the old one's."""
    arguments = [*c10d(free_port(), nodes=2, workers=2, restarts=2), WORKERS / "fail_once.py", tmp_path]
    started = [agents.start(usual_way(torch), *arguments, env=otlp(receiver)) for _ in range(2)]
    assert [agent.wait() for agent in started] == [0, 0]

    restarts = []
    for agent in started:
        records = assert_arrived(agent, receiver)
        again = since(records, "rendezvous.joined", times=2)
        assert {record.attributes["torchelastic.rendezvous.round"] for record in again} == {1}
        joined = again[0].attributes
        # the ranks of a round are the joining's own, also on the agent events that torch made with the old ones
        for record in again:
            for name in ("torchelastic.group.rank", "torchelastic.group.world_size"):
                assert record.attributes[name] == joined[name]
        if torch.loads_entry_points:
            assert {"agent.rendezvous_finished", "agent.ranks_assigned", "worker.started"} <= {*names(again)}
        restarts.append(records[-1].attributes["torchelastic.restart.count"])
    # the agent of the failed worker spends a restart, its peer none
    assert sorted(restarts) == [0, 1]


def test_the_static_rendezvous_says_nothing_and_its_agents_do(
    agents: Agents, receiver: Receiver, torch: Environment
) -> None:
    """`static` records no rendezvous event; the round is then the agent's own count."""
    port = free_port()
    started = [
        agents.start(usual_way(torch), *static(port, rank), WORKERS / "quick.py", env=otlp(receiver))
        for rank in range(2)
    ]
    assert [agent.wait() for agent in started] == [0, 0]
    for rank, agent in enumerate(started):
        records = assert_arrived(agent, receiver)
        assert not [name for name in names(records) if name.startswith("rendezvous.")]
        assert names(records)[-1] == "agent.succeeded"
        assert rank_of_workers(records) == [rank]
        if torch.loads_entry_points:
            assert records[-1].attributes["torchelastic.rendezvous.round"] == 0
        assert records[-1].attributes["torchelastic.group.rank"] == rank
        assert records[-1].attributes["torchelastic.rendezvous.backend"] == "static"


def since(records: list[ReceivedRecord], name: str, times: int = 1) -> list[ReceivedRecord]:
    """The records from the one of this name on, the so-manieth of them."""
    indices = [index for index, each in enumerate(names(records)) if each == name]
    assert len(indices) >= times, f"{name} came {len(indices)} times in {names(records)}"
    return records[indices[times - 1] :]


def rank_of_workers(records: list[ReceivedRecord]) -> list[int]:
    """The global ranks of the workers that ended well."""
    return [
        record.attributes["torchelastic.worker.rank"]
        for record in records
        if record.event_name == "torchelastic.worker.succeeded"
    ]
