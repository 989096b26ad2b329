"""How each scenario is played.

What always holds: a play waits for what happens, and for time to pass only where time is what it is about; it leaves no
agent waiting for ever.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from tests.live.scenarios.cluster import Stage

FAST = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=1"
"""A node that is gone is noticed after 3 s; before torch 2.8 after 15 s."""
BOTH = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=5"
"""The same, and the first of two nodes waits for the other one, which may be slow to come."""
SLOW = "keep_alive_interval=1,keep_alive_max_attempt=6,last_call_timeout=5"
"""The same, and time to do something before a node that is gone is noticed."""
SOON = "last_call_timeout=1"
PATIENT = "last_call_timeout=5"
"""A round waits for more nodes than it needs, for longer than an agent looks away: torch looks once a second."""
ODD_RUN_ID = 'größe 7:"x"'  # a slash is what torch itself cannot bear: it names a directory after the id


def clean(names: str) -> Callable[[Stage], None]:
    """All end well, after a moment."""

    def play(stage: Stage) -> None:
        for name in names:
            stage.enter(name, nodes=str(len(names)), words=["training"])
        for name in names:
            stage.began(name)
        time.sleep(0.5)
        stage.done()

    return play


def fails(what: str) -> Callable[[Stage], None]:
    """The worker on the second node fails; all start again and end well."""

    def play(stage: Stage) -> None:
        for name in "ab":
            stage.enter(name, nodes="2", restarts=2)
        stage.began("a")
        (worker,) = stage.began("b")
        if what == "SIGKILL":
            stage.strike(worker, signal.SIGKILL)
        else:
            stage.order(worker, what)
        stage.began("a", 1)
        stage.began("b", 1)
        time.sleep(0.5)
        stage.done()

    return play


def alone_raises(stage: Stage) -> None:
    """One of two workers of the only node raises; the other has to be stopped, which takes it 0.7 s."""
    stage.enter("a", workers=2, restarts=1, words=["slow"])
    _, worker = stage.began("a", workers=2)
    stage.order(worker, "raise")
    stage.began("a", 1, workers=2)
    time.sleep(0.5)
    stage.done()


def two_fail(stage: Stage) -> None:
    """Workers on two nodes fail, 50 ms apart."""
    for name in "ab":
        stage.enter(name, nodes="2", restarts=2, extra=("--monitor-interval", "1"))
    (one,), (other,) = stage.began("a"), stage.began("b")
    stage.orders((other, "exit 3"), (one, "abort"), apart_s=0.05)
    stage.began("a", 1)
    stage.began("b", 1)
    time.sleep(0.5)
    stage.done()


def two_fail_on_one(stage: Stage) -> None:
    """Two workers of one node fail, 50 ms apart: between two of torch's polls."""
    stage.enter("a", workers=3, restarts=1, extra=("--monitor-interval", "5"))
    one, two, _ = stage.began("a", workers=3)
    stage.orders((two, "exit 3"), (one, "abort"), apart_s=0.05)
    stage.began("a", 1, workers=3)
    time.sleep(0.5)
    stage.done()


def hangs(stage: Stage) -> None:
    """A worker hangs until it is stopped, which takes it a moment: its peer on the other node has failed."""
    for name in "ab":
        stage.enter(name, nodes="2", restarts=1, words=["slow"] if name == "a" else [])
    stage.began("a")
    (worker,) = stage.began("b")
    stage.order(worker, "exit 3")
    stage.began("a", 1)
    stage.began("b", 1)
    time.sleep(0.5)
    stage.done()


def exhausted(stage: Stage) -> None:
    """A worker fails in every round, until no restart is left; its peer has nobody to go on with."""
    for name in "ab":
        stage.enter(name, nodes="2", restarts=1)
    for start in range(2):
        stage.began("a", start)
        (worker,) = stage.began("b", start)
        stage.order(worker, "exit 3")
    assert stage.cast["b"].wait() == 1
    # torch tells nobody: it is the collective that breaks which does
    (worker,) = stage.began("a", 1)
    stage.order(worker, "exit 3")


def exhausted_alone(stage: Stage) -> None:
    """The same on one node, with two workers."""
    stage.enter("a", workers=2, restarts=1)
    for start in range(2):
        _, worker = stage.began("a", start, workers=2)
        stage.order(worker, "raise")


