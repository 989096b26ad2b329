"""The table of scenarios: the script and the expected telemetry of each.

Guarantees: expectations are written by hand, from what torch does (read and run on torch 2.2 to 2.15).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.live.scenarios import scripts
from tests.live.scenarios.cluster import Cluster
from tests.live.scenarios.expected import Expected, Round


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario.

    Attributes:
        name: Its name.
        script: Makes it happen.
        expected: What must be reported of it.
        only: The versions of torch that it runs on; all if it is empty.
        flushed: Agents whose spools ``torchelastic-otel flush`` delivers, since no other agent does.
    """

    name: str
    script: Callable[[Cluster], None]
    expected: Expected
    only: tuple[str, ...] = ()
    flushed: str = ""


WELL = "succeeded"


def _well(names: str, *rounds: Round, **more: object) -> Expected:
    """All nodes end well after these rounds."""
    return Expected(WELL, (*rounds, Round(names, WELL)), dict.fromkeys(names, 0), dict.fromkeys(names, WELL), **more)  # type: ignore[arg-type]


def _one_failure(names: str = "ab") -> Expected:
    own_view = ("membership_change",) if len(names) > 1 else ()
    return _well(names, Round(names, "failed", first=0, restart="worker_failure"), local_restart_reasons=own_view)


