"""The script of each scenario.

Guarantees: a script waits for events, and for time only if time is its subject; it leaves no agent waiting for ever.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from tests.live.scenarios.cluster import Cluster

FAST = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=1"
"""A lost node is noticed after 3 s; before torch 2.8 after 15 s."""
BOTH = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=5"
"""The same, and the first of two nodes waits for the other one, which may join late."""
SLOW = "keep_alive_interval=1,keep_alive_max_attempt=6,last_call_timeout=5"
"""The same, and time to act before a lost node is noticed."""
SOON = "last_call_timeout=1"
PATIENT = "last_call_timeout=5"
"""A round waits for more nodes than it needs, for longer than one interval of torch's monitoring, which is a second."""
ODD_RUN_ID = 'größe 7:"x"'  # without a slash: torch names a directory after the id


def clean(names: str) -> Callable[[Cluster], None]:
    """All end well, after a moment."""

    def script(cluster: Cluster) -> None:
        for name in names:
            cluster.start_agent(name, nnodes=str(len(names)), words=["training"])
        for name in names:
            cluster.wait_for_workers(name)
        time.sleep(0.5)
        cluster.finish()

    return script


def fails(what: str) -> Callable[[Cluster], None]:
    """The worker on the second node fails; all start again and end well."""

    def script(cluster: Cluster) -> None:
        for name in "ab":
            cluster.start_agent(name, nnodes="2", restarts=2)
        cluster.wait_for_workers("a")
        (worker,) = cluster.wait_for_workers("b")
        if what == "SIGKILL":
            cluster.signal_worker(worker, signal.SIGKILL)
        else:
            cluster.command(worker, what)
        cluster.wait_for_workers("a", 1)
        cluster.wait_for_workers("b", 1)
        time.sleep(0.5)
        cluster.finish()

    return script


def alone_raises(cluster: Cluster) -> None:
    """One of two workers of the only node raises; the other has to be stopped, which takes it 0.7 s."""
    cluster.start_agent("a", workers=2, restarts=1, words=["slow"])
    _, worker = cluster.wait_for_workers("a", workers=2)
    cluster.command(worker, "raise")
    cluster.wait_for_workers("a", 1, workers=2)
    time.sleep(0.5)
    cluster.finish()


def two_fail(cluster: Cluster) -> None:
    """Workers on two nodes fail, 300 ms apart: between two of torch's polls."""
    for name in "ab":
        cluster.start_agent(name, nnodes="2", restarts=2, extra=("--monitor-interval", "5"))
    (one,), (other,) = cluster.wait_for_workers("a"), cluster.wait_for_workers("b")
    cluster.command_in_sequence((other, "exit 3"), (one, "abort"), apart_s=0.3)
    cluster.wait_for_workers("a", 1)
    cluster.wait_for_workers("b", 1)
    time.sleep(0.5)
    cluster.finish()


def two_fail_on_one(cluster: Cluster) -> None:
    """Two workers of one node fail, 300 ms apart: between two of torch's polls."""
    cluster.start_agent("a", workers=3, restarts=1, extra=("--monitor-interval", "5"))
    one, two, _ = cluster.wait_for_workers("a", workers=3)
    cluster.command_in_sequence((two, "exit 3"), (one, "abort"), apart_s=0.3)
    cluster.wait_for_workers("a", 1, workers=3)
    time.sleep(0.5)
    cluster.finish()


def hangs(cluster: Cluster) -> None:
    """A worker hangs until it is stopped, which takes it a moment: its peer on the other node has failed."""
    for name in "ab":
        cluster.start_agent(name, nnodes="2", restarts=1, words=["slow"] if name == "a" else [])
    cluster.wait_for_workers("a")
    (worker,) = cluster.wait_for_workers("b")
    cluster.command(worker, "exit 3")
    cluster.wait_for_workers("a", 1)
    cluster.wait_for_workers("b", 1)
    time.sleep(0.5)
    cluster.finish()


