"""What agents write into the job's store, each over a connection of its own, and what all of them then read."""

from __future__ import annotations

import pytest

from tests.support.observers import Server, in_threads
from torchelastic_otel.agent.coordination.agreement import IN_BARRIER, LEFT, LOST, BringUp, JobKeys
from torchelastic_otel.model.cause import NODE_LOST, WORKER_FAILURE, Cause
from torchelastic_otel.model.failure import HANG

pytestmark = pytest.mark.torch


@pytest.fixture
def server() -> Server:
    """The job's store."""
    return Server()


def test_the_first_nonce_holds_for_all_who_come_at_once(server: Server) -> None:
    """Two runs of one id never share a trace, and all agents of one do."""
    keys = [server.keys() for _ in range(4)]
    got: dict[int, str] = {}
    in_threads([lambda n=n: got.update({n: keys[n].nonce(f"nonce {n}")}) for n in range(4)])  # type: ignore[misc]
    assert len(set(got.values())) == 1
    assert server.keys().nonce("late") == got[0]
    assert server.keys("other/").nonce("late") == "late"


def test_the_earliest_cause_holds_whoever_proposes_when(server: Server) -> None:
    """First-reporter-wins gave the wrong cause on a live job."""
    keys = [server.keys() for _ in range(4)]

    def propose(who: int) -> None:
        for round_ in range(25):
            # another one is the earliest in each round
            at = 100 + (who + round_) % 4
            keys[who].propose_cause(round_, Cause(WORKER_FAILURE, at, host=f"host {who}", rank=who))

    in_threads([lambda n=n: propose(n) for n in range(4)])  # type: ignore[misc]
    for round_ in range(25):
        for each in keys:
            cause = each.cause(round_)
            who = -round_ % 4
            assert cause == Cause(WORKER_FAILURE, 100, host=f"host {who}", rank=who, others_failed=True)
    assert keys[0].cause(25) is None


def test_a_doubt_stays_when_the_earlier_one_comes_last_or_comes_again(server: Server) -> None:
    """Overlapping error bounds are told as ambiguous, and a retry must not make them certain."""
    keys = server.keys()
    early, late = Cause(WORKER_FAILURE, 1_000, rank=0), Cause(WORKER_FAILURE, 1_050, error_ns=100, rank=1)
    for round_, order in enumerate([(early, late), (late, early), (early, late, early), (late, early, late, early)]):
        for cause in order:
            keys.propose_cause(round_, cause)
        assert keys.cause(round_) == Cause(WORKER_FAILURE, 1_000, rank=0, ambiguous=True, others_failed=True), order


def test_one_node_speaks_for_all_and_one_of_the_others_takes_its_place(server: Server) -> None:
    """What is the whole job's must be told once, also when the one that tells it dies."""
    keys = [server.keys() for _ in range(4)]
    got: dict[int, bool] = {}
    in_threads([lambda n=n: got.update({n: keys[n].elect_reporter(3, f"node {n}") == f"node {n}"}) for n in range(4)])  # type: ignore[misc]
    assert sorted(got.values()) == [False, False, False, True]
    (reporter,) = [n for n, claimed in got.items() if claimed]
    assert keys[0].reporter(3) == f"node {reporter}"
    assert keys[0].reporter(4) is None
    others = [n for n in range(4) if n != reporter]
    assert not keys[0].replace_reporter(3, "node 9", "node 7")
    heirs: dict[int, bool] = {}
    in_threads(
        [
            lambda n=n: heirs.update({n: keys[n].replace_reporter(3, f"node {reporter}", f"node {n}")})  # type: ignore[misc]
            for n in others
        ]
    )
    assert sorted(heirs.values()) == [False, False, True]


def test_a_round_is_up_when_all_nodes_said_so(server: Server) -> None:
    """The root of a bring-up ends with the last node's workers."""
    keys = server.keys()
    parts = [BringUp(n, 10 + n, 20 + n, f"node {n}") for n in range(3)]
    keys.report_up(0, 2, parts[2])
    keys.report_up(0, 0, parts[0])
    assert keys.all_up(0, 3) is None
    server.keys().report_up(0, 1, parts[1])
    assert keys.all_up(0, 3) == parts
    assert keys.all_up(1, 3) is None


def test_who_waits_left_or_is_lost_is_known_by_round_and_node(server: Server) -> None:
    """A node that is done sends no heartbeats and is well; one that was told to go is not lost."""
    keys, peer = server.keys(), server.keys()
    keys.mark(1, IN_BARRIER, "a_1_0")
    keys.mark(1, LEFT, "b_2_0")
    keys.mark(1, LOST, "c_3_0")
    states = [IN_BARRIER, LEFT, LOST]
    nodes = ["a_1_0", "b_2_0", "c_3_0"]
    assert [[peer.is_marked(1, state, node) for node in nodes] for state in states] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
    assert not any(peer.is_marked(2, state, node) for node in nodes for state in states)


def test_a_cause_of_a_newer_version_is_read_and_ends_no_agreement(server: Server) -> None:
    """Nodes are upgraded one by one; a key that this version does not know must not make it spin."""
    keys = server.keys()
    keys.put_first("0/cause", '{"kind": "node_lost", "time_ns": 5, "of_tomorrow": 1}')
    keys.propose_cause(0, Cause(WORKER_FAILURE, 9))
    assert keys.cause(0) == Cause(NODE_LOST, 5, others_failed=True)


def test_culprits_of_a_hang_come_from_all_nodes_and_count_if_all_that_failed_waited(server: Server) -> None:
    """Nodes write at the same time; a worker that failed by itself later takes their place."""
    keys = [server.keys() for _ in range(4)]
    culprits = [Cause(WORKER_FAILURE, 900, host=f"h{n}", rank=n, failure_kind=HANG) for n in range(4)]
    keys[0].propose_culprits(0, culprits[:1])
    assert keys[0].read("0/culprits") is None, "nothing has failed"
    keys[0].propose_cause(0, Cause(WORKER_FAILURE, 100, rank=9, waited=True))
    in_threads([lambda n=n: keys[n].propose_culprits(0, [culprits[n]]) for n in range(4)])  # type: ignore[misc]
    for each in keys:
        cause = each.cause(0)
        assert cause is not None
        assert (cause.rank, cause.failure_kind) == (0, HANG)
        assert cause.culprits == tuple(f"rank {n} on h{n}" for n in range(4))
    keys[1].propose_cause(0, Cause(WORKER_FAILURE, 999, rank=5))
    assert (cause := keys[2].cause(0)) is not None
    assert cause.rank == 5


def test_reading_a_key_that_is_not_there_does_not_wait(server: Server) -> None:
    """``get`` and ``wait`` block for minutes, and everybody else who uses the connection."""
    keys: JobKeys = server.keys()
    assert keys.read("nobody wrote this") is None
    assert keys.put_first("k", "v") == "v"
    assert keys.read("k") == "v"
    assert (keys.replace("k", "not this", "w"), keys.replace("k", "v", "w")) == ("v", "w")
