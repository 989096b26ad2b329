"""Each row of the text that a plain run does not have: what must have happened for it, and what it says then."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.job_streams import NONCE, AgentTape, clean_job, failing_job
from torchelastic_otel import semconv
from torchelastic_otel.cli import main
from torchelastic_otel.cli.timeline.render import Page, PageFormat
from torchelastic_otel.cli.timeline.text import write_run
from torchelastic_otel.history.reducer import HistoryState, add, build_runs
from torchelastic_otel.model.phases import Phase


def rows(agents: Sequence[AgentTape], exited: Collection[str] = ()) -> list[str]:
    """The lines of their one run, without the spaces before them."""
    events = [delivery for agent in agents for delivery in agent.deliveries]
    [run] = build_runs(add(HistoryState(), events), exited=exited)
    page = Page(PageFormat(utc=True))
    write_run(page, run)
    return [line.strip() for line in page.text().splitlines()]


def two(**options: Any) -> list[AgentTape]:
    """Two nodes that train from second 4 on."""
    agents = [AgentTape(f"node-{name}", **options) for name in "ab"]
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
    return agents


def test_who_was_waited_for_and_that_the_round_never_formed() -> None:
    """The question of the person on call at night: whom are we waiting for?"""
    first, second = two()
    first.fail(20)
    first.restart(21, "worker_failure", 1)
    first.lack(60, 3, second, 1)
    first.die(82, "error", "RendezvousTimeoutError")
    lines = rows([first])
    assert "round 1  failed  never formed  12:53:42.000 to 12:54:42.000 (1 min 00 s)" in lines
    assert f"missing    3 nodes: {second.node_id}, last rank 1 and 2 more" in lines


def test_how_many_were_missing_where_nobody_knows_who() -> None:
    """In the first rendezvous nobody was there before."""
    agent = AgentTape("node-a")
    agent.start(0)
    agent.seek(0)
    agent.say(0, semconv.RENDEZVOUS_PARTICIPANT_ADDED, rendezvous_round=0)
    agent.ours(10, semconv.RENDEZVOUS_WAITING, rendezvous_participants=(agent.node_id,), rendezvous_missing=3,
               rendezvous_waited=10.0)  # fmt: skip
    agent.die(60, "error", "RendezvousTimeoutError")
    assert "missing    3 nodes: which ones is not known" in rows([agent])


def test_who_is_new_in_a_round() -> None:
    """A node that joins interrupts all others."""
    first, second = (AgentTape(f"node-{name}") for name in "ab")
    first.start(0)
    first.bring_up(0, 0, 0, [first])
    first.enter(20, Phase.STOP)
    first.restart(21, "membership_change")
    second.start(19)
    for rank, agent in enumerate((first, second)):
        agent.bring_up(22, 1, rank, [first, second])
    second.ours(24, semconv.RUN_IDENTIFIED, run_nonce=NONCE, inferred_from="store")
    for agent in (first, second):
        agent.succeed(40)
    lines = rows([first, second])
    assert lines.count("new        node 1 (node-b)") == 1
    assert not [line for line in lines[: lines.index("new        node 1 (node-b)")] if line.startswith("new")]


def with_spares(count: int, *, promoted: bool) -> list[AgentTape]:
    """A node that restarts once, and spares that stand by from second 2 on."""
    first, spares = AgentTape("node-a"), [AgentTape(f"node-{number}") for number in range(count)]
    world = [first, *spares] if promoted else [first]
    first.start(0)
    first.bring_up(0, 0, 0, [first])
    first.fail(20)
    first.restart(21, "worker_failure", 1)
    first.bring_up(22, 1, 0, world)
    for rank, spare in enumerate(spares, 1):
        spare.start(1)
        spare.seek(1)
        spare.say(2, semconv.RENDEZVOUS_REDUNDANCY_LIST_ADDED, rendezvous_round=1)
        spare.ours(3, semconv.RUN_IDENTIFIED, run_nonce=NONCE, inferred_from="store")
        if promoted:
            spare.join(24, 1, rank, world, arrived=23)
            spare.run(25.5, trained=26)
    for agent in world:
        agent.succeed(40)
    return [first, *spares]


def test_who_stood_by_and_was_promoted() -> None:
    """Who pays for a spare wants to know whether it was needed."""
    assert "standby: node-0 from 12:53:22, promoted in round 1" in [
        line.replace("22.000", "22") for line in rows(with_spares(1, promoted=True))
    ]
    lines = rows(with_spares(6, promoted=True))
    assert len([line for line in lines if line.startswith("standby: node-")]) == 4
    assert "and 2 more on standby, later promoted" in lines


def test_who_stood_by_for_nothing() -> None:
    """Named up to four; more are counted."""
    lines = rows(with_spares(6, promoted=False))
    assert "standby, in no round: node-0, node-1, node-2, node-3 ...: 6 unknown" in lines


def test_a_restart_that_was_not_agreed_on_says_whose_word_it_is() -> None:
    """Each node sees a part: a peer's failure looks like a change of membership."""
    first, second = failing_job(agreed=False)
    [row] = [line for line in rows([first, second]) if line.startswith("restart")]
    assert row.startswith("restart    1: worker_failure (inferred)")
    [row] = [line for line in rows(failing_job()) if line.startswith("restart")]
    assert row.startswith("restart    1: worker_failure in 5.500 s: detect 0.500 s,")