def exhausted(cluster: Cluster) -> None:
    """A worker fails in every round, until no restart is left; its peer cannot continue alone."""
    for name in "ab":
        cluster.start_agent(name, nnodes="2", restarts=1)
    for start in range(2):
        cluster.wait_for_workers("a", start)
        (worker,) = cluster.wait_for_workers("b", start)
        cluster.command(worker, "exit 3")
    assert cluster.nodes["b"].wait() == 1
    # torch does not stop the peer: its broken collective does
    (worker,) = cluster.wait_for_workers("a", 1)
    cluster.command(worker, "exit 3")


def exhausted_alone(cluster: Cluster) -> None:
    """The same on one node, with two workers."""
    cluster.start_agent("a", workers=2, restarts=1)
    for start in range(2):
        _, worker = cluster.wait_for_workers("a", start, workers=2)
        cluster.command(worker, "raise")


def agent_ends(number: int) -> Callable[[Cluster], None]:
    """The second node's agent gets a signal; the first node's worker fails a moment later."""

    def script(cluster: Cluster) -> None:
        for name in "ab":
            cluster.start_agent(name, nnodes="1:2", conf=BOTH, restarts=1, gated=True)
        cluster.open_gate()
        (worker,) = cluster.wait_for_workers("a")
        cluster.wait_for_workers("b")
        cluster.wait_for_round("a", "b")
        cluster.signal_agent("b", number)
        cluster.nodes["b"].wait()
        # torch does not restart the others for a lost node: their broken collective does
        time.sleep(0.2)
        cluster.command(worker, "exit 3")
        cluster.wait_for_workers("a", 1)
        time.sleep(0.5)
        cluster.finish()

    return script


def comes_back(cluster: Cluster) -> None:
    """The second node's agent is killed and started again, as Kubernetes does: that is another agent."""
    for name in "ab":
        cluster.start_agent(name, nnodes="2", conf=FAST, restarts=1)
    (worker,) = cluster.wait_for_workers("a")
    cluster.wait_for_workers("b")
    cluster.wait_for_round("a", "b")
    cluster.signal_agent("b", signal.SIGKILL)
    time.sleep(0.2)
    cluster.command(worker, "exit 3")
    cluster.wait_for_torch_event("a", "attempts to join", times=2)
    cluster.start_agent("c", nnodes="2", conf=FAST, restarts=1)
    cluster.wait_for_workers("a", 1)
    cluster.wait_for_workers("c")
    time.sleep(0.5)
    cluster.finish()


def fails_twice(cluster: Cluster) -> None:
    """Three nodes; a worker of the third fails, then one of the second; the run id has a space, quotes and umlauts."""
    for name in "abc":
        cluster.start_agent(name, nnodes="3", restarts=3, run_id=ODD_RUN_ID)
    for start, (name, what) in enumerate((("c", "raise"), ("b", "abort"))):
        workers = {each: cluster.wait_for_workers(each, start)[0] for each in "abc"}
        cluster.command(workers[name], what)
    for name in "abc":
        cluster.wait_for_workers(name, 2)
    time.sleep(0.5)
    cluster.finish()


def terminated_while_it_waits(cluster: Cluster) -> None:
    """SIGTERM in the first rendezvous: torch records nothing and ends by the signal."""
    cluster.start_agent("a", nnodes="2", conf=SOON)
    cluster.wait_for_torch_event("a", "added itself to the participants")
    # only what is on disk survives: the spool is opened while the agent starts
    cluster.nodes["a"].wait_until_stored()
    cluster.signal_agent("a", signal.SIGTERM)


def joins(cluster: Cluster) -> None:
    """A second node joins while the first one trains."""
    cluster.start_agent("a", nnodes="1:2", conf=PATIENT, restarts=1)
    cluster.wait_for_workers("a")
    cluster.start_agent("b", nnodes="1:2", conf=PATIENT, restarts=1)
    cluster.wait_for_workers("a", 1)
    cluster.wait_for_workers("b")
    time.sleep(0.5)
    cluster.finish()