def agent_ends(number: int) -> Callable[[Stage], None]:
    """The second node's agent gets a signal; what it breaks on the other one is a moment later."""

    def play(stage: Stage) -> None:
        for name in "ab":
            stage.enter(name, nodes="1:2", conf=BOTH, restarts=1, held=True)
        stage.together()
        (worker,) = stage.began("a")
        stage.began("b")
        stage.runs("a", "b")
        stage.strike_agent("b", number)
        stage.cast["b"].wait()
        # torch restarts nobody for a node that is gone: it is the collective that breaks which does
        time.sleep(0.2)
        stage.order(worker, "exit 3")
        stage.began("a", 1)
        time.sleep(0.5)
        stage.done()

    return play


def comes_back(stage: Stage) -> None:
    """The second node's agent is killed, and started again, as Kubernetes does: it is another agent then."""
    for name in "ab":
        stage.enter(name, nodes="2", conf=FAST, restarts=1)
    (worker,) = stage.began("a")
    stage.began("b")
    stage.runs("a", "b")
    stage.strike_agent("b", signal.SIGKILL)
    time.sleep(0.2)
    stage.order(worker, "exit 3")
    stage.said("a", "attempts to join", times=2)
    stage.enter("c", nodes="2", conf=FAST, restarts=1)
    stage.began("a", 1)
    stage.began("c")
    time.sleep(0.5)
    stage.done()


def fails_twice(stage: Stage) -> None:
    """Three nodes; a worker of the third fails, then one of the second; the run's id is not a plain word."""
    for name in "abc":
        stage.enter(name, nodes="3", restarts=3, run_id=ODD_RUN_ID)
    for start, (name, what) in enumerate((("c", "raise"), ("b", "abort"))):
        workers = {each: stage.began(each, start)[0] for each in "abc"}
        stage.order(workers[name], what)
    for name in "abc":
        stage.began(name, 2)
    time.sleep(0.5)
    stage.done()


def terminated_while_it_waits(stage: Stage) -> None:
    """SIGTERM in the first rendezvous: torch says nothing and ends by the signal."""
    stage.enter("a", nodes="2", conf=SOON)
    stage.said("a", "added itself to the participants")
    # kept is what is on the disk: the spool is opened beside the agent's start
    stage.cast["a"].keeps_what_it_told()
    stage.strike_agent("a", signal.SIGTERM)


def joins(stage: Stage) -> None:
    """A second node comes while the first one trains."""
    stage.enter("a", nodes="1:2", conf=PATIENT, restarts=1)
    stage.began("a")
    stage.enter("b", nodes="1:2", conf=PATIENT, restarts=1)
    stage.began("a", 1)
    stage.began("b")
    time.sleep(0.5)
    stage.done()


def flaps(stage: Stage) -> None:
    """A second node comes, is told to go, and another comes in its place."""
    stage.enter("a", nodes="1:2", conf=BOTH, restarts=1)
    stage.began("a")
    stage.enter("b", nodes="1:2", conf=BOTH, restarts=1)
    (worker,) = stage.began("a", 1)
    stage.began("b")
    stage.runs("a", "b", round_=1)
    stage.strike_agent("b", signal.SIGTERM)
    stage.cast["b"].wait()
    stage.order(worker, "exit 3")
    stage.began("a", 2)
    stage.enter("c", nodes="1:2", conf=BOTH, restarts=1)
    stage.began("a", 3)
    stage.began("c")
    time.sleep(0.5)
    stage.done()


def promoted(stage: Stage) -> None:
    """A third node stands by; when the second one is told to go, it takes its place."""
    for name in "ab":
        stage.enter(name, nodes="1:2", conf=SLOW, restarts=1, held=True)
    stage.together()
    (worker,) = stage.began("a")
    stage.began("b")
    stage.runs("a", "b")
    stage.enter("c", nodes="1:2", conf=SLOW, restarts=1)
    stage.said("c", "attempts to join")
    time.sleep(2.5)  # it stands by: on the redundancy list where this torch has one
    stage.strike_agent("b", signal.SIGTERM)
    # before c is let in, which is when b's heartbeats are missed: on a until it is gone
    stage.said("b", "status.FAILED")
    time.sleep(0.2)
    stage.order(worker, "exit 3")
    stage.began("c")
    stage.began("a", 1)
    time.sleep(0.5)
    stage.done()


def times_out(stage: Stage) -> None:
    """Two of three nodes come, and wait in vain; that is said after 5 s and after 10 s."""
    for name in "ab":
        stage.enter(name, nodes="3", conf="join_timeout=14", held=True)
    stage.together()


def store_host_lost(stage: Stage) -> None:
    """The node that hosts the store is killed: the others cannot go on."""
    stage.enter("a", nodes="2", conf=SOON)
    stage.enter("b", nodes="2", conf=SOON)
    stage.began("a")
    stage.began("b")
    stage.runs("a", "b")
    stage.strike_agent("a", signal.SIGKILL)


