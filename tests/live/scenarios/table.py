"""The table of scenarios: what truly happens in each.

What always holds: the truth is written here by hand, from what torch does (read and run on torch 2.2 to 2.15).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.live.scenarios import scripts as plays
from tests.live.scenarios.cluster import Stage
from tests.live.scenarios.expected import Round, Truth


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario.

    Attributes:
        name: What it is called.
        play: Has it happen.
        truth: What truly happened.
        only: The torches that it is played on; all where it is empty.
        flushed: Agents whose spools ``torchelastic-otel flush`` delivers, since nobody else does.
    """

    name: str
    play: Callable[[Stage], None]
    truth: Truth
    only: tuple[str, ...] = ()
    flushed: str = ""


WELL = "succeeded"


def _well(names: str, *rounds: Round, **more: object) -> Truth:
    """All nodes end well after these rounds."""
    return Truth(WELL, (*rounds, Round(names, WELL)), dict.fromkeys(names, 0), dict.fromkeys(names, WELL), **more)  # type: ignore[arg-type]


def _one_failure(names: str = "ab") -> Truth:
    own_view = ("membership_change",) if len(names) > 1 else ()
    return _well(names, Round(names, "failed", first=0, restart="worker_failure"), told_own_view=own_view)


SCENARIOS = (
    Scenario("clean end of one node", plays.clean("a"), _well("a")),
    Scenario("clean end of three nodes", plays.clean("abc"), _well("abc")),
    Scenario("a worker raises", plays.fails("raise"), _one_failure()),
    Scenario("a worker exits with 3", plays.fails("exit 3"), _one_failure()),
    Scenario("a worker is killed", plays.fails("SIGKILL"), _one_failure()),
    Scenario("a worker aborts", plays.fails("abort"), _one_failure()),
    Scenario("one of two workers raises on the only node", plays.alone_raises, _one_failure("a")),
    Scenario(
        "workers on two nodes fail 50 ms apart",
        plays.two_fail,
        _well("ab", Round("ab", "failed", first=0, victims=(1,), restart="worker_failure")),
    ),
    Scenario(
        "two workers on one node fail 50 ms apart",
        plays.two_fail_on_one,
        _well("a", Round("a", "failed", first=0, victims=(1,), restart="worker_failure")),
    ),
    Scenario("a worker hangs until it is stopped", plays.hangs, _one_failure()),
    Scenario(
        "restarts are exhausted on one node",
        plays.exhausted_alone,
        Truth(
            "failed",
            (Round("a", "failed", first=0, restart="worker_failure"), Round("a", "failed", first=1)),
            {"a": 1},
            {"a": "failed"},
        ),
    ),
    Scenario(
        "restarts are exhausted on the second node",
        plays.exhausted,
        Truth(
            "failed",
            (Round("ab", "failed", first=0, restart="worker_failure"), Round("ab", "failed", first=1, victims=(2,))),
            {"a": 1, "b": 1},
            {"a": "error", "b": "failed"},
            told_own_view=("membership_change",),
        ),
    ),
    Scenario(
        "an agent is killed",
        plays.agent_ends(signal.SIGKILL),
        Truth(
            WELL,
            (Round("ab", "failed", first=0, victims=(1,), restart="node_lost", lost="b"), Round("a", WELL)),
            {"a": 0, "b": -9},
            {"a": WELL, "b": None},
            told_own_view=("worker_failure",),
        ),
        flushed="b",
    ),
    Scenario(
        "an agent is killed and another one comes in its place",
        plays.comes_back,
        Truth(
            WELL,
            (
                Round("ab", "failed", first=0, victims=(1,), restart="node_lost", lost="b"),
                Round("ac", WELL, joined="c", last="c"),
            ),
            {"a": 0, "b": -9, "c": 0},
            {"a": WELL, "b": None, "c": WELL},
            told_own_view=("worker_failure",),
        ),
        flushed="b",
    ),
    Scenario(
        "three nodes, of which two fail one after the other",
        plays.fails_twice,
        _well(
            "abc",
            Round("abc", "failed", first=0, restart="worker_failure"),
            Round("abc", "failed", first=1, restart="worker_failure"),
            run_id=plays.ODD_RUN_ID,
            told_own_view=("membership_change", "membership_change"),
        ),
    ),
    Scenario(
        "an agent gets SIGTERM",
        plays.agent_ends(signal.SIGTERM),
        Truth(
            WELL,
            (Round("ab", "interrupted", victims=(1,), restart="node_left", left="b"), Round("a", WELL)),
            {"a": 0, "b": 1},
            {"a": WELL, "b": "terminated"},
            told_own_view=("worker_failure",),
        ),
    ),
    Scenario(
        "an agent gets SIGINT",
        plays.agent_ends(signal.SIGINT),
        Truth(
            WELL,
            (Round("ab", "interrupted", victims=(1,), restart="node_left", left="b"), Round("a", WELL)),
            {"a": 0, "b": 1},
            {"a": WELL, "b": "terminated"},
            told_own_view=("worker_failure",),
        ),
    ),
    Scenario(
        "an agent gets SIGTERM in its first rendezvous",
        plays.terminated_while_it_waits,
        Truth("failed", (Round("", "failed"),), {"a": -15}, {"a": None}),
        flushed="a",
    ),
    Scenario(
        "a node joins",
        plays.joins,
        Truth(
            WELL,
            (Round("a", "interrupted", restart="membership_change"), Round("ab", WELL, joined="b")),
            {"a": 0, "b": 0},
            {"a": WELL, "b": WELL},
        ),
    ),
    Scenario(
        "a node flaps",
        plays.flaps,
        Truth(
            WELL,
            (
                Round("a", "interrupted", restart="membership_change"),
                Round("ab", "interrupted", victims=(1,), joined="b", restart="node_left", left="b"),
                Round("a", "interrupted", restart="membership_change"),
                Round("ac", WELL, joined="c"),
            ),
            {"a": 0, "b": 1, "c": 0},
            {"a": WELL, "b": "terminated", "c": WELL},
            told_own_view=("membership_change", "worker_failure", "membership_change"),
        ),
    ),
    Scenario(
        "a node that stands by is promoted",
        plays.promoted,
        Truth(
            WELL,
            (Round("ab", "interrupted", victims=(1,), restart="node_left", left="b"), Round("ac", WELL, joined="c")),
            {"a": 0, "b": 1, "c": 0},
            {"a": WELL, "b": "terminated", "c": WELL},
            told_own_view=("worker_failure",),
        ),
    ),
    Scenario(
        "a rendezvous times out with a node missing",
        plays.times_out,
        Truth("failed", (Round("", "failed", raised=True),), {"a": 1, "b": 1}, {"a": "error", "b": "error"}, waiting=1),
    ),
    Scenario(
        "the store's host is lost",
        plays.store_host_lost,
        Truth("failed", (Round("ab", "failed", first=0, lost="a"),), {"a": -9, "b": 1}, {"a": None, "b": "error"}),
        flushed="a",
    ),
    Scenario("nobody hosts the store", plays.store_unreachable, Truth("failed", (), {"a": 1}, {"a": None}, made="")),
    Scenario("static, two nodes", plays.static, _well("ab", backend="static", run_id="none")),
    Scenario(
        "static, a worker fails",
        plays.static_fails,
        _well(
            "a",
            Round("a", "failed", first=0, restart="worker_failure"),
            backend="static",
            run_id="none",
        ),
    ),
    Scenario(
        "static, a worker of the second node fails for good",
        plays.static_fails_for_good,
        Truth(
            "failed",
            (Round("ab", "failed", first=0, victims=(1,)),),
            {"a": 1, "b": 1},
            {"a": "failed", "b": "failed"},
            backend="static",
            run_id="none",
        ),
    ),
    Scenario("standalone, a worker raises", plays.standalone, _one_failure("a")),
    Scenario("a role with several workers", plays.roles, _one_failure()),
    Scenario("a heartbeat fails", plays.beats_fail, _well("ab", beats_failed="b")),
    Scenario(
        "two jobs with one run id on one node",
        plays.twins,
        Truth(WELL, (Round("ab", WELL),), {"a": 0, "b": 0}, {"a": WELL, "b": WELL}, runs=("a", "b")),
    ),
    Scenario("a worker ignores SIGTERM", plays.deaf, _one_failure("a")),
    Scenario(
        "a node ends first",
        plays.ends_first,
        Truth(WELL, (Round("ab", WELL, last="b"),), dict.fromkeys("ab", 0), dict.fromkeys("ab", WELL)),
    ),
    Scenario("the store's host is stopped and continued", plays.store_host_stopped, _well("ab")),
)