def flaps(cluster: Cluster) -> None:
    """A second node joins, gets SIGTERM, and another one joins in its place."""
    cluster.start_agent("a", nnodes="1:2", conf=BOTH, restarts=1)
    cluster.wait_for_workers("a")
    cluster.start_agent("b", nnodes="1:2", conf=BOTH, restarts=1)
    (worker,) = cluster.wait_for_workers("a", 1)
    cluster.wait_for_workers("b")
    cluster.wait_for_round("a", "b", round_=1)
    cluster.signal_agent("b", signal.SIGTERM)
    cluster.nodes["b"].wait()
    cluster.command(worker, "exit 3")
    cluster.wait_for_workers("a", 2)
    cluster.start_agent("c", nnodes="1:2", conf=BOTH, restarts=1)
    cluster.wait_for_workers("a", 3)
    cluster.wait_for_workers("c")
    time.sleep(0.5)
    cluster.finish()


def promoted(cluster: Cluster) -> None:
    """A third node is redundant; when the second one gets SIGTERM, it replaces it."""
    for name in "ab":
        cluster.start_agent(name, nnodes="1:2", conf=SLOW, restarts=1, gated=True)
    cluster.open_gate()
    (worker,) = cluster.wait_for_workers("a")
    cluster.wait_for_workers("b")
    cluster.wait_for_round("a", "b")
    cluster.start_agent("c", nnodes="1:2", conf=SLOW, restarts=1)
    cluster.wait_for_torch_event("c", "attempts to join")
    time.sleep(2.5)  # it is redundant: on the redundancy list, if this torch has one
    cluster.signal_agent("b", signal.SIGTERM)
    # before c is admitted, which happens once b's heartbeats are missed
    cluster.wait_for_torch_event("b", "status.FAILED")
    time.sleep(0.2)
    cluster.command(worker, "exit 3")
    cluster.wait_for_workers("c")
    cluster.wait_for_workers("a", 1)
    time.sleep(0.5)
    cluster.finish()


def times_out(cluster: Cluster) -> None:
    """Two of three nodes join and wait in vain; that is reported after 5 s and after 10 s."""
    for name in "ab":
        cluster.start_agent(name, nnodes="3", conf="join_timeout=14", gated=True)
    cluster.open_gate()


def store_host_lost(cluster: Cluster) -> None:
    """The node that hosts the store is killed: the others cannot continue."""
    cluster.start_agent("a", nnodes="2", conf=SOON)
    cluster.start_agent("b", nnodes="2", conf=SOON)
    cluster.wait_for_workers("a")
    cluster.wait_for_workers("b")
    cluster.wait_for_round("a", "b")
    cluster.signal_agent("a", signal.SIGKILL)


def store_unreachable(cluster: Cluster) -> None:
    """No agent hosts the store."""
    cluster.start_agent("a", nnodes="1", conf="is_host=0,read_timeout=2")


def static_of(cluster: Cluster, rank: int) -> tuple[str, ...]:
    """Arguments of the static rendezvous."""
    return ("--node-rank", str(rank), "--master-addr", "127.0.0.1", "--master-port", str(cluster.port))


def static(cluster: Cluster) -> None:
    """The static rendezvous, two nodes that end well."""
    for rank, name in enumerate("ab"):
        cluster.start_agent(name, nnodes="2", backend=static_of(cluster, rank), words=["training"])
    cluster.wait_for_workers("a")
    cluster.wait_for_workers("b")
    time.sleep(0.7)
    cluster.finish()


def static_fails(cluster: Cluster) -> None:
    """The static rendezvous, one node: its worker fails, and starts again."""
    cluster.start_agent("a", nnodes="1", restarts=1, backend=static_of(cluster, 0))
    (worker,) = cluster.wait_for_workers("a")
    cluster.command(worker, "exit 3")
    cluster.wait_for_workers("a", 1)
    time.sleep(0.5)
    cluster.finish()