SCENARIOS = (
    Scenario("clean end of one node", scripts.clean("a"), _well("a")),
    Scenario("clean end of three nodes", scripts.clean("abc"), _well("abc")),
    Scenario("a worker raises", scripts.fails("raise"), _one_failure()),
    Scenario("a worker exits with 3", scripts.fails("exit 3"), _one_failure()),
    Scenario("a worker is killed", scripts.fails("SIGKILL"), _one_failure()),
    Scenario("a worker aborts", scripts.fails("abort"), _one_failure()),
    Scenario("one of two workers raises on the only node", scripts.alone_raises, _one_failure("a")),
    Scenario(
        "workers on two nodes fail 300 ms apart",
        scripts.two_fail,
        _well("ab", Round("ab", "failed", first=0, victims=(1,), restart="worker_failure")),
    ),
    Scenario(
        "two workers on one node fail 300 ms apart",
        scripts.two_fail_on_one,
        _well("a", Round("a", "failed", first=0, victims=(1,), restart="worker_failure")),
    ),
    Scenario("a worker hangs until it is stopped", scripts.hangs, _one_failure()),
    Scenario(
        "restarts are exhausted on one node",
        scripts.exhausted_alone,
        Expected(
            "failed",
            (Round("a", "failed", first=0, restart="worker_failure"), Round("a", "failed", first=1)),
            {"a": 1},
            {"a": "failed"},
        ),
    ),
    Scenario(
        "restarts are exhausted on the second node",
        scripts.exhausted,
        Expected(
            "failed",
            (Round("ab", "failed", first=0, restart="worker_failure"), Round("ab", "failed", first=1, victims=(2,))),
            {"a": 1, "b": 1},
            {"a": "error", "b": "failed"},
            local_restart_reasons=("membership_change",),
        ),
    ),
    Scenario(
        "an agent is killed",
        scripts.agent_ends(signal.SIGKILL),
        Expected(
            WELL,
            (Round("ab", "failed", first=0, victims=(1,), restart="node_lost", lost="b"), Round("a", WELL)),
            {"a": 0, "b": -9},
            {"a": WELL, "b": None},
            local_restart_reasons=("worker_failure",),
        ),
        flushed="b",
    ),
    Scenario(
        "an agent is killed and another one comes in its place",
        scripts.comes_back,
        Expected(
            WELL,
            (
                Round("ab", "failed", first=0, victims=(1,), restart="node_lost", lost="b"),
                Round("ac", WELL, joined="c", last="c"),
            ),
            {"a": 0, "b": -9, "c": 0},
            {"a": WELL, "b": None, "c": WELL},
            local_restart_reasons=("worker_failure",),
        ),
        flushed="b",
    ),
    Scenario(
        "three nodes, of which two fail one after the other",
        scripts.fails_twice,
        _well(
            "abc",
            Round("abc", "failed", first=0, restart="worker_failure"),
            Round("abc", "failed", first=1, restart="worker_failure"),
            run_id=scripts.ODD_RUN_ID,
            local_restart_reasons=("membership_change", "membership_change"),
        ),
    ),
    Scenario(
        "an agent gets SIGTERM",
        scripts.agent_ends(signal.SIGTERM),
        Expected(
            WELL,
            (Round("ab", "interrupted", victims=(1,), restart="node_left", left="b"), Round("a", WELL)),
            {"a": 0, "b": 1},
            {"a": WELL, "b": "terminated"},
            local_restart_reasons=("worker_failure",),
        ),
    ),
    Scenario(
        "an agent gets SIGINT",
        scripts.agent_ends(signal.SIGINT),
        Expected(
            WELL,
            (Round("ab", "interrupted", victims=(1,), restart="node_left", left="b"), Round("a", WELL)),
            {"a": 0, "b": 1},
            {"a": WELL, "b": "terminated"},
            local_restart_reasons=("worker_failure",),
        ),
    ),
    Scenario(
        "an agent gets SIGTERM in its first rendezvous",
        scripts.terminated_while_it_waits,
        Expected("failed", (Round("", "failed"),), {"a": -15}, {"a": None}),
        flushed="a",
    ),
    Scenario(
        "a node joins",
        scripts.joins,
        Expected(
            WELL,
            (Round("a", "interrupted", restart="membership_change"), Round("ab", WELL, joined="b")),
            {"a": 0, "b": 0},
            {"a": WELL, "b": WELL},
        ),
    ),
    Scenario(
        "a node flaps",
        scripts.flaps,
        Expected(
            WELL,
            (
                Round("a", "interrupted", restart="membership_change"),
                Round("ab", "interrupted", victims=(1,), joined="b", restart="node_left", left="b"),
                Round("a", "interrupted", restart="membership_change"),
                Round("ac", WELL, joined="c"),
            ),
            {"a": 0, "b": 1, "c": 0},
            {"a": WELL, "b": "terminated", "c": WELL},
            local_restart_reasons=("membership_change", "worker_failure", "membership_change"),
        ),
    ),
    Scenario(
        "a node that stands by is promoted",
        scripts.promoted,
        Expected(
            WELL,
            (Round("ab", "interrupted", victims=(1,), restart="node_left", left="b"), Round("ac", WELL, joined="c")),
            {"a": 0, "b": 1, "c": 0},
            {"a": WELL, "b": "terminated", "c": WELL},
            local_restart_reasons=("worker_failure",),
        ),
    ),
    Scenario(
        "a rendezvous times out with a node missing",
        scripts.times_out,
        Expected(
            "failed", (Round("", "failed", raised=True),), {"a": 1, "b": 1}, {"a": "error", "b": "error"}, waiting=1
        ),
    ),
    Scenario(
        "the store's host is lost",
        scripts.store_host_lost,
        Expected("failed", (Round("ab", "failed", first=0, lost="a"),), {"a": -9, "b": 1}, {"a": None, "b": "error"}),
        flushed="a",
    ),
    Scenario(
        "nobody hosts the store", scripts.store_unreachable, Expected("failed", (), {"a": 1}, {"a": None}, created="")
    ),
    Scenario("static, two nodes", scripts.static, _well("ab", backend="static", run_id="none")),
    Scenario(
        "static, a worker fails",
        scripts.static_fails,
        _well(
            "a",
            Round("a", "failed", first=0, restart="worker_failure"),
            backend="static",
            run_id="none",
        ),
    ),
    Scenario(
        "static, a worker of the second node fails for good",
        scripts.static_fails_for_good,
        Expected(
            "failed",
            (Round("ab", "failed", first=0, victims=(1,)),),
            {"a": 1, "b": 1},
            {"a": "failed", "b": "failed"},
            backend="static",
            run_id="none",
        ),
    ),
    Scenario("standalone, a worker raises", scripts.standalone, _one_failure("a")),
    Scenario("a role with several workers", scripts.roles, _one_failure()),
    Scenario("a heartbeat fails", scripts.heartbeats_fail, _well("ab", failed_heartbeats="b")),
    Scenario(
        "two jobs with one run id on one node",
        scripts.twins,
        Expected(WELL, (Round("ab", WELL),), {"a": 0, "b": 0}, {"a": WELL, "b": WELL}, runs=("a", "b")),
    ),
    Scenario("a worker ignores SIGTERM", scripts.deaf, _one_failure("a")),
    Scenario(
        "a node ends first",
        scripts.ends_first,
        Expected(WELL, (Round("ab", WELL, last="b"),), dict.fromkeys("ab", 0), dict.fromkeys("ab", WELL)),
    ),
    Scenario("the store's host is stopped and continued", scripts.store_host_stopped, _well("ab")),
)
