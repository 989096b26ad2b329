"""Who is a victim: what failed after the first, and the workers that agents stopped for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.job_streams import AgentTape, at
from torchelastic_otel import semconv
from torchelastic_otel.history.reducer import HistoryState, add, build_runs
from torchelastic_otel.history.types import Run
from torchelastic_otel.model.phases import Phase


def run_of(*agents: AgentTape) -> Run:
    """The one run of these agents."""
    [run] = build_runs(add(HistoryState(), [delivery for agent in agents for delivery in agent.deliveries]))
    return run


def training(*names: str, workers: int = 2, **options: Any) -> list[AgentTape]:
    """Nodes that train from second 4 on."""
    agents = [AgentTape(f"node-{name}", workers=workers, **options) for name in names]
    for rank, agent in enumerate(agents):
        if agent.backend in ("static", "etcd"):
            del agent.standing[semconv.NODE_ID]
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    return agents


def exits(agent: AgentTape, second: float, local: int, signal: str | None, code: int, by: str = "pidfd") -> None:
    """A worker has ended."""
    rank = agent.standing[semconv.GROUP_RANK] * agent.workers + local
    agent.ours(
        second,
        semconv.WORKER_EXITED,
        worker_rank=rank,
        worker_local_rank=local,
        worker_pid=agent.pid + local,
        process_exit_code=code,
        worker_signal=signal,
        failure_time_error=0.25 if by == "poll" else 0.0,
        inferred_from=by,
    )


def test_the_workers_that_were_stopped_for_the_first_failure_are_its_victims() -> None:
    """On its own node and on all others; each says how its end is known, and who ended by itself is none of them."""
    first, second = training("a", "b")
    second.fail(20, local=1)
    exits(second, 20, 1, None, 1)
    exits(second, 20.6, 0, "SIGTERM", -15)
    second.restart(21, "worker_failure", 1)
    first.restart(22, "membership_change")
    exits(first, 22.5, 0, None, 0)
    exits(first, 52, 1, "SIGKILL", -9, "poll")
    for rank, agent in enumerate((first, second)):
        agent.bring_up(53, 1, rank, [first, second])
        agent.succeed(80)
    stopped, ended = run_of(first, second).rounds
    victims = [(v.kind, v.host, v.node_id, v.group_rank, v.rank, v.local_rank, v.pid) for v in stopped.victims]
    assert victims == [
        ("signal", "node-b", second.node_id, 1, 2, 0, 1010),
        ("signal", "node-a", first.node_id, 0, 1, 1, 1011),
    ]
    assert [(v.signal, v.exit_code, v.at_ns, v.error_ns, v.inferred_from) for v in stopped.victims] == [
        ("SIGTERM", -15, at(20.6), 0, "pidfd"),
        ("SIGKILL", -9, at(52), 250_000_000, "poll"),
    ]
    assert ended.victims == ()


@pytest.mark.parametrize(("signal", "code", "error_type"), [("SIGABRT", -6, "SIGABRT"), (None, 143, "exit")])
def test_a_worker_that_falls_while_it_is_stopped_is_a_victim(signal: str | None, code: int, error_type: str) -> None:
    """It has a handler of its own, or aborts because its peers are lost: no event is a failure from then on."""
    [agent] = training("a")
    agent.fail(20, local=0)
    exits(agent, 20.6, 1, signal, code)
    agent.restart(21, "worker_failure", 1)
    agent.bring_up(22, 1, 0, [agent])
    agent.succeed(40)
    [victim] = run_of(agent).rounds[0].victims
    assert (victim.rank, victim.signal, victim.exit_code, victim.error_type) == (1, signal, code, error_type)


def test_a_worker_that_torch_says_failed_since_it_was_stopped_is_a_victim_once() -> None:
    """From 2.13 on torch says FAILED of stopped workers at the end of a job; their exits are events as well."""
    [agent] = training("a")
    agent.fail(20, local=0)
    exits(agent, 20.6, 1, "SIGTERM", -15)
    agent.give_up(21, 0)
    [round_] = run_of(agent).rounds
    assert [(victim.rank, victim.signal) for victim in round_.victims] == [(1, "SIGTERM")]


def test_the_workers_that_a_lost_node_had_stopped_elsewhere_are_victims_of_its_loss() -> None:
    """No worker failed: the survivors stopped theirs because the node was lost."""
    first, second = training("a", "b", workers=1)
    first.lose(21, second, "2026-11-22T12:53:35.000Z", 1)
    first.restart(21, "membership_change")
    exits(first, 21.5, 0, "SIGTERM", -15)
    first.bring_up(22, 1, 0, [first])
    first.succeed(40)
    round_ = run_of(first, second).rounds[0]
    assert round_.first_failure is not None
    assert round_.first_failure.kind == "node_lost"
    assert [(victim.host, victim.rank, victim.signal) for victim in round_.victims] == [("node-a", 0, "SIGTERM")]


def test_where_nothing_failed_nobody_is_a_victim() -> None:
    """A node joins, and all workers are stopped for it; a node gets a signal to leave, and its own are."""
    joined, left = training("a", "b", workers=1)
    left.ours(20, semconv.AGENT_LEAVING, worker_signal="SIGTERM")
    left.enter(20, Phase.STOP)
    exits(left, 20.5, 0, "SIGTERM", -15)
    left.die(21, "terminated", "SignalException")
    joined.restart(21, "membership_change")
    exits(joined, 21.5, 0, "SIGTERM", -15)
    joined.bring_up(22, 1, 0, [joined])
    joined.agree(25.6, "node_left", cause={"node.id": left.node_id, "time": at(20)})
    joined.succeed(40)
    assert [round_.victims for round_ in run_of(joined, left).rounds] == [(), ()]


def test_a_worker_that_ended_before_its_agent_stopped_any_was_not_stopped_by_it() -> None:
    """It was killed from elsewhere, and its failure is in no event here."""
    [agent] = training("a")
    agent.fail(20, local=0)
    exits(agent, 20.1, 1, "SIGKILL", -9)
    agent.give_up(21, 0)
    agent.events = [event for event in agent.events if event.attributes.get(semconv.PROCESS_EXIT_CODE) != -15]
    [round_] = run_of(agent).rounds
    assert round_.victims == ()


@pytest.mark.parametrize("backend", ["static", "etcd"])
def test_hosts_tell_failures_apart_where_there_are_no_node_ids(backend: str) -> None:
    """In containers the same process ids come again on each host."""
    first, second = agents = training("a", "b", workers=1, backend=backend, nonce=None)
    second.fail(100, process_exit_code=3)
    first.fail(101, process_exit_code=4)
    for agent in agents:
        agent.give_up(102, 0)
    [round_] = run_of(*agents).rounds
    assert first.pid == second.pid
    assert round_.first_failure is not None
    assert (round_.first_failure.host, round_.first_failure.exit_code) == ("node-b", 3)
    assert [(victim.host, victim.exit_code) for victim in round_.victims] == [("node-a", 4)]


@pytest.mark.parametrize("failed", [0, 1])
def test_an_agreed_cause_is_filled_in_by_its_own_host(failed: int) -> None:
    """The traceback of another host's worker with the same process id would send the reader to the wrong line."""
    agents = training("a", "b", workers=1, backend="static")
    for number, agent in enumerate(agents):
        later = 0 if number == failed else 1
        agent.fail(20 + later, exception_type="ValueError", exception_message=f"of {agent.name}",
                   exception_stacktrace=f"Traceback of {agent.name}")  # fmt: skip
        agent.restart(22, "worker_failure", 1)
    cause = {"host": agents[failed].name, "group.rank": failed, "rank": failed, "pid": 1010, "time": at(20)}
    for rank, agent in enumerate(agents):
        agent.bring_up(22, 1, rank, agents)
        agent.agree(25.6, "worker_failure", cause=cause)
        phases = {"detect": 0.5 + rank, "stop": 1.0, "rendezvous": 2.0, "assign_ranks": 1.0, "start": 0.5}
        agent.completed(25.7, "worker_failure", phases, writer=rank == 0)
        agent.succeed(40)
    round_ = run_of(*agents).rounds[0]
    assert round_.first_failure is not None
    assert round_.first_failure.traceback == f"Traceback of {agents[failed].name}"
    assert [victim.host for victim in round_.victims] == [agents[1 - failed].name]
    assert round_.restart is not None
    assert round_.restart.phases["detect"] == (500_000_000, 1_500_000_000)[failed]