def static_fails_for_good(cluster: Cluster) -> None:
    """The static rendezvous, two nodes: a worker of the second fails, and the broken collective ends the first's."""
    for rank, name in enumerate("ab"):
        cluster.start_agent(name, nnodes="2", backend=static_of(cluster, rank))
    (one,), (other,) = cluster.wait_for_workers("a"), cluster.wait_for_workers("b")
    cluster.command(other, "raise")
    assert cluster.nodes["b"].wait() == 1
    cluster.command(one, "exit 3")


def standalone(cluster: Cluster) -> None:
    """``--standalone``; its worker raises once."""
    cluster.start_agent("a", restarts=1, backend=("--standalone",))
    (worker,) = cluster.wait_for_workers("a")
    cluster.command(worker, "raise")
    cluster.wait_for_workers("a", 1)
    time.sleep(0.5)
    cluster.finish()


def roles(cluster: Cluster) -> None:
    """``--role`` with several workers on two nodes."""
    for name in "ab":
        cluster.start_agent(name, nnodes="2", workers=2, restarts=1, extra=("--role", "trainer"))
    cluster.wait_for_workers("a", workers=2)
    worker, _ = cluster.wait_for_workers("b", workers=2)
    cluster.command(worker, "exit 3")
    cluster.wait_for_workers("a", 1, workers=2)
    cluster.wait_for_workers("b", 1, workers=2)
    time.sleep(0.5)
    cluster.finish()


def heartbeats_fail(cluster: Cluster) -> None:
    """The second node's heartbeats fail for a while, and nothing else does."""
    fail = cluster.directory / "no-beats"
    cluster.start_agent("a", nnodes="2", conf=SOON)
    cluster.start_agent("b", nnodes="2", conf=SOON, program="heartbeats_fail.py", env={"BEATS_FAIL": str(fail)})
    cluster.wait_for_workers("a")
    cluster.wait_for_workers("b")
    fail.touch()
    cluster.wait_for_torch_event("b", "has failed to send a keep-alive")
    fail.unlink()
    cluster.finish()


def twins(cluster: Cluster) -> None:
    """Two jobs on one node, with the same run id and the same spool directory."""
    spools = cluster.directory / "node-spools"
    cluster.start_agent("a", spools=spools)
    cluster.start_agent("b", spools=spools, port=cluster.other_port)
    cluster.wait_for_workers("a")
    cluster.wait_for_workers("b")
    time.sleep(0.5)
    cluster.finish()


def deaf(cluster: Cluster) -> None:
    """A worker ignores SIGTERM: torch kills it 30 s after its peer has failed."""
    cluster.start_agent("a", workers=2, restarts=1, words=["deaf"])
    _, worker = cluster.wait_for_workers("a", workers=2)
    cluster.command(worker, "exit 3")
    cluster.wait_for_workers("a", 1, workers=2)
    time.sleep(0.5)
    cluster.finish()


def ends_first(cluster: Cluster) -> None:
    """The second node joins last; it ends 2 s before the first, and waits in the exit barrier."""
    cluster.start_agent("a", nnodes="2", conf=SOON)
    cluster.wait_for_torch_event("a", "added itself to the participants")
    cluster.start_agent("b", nnodes="2", conf=SOON)
    cluster.wait_for_workers("a")
    (worker,) = cluster.wait_for_workers("b")
    cluster.command(worker, "done")
    time.sleep(2.0)
    cluster.finish()


def store_host_stopped(cluster: Cluster) -> None:
    """The agent that hosts the store is stopped for 4 s and continues."""
    cluster.start_agent("a", nnodes="2", conf=SOON)
    cluster.start_agent("b", nnodes="2", conf=SOON)
    cluster.wait_for_workers("a")
    cluster.wait_for_workers("b")
    time.sleep(0.5)
    os.kill(cluster.nodes["a"].pid, signal.SIGSTOP)
    time.sleep(4.0)
    os.kill(cluster.nodes["a"].pid, signal.SIGCONT)
    time.sleep(0.5)
    cluster.finish()