def store_unreachable(stage: Stage) -> None:
    """Nobody hosts the store."""
    stage.enter("a", nodes="1", conf="is_host=0,read_timeout=2")


def static_of(stage: Stage, rank: int) -> tuple[str, ...]:
    """Arguments of the static rendezvous."""
    return ("--node-rank", str(rank), "--master-addr", "127.0.0.1", "--master-port", str(stage.port))


def static(stage: Stage) -> None:
    """The static rendezvous, two nodes that end well."""
    for rank, name in enumerate("ab"):
        stage.enter(name, nodes="2", backend=static_of(stage, rank), words=["training"])
    stage.began("a")
    stage.began("b")
    time.sleep(0.7)
    stage.done()


def static_fails(stage: Stage) -> None:
    """The static rendezvous, one node: its worker fails, and starts again."""
    stage.enter("a", nodes="1", restarts=1, backend=static_of(stage, 0))
    (worker,) = stage.began("a")
    stage.order(worker, "exit 3")
    stage.began("a", 1)
    time.sleep(0.5)
    stage.done()


def static_fails_for_good(stage: Stage) -> None:
    """The static rendezvous, two nodes: a worker of the second fails, and the collective breaks the other one's."""
    for rank, name in enumerate("ab"):
        stage.enter(name, nodes="2", backend=static_of(stage, rank))
    (one,), (other,) = stage.began("a"), stage.began("b")
    stage.order(other, "raise")
    assert stage.cast["b"].wait() == 1
    stage.order(one, "exit 3")


def standalone(stage: Stage) -> None:
    """``--standalone``; its worker raises once."""
    stage.enter("a", restarts=1, backend=("--standalone",))
    (worker,) = stage.began("a")
    stage.order(worker, "raise")
    stage.began("a", 1)
    time.sleep(0.5)
    stage.done()


def roles(stage: Stage) -> None:
    """``--role`` with several workers on two nodes."""
    for name in "ab":
        stage.enter(name, nodes="2", workers=2, restarts=1, extra=("--role", "trainer"))
    stage.began("a", workers=2)
    worker, _ = stage.began("b", workers=2)
    stage.order(worker, "exit 3")
    stage.began("a", 1, workers=2)
    stage.began("b", 1, workers=2)
    time.sleep(0.5)
    stage.done()


def beats_fail(stage: Stage) -> None:
    """The second node's heartbeats fail for a while, and nothing else does."""
    fail = stage.directory / "no-beats"
    stage.enter("a", nodes="2", conf=SOON)
    stage.enter("b", nodes="2", conf=SOON, program="beats_fail.py", env={"BEATS_FAIL": str(fail)})
    stage.began("a")
    stage.began("b")
    fail.touch()
    stage.said("b", "has failed to send a keep-alive")
    fail.unlink()
    stage.done()


def twins(stage: Stage) -> None:
    """Two jobs on one node, with the same run id and the same spool directory."""
    spools = stage.directory / "node-spools"
    stage.enter("a", spools=spools)
    stage.enter("b", spools=spools, port=stage.other_port)
    stage.began("a")
    stage.began("b")
    time.sleep(0.5)
    stage.done()


def deaf(stage: Stage) -> None:
    """A worker ignores SIGTERM: torch kills it 30 s after its peer has failed."""
    stage.enter("a", workers=2, restarts=1, words=["deaf"])
    _, worker = stage.began("a", workers=2)
    stage.order(worker, "exit 3")
    stage.began("a", 1, workers=2)
    time.sleep(0.5)
    stage.done()


def ends_first(stage: Stage) -> None:
    """The second node comes last; it is done 2 s before the first, and waits in the exit barrier."""
    stage.enter("a", nodes="2", conf=SOON)
    stage.said("a", "added itself to the participants")
    stage.enter("b", nodes="2", conf=SOON)
    stage.began("a")
    (worker,) = stage.began("b")
    stage.order(worker, "done")
    time.sleep(2.0)
    stage.done()


def store_host_stopped(stage: Stage) -> None:
    """The agent that hosts the store is stopped for 4 s, and goes on."""
    stage.enter("a", nodes="2", conf=SOON)
    stage.enter("b", nodes="2", conf=SOON)
    stage.began("a")
    stage.began("b")
    time.sleep(0.5)
    os.kill(stage.cast["a"].pid, signal.SIGSTOP)
    time.sleep(4.0)
    os.kill(stage.cast["a"].pid, signal.SIGCONT)
    time.sleep(0.5)
    stage.done()