def test_a_failure_that_another_may_have_preceded_says_so() -> None:
    """Half a second between two polls cannot be distinguished."""
    first, second = agents = two()
    first.fail(20.4, error=0.5)
    second.fail(20.1)
    for agent in agents:
        agent.give_up(25, 0)
    assert [line for line in rows(agents) if line.startswith("failed ")] == [
        "failed     12:53:40.100 node 1 (node-b), rank 1 (local rank 0, pid 1010): exit code 1"
        " [another may have been first]"
    ]


def test_a_lost_node_was_last_heard_of_at_that_time() -> None:
    """When it died nobody knows."""
    first, second = agents = two()
    second.beat(15)
    first.fail(16)
    first.lose(21, second, "2026-11-22T12:53:35.000Z", 1)
    first.restart(17, "worker_failure", 1)
    first.bring_up(22, 1, 0, [first])
    first.succeed(40)
    assert "failed     12:53:35.000 node 1 (node-b): the node was lost; last heard of at that time" in rows(agents)


def test_time_that_nobody_told_of_is_a_part_of_the_whole() -> None:
    """The parts of the time add up to the run's; a stream with a gap has a part that nobody knows."""
    [agent] = clean_job(1)
    [whole] = [line for line in rows([agent]) if line.startswith("time:")]
    assert "not reported" not in whole
    late = AgentTape("node-a")
    late.start(0)
    late.bring_up(100, 0, 0, [late])
    late.succeed(200)
    [row] = [line for line in rows([late]) if line.startswith("time:")]
    assert row.endswith(", not reported 1 min 40 s")


def test_a_run_without_any_phase_has_no_time_that_is_told() -> None:
    """Torch 1.13 tells of none; nothing is not zero."""
    agent = AgentTape("node-a", nonce=None)
    agent.start(0)
    agent.say(1, semconv.RENDEZVOUS_JOIN_ATTEMPTED)
    assert "time: not reported" in rows([agent])


def test_of_nodes_that_came_to_no_round_four_are_told_and_the_rest_is_counted() -> None:
    """Who is left out silently looks as if he had not been there."""
    agents = []
    for number in range(7):
        agent = AgentTape(f"node-{number}")
        agent.start(0)
        agent.ours(1, semconv.RUN_IDENTIFIED, run_nonce=NONCE, inferred_from="store")
        agents.append(agent)
    lines = rows(agents)
    assert [line for line in lines if line.endswith(" unknown")] == [
        *(f"node-{number} unknown" for number in range(4)),
        "and 3 more: 3 unknown",
    ]
    assert not [line for line in rows(agents[:4]) if line.startswith("and ")]


def test_a_hostile_run_id_cannot_steer_the_terminal_from_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is printed there when no run matches the options."""
    event = {
        "name": "torchelastic.worker.status.SUCCEEDED",
        "source": "AGENT",
        "metadata": {"run_id": "\x1b]0;owned\x07", "hostname": "a", "state": "SUCCEEDED"},
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(event))
    assert main(["timeline", "--run", "other", str(path)]) == 1
    message = capsys.readouterr().err
    assert message == "torchelastic-otel timeline: no run matches the options; there are \\x1b]0;owned\\x07\n"