def test_a_cause_that_was_agreed_without_its_host_has_the_host_of_its_own_node() -> None:
    """Another version may have left it out; the node that tells of the same failure knows."""
    first, second = training("a", "b")
    second.fail(20, local=1)
    cause = {"node.id": second.node_id, "rank": 3, "pid": 1011, "time": at(20)}
    second.restart(21, "worker_failure", 1)
    first.restart(22, "membership_change")
    for rank, agent in enumerate((first, second)):
        agent.bring_up(23, 1, rank, [first, second])
        agent.agree(30, "worker_failure", cause=cause)
        agent.succeed(45)
    failed = run_of(first, second).rounds[0].first_failure
    assert failed is not None
    assert (failed.host, failed.rank, failed.exit_code) == ("node-b", 3, 1)


def test_a_round_below_zero_breaks_nothing() -> None:
    """No torch has one; a log that somebody rewrote may."""
    agent = AgentTape("node-a")
    agent.say(1, semconv.WORKER_STARTED, rendezvous_round=-1, worker_rank=0, worker_pid=1)
    agent.say(2, semconv.WORKER_FAILED, worker_rank=1, worker_pid=2, process_exit_code=1)
    assert run_of(agent).nodes[0].host == "node-a"


TIMED_OUT = "Timed out waiting 4000ms for recv operation to complete"


def times_out(agent: AgentTape, second: float, local: int) -> None:
    """A worker waited for another one in vain."""
    error: dict[str, Any] = dict.fromkeys(("exception_type", "error_type"), "RuntimeError")
    error["exception_message"] = TIMED_OUT
    agent.fail(second, local=local, **error)


def is_stopped(agent: AgentTape, second: float, local: int, *, in_collective: bool | None, function: str) -> None:
    """A worker is stopped; its stack shows where it was."""
    rank = agent.standing[semconv.GROUP_RANK] * agent.workers + local
    agent.ours(
        second,
        semconv.WORKER_EXITED,
        worker_rank=rank,
        worker_local_rank=local,
        worker_pid=agent.pid + local,
        process_exit_code=-15,
        worker_signal="SIGTERM",
        inferred_from="pidfd",
        code_function_name=function,
        code_file_path="/job/train.py",
        code_line_number=7,
        worker_in_collective=in_collective,
    )


def test_of_a_hang_the_ranks_that_did_not_come_are_the_cause() -> None:
    """They have not failed; the ranks that timed out have, on another node."""
    first, second = training("a", "b")
    times_out(first, 20, 0)
    times_out(first, 20.1, 1)
    is_stopped(second, 21, 0, in_collective=False, function="load_batch")
    is_stopped(second, 21, 1, in_collective=True, function="train_step")
    for agent in (first, second):
        agent.enter(22, Phase.ENDED, agent_outcome="failed")
    [round_] = run_of(first, second).rounds
    cause = round_.first_failure
    assert cause is not None
    assert (cause.kind, cause.host, cause.rank, cause.ambiguous) == ("hang", "node-b", 2, False)
    assert (cause.place, cause.evidence) == ("load_batch (train.py:7)", "stack_at_stop")
    assert cause.culprits == ("rank 2 on node-b in load_batch (train.py:7)",)
    assert sorted(victim.rank or 0 for victim in round_.victims) == [0, 1, 3]


@pytest.mark.parametrize("in_collective", [True, None])
def test_if_all_waited_nobody_is_named_for_certain(in_collective: bool | None) -> None:
    """All were inside a collective, or no stack is known: the network, or a cause that left no trace."""
    first, second = training("a", "b", workers=1)
    times_out(first, 20, 0)
    is_stopped(second, 21, 0, in_collective=in_collective, function="train_step")
    for agent in (first, second):
        agent.enter(22, Phase.ENDED, agent_outcome="failed")
    cause = run_of(first, second).rounds[0].first_failure
    assert cause is not None
    assert (cause.rank, cause.evidence, cause.ambiguous) == (0, "all_waited", True)


def test_a_failure_of_its_own_goes_before_earlier_ones_that_waited() -> None:
    """The rank that timed out is often the first to end."""
    first, second = training("a", "b", workers=1)
    times_out(first, 20, 0)
    second.fail(25, local=0)
    for agent in (first, second):
        agent.enter(26, Phase.ENDED, agent_outcome="failed")
    cause = run_of(first, second).rounds[0].first_failure
    assert cause is not None
    assert (cause.rank, cause.evidence, cause.ambiguous) == (1, "others_waited", False)


def test_all_culprits_of_a_hang_are_named_and_none_is_a_victim() -> None:
    """Each agent reports its own, if it could decide alone."""
    first, second = training("a", "b")
    times_out(first, 20, 0)
    hang = {"failure_kind": "hang", "error_type": "hang", "process_exit_code": -15, "worker_signal": "SIGTERM"}
    first.fall(21, 1, **hang)
    is_stopped(second, 21, 0, in_collective=False, function="load_batch")
    is_stopped(second, 21, 1, in_collective=True, function="train_step")
    for agent in (first, second):
        agent.enter(22, Phase.ENDED, agent_outcome="failed")
    [round_] = run_of(first, second).rounds
    cause = round_.first_failure
    assert cause is not None
    assert (cause.kind, cause.rank) == ("hang", 1)
    assert cause.culprits == ("rank 1 on node-a", "rank 2 on node-b in load_batch (train.py:7)")
    assert sorted(victim.rank or 0 for victim in round_.victims) == [0, 3]
