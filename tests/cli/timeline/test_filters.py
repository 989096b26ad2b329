"""``--run``, ``--round``, ``--since`` and ``--node`` show a part of the history, and the text states which."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from tests.support.job_streams import EPOCH_NS, NONCE, AgentTape, at, clean_job, failing_job
from torchelastic_otel import semconv
from torchelastic_otel.cli.timeline.command import Selection, select
from torchelastic_otel.cli.timeline.json_report import json_report
from torchelastic_otel.cli.timeline.render import Page, PageFormat
from torchelastic_otel.cli.timeline.text import write_run
from torchelastic_otel.history.reducer import HistoryState, add, build_runs
from torchelastic_otel.history.types import Outcome, Run
from torchelastic_otel.model.phases import Phase

HOUR = 3_600


def run_of(agents: Sequence[AgentTape], living: Collection[str] = ()) -> Run:
    """Their one run."""
    [run] = build_runs(
        add(HistoryState(), [delivery for agent in agents for delivery in agent.deliveries]), alive=living
    )
    return run


def choose(
    run: Run,
    *,
    run_id: str | None = None,
    round_: int | None = None,
    since: float | None = None,
    node: str | None = None,
) -> list[Selection]:
    """What is left of the run; ``since`` is a second of the stream."""
    return select([run], run_id, round_, None if since is None else at(since), node)


def shown(choice: Selection) -> str:
    """The choice as text."""
    page = Page(PageFormat(utc=True))
    write_run(page, choice.run, choice.full_run)
    return page.text()


def block(text: str, head: str) -> str:
    """The paragraph of a text that begins so."""
    [found] = [part for part in text.split("\n\n") if part.strip().startswith(head)]
    return found


def in_three_rounds() -> Run:
    """A job of two nodes; a third one comes with round 1."""
    agents = [AgentTape(f"node-{name}") for name in "abc"]
    for number, size in ((0, 2), (1, 3), (2, 3)):
        for rank, agent in enumerate(agents[:size]):
            if number == 0 or (agent is agents[2] and number == 1):
                agent.start(number * 100)
            agent.bring_up(number * 100, number, rank, agents[:size])
            if agent is agents[2] and number == 1:
                agent.ours(102, semconv.RUN_IDENTIFIED, run_nonce=NONCE, inferred_from="store")
        for agent in agents[:size]:
            if number < 2:
                agent.enter(number * 100 + 98, Phase.STOP)
                agent.restart(number * 100 + 99, "membership_change")
    for agent in agents:
        agent.succeed(300)
    return run_of(agents)


# --- --run


@pytest.mark.parametrize(("asked", "found"), [("job", 1), (NONCE, 1), ("jo", 0), ("", 0)])
def test_a_run_is_named_by_its_id_or_its_nonce(asked: str, found: int) -> None:
    """Run ids repeat; a nonce does not."""
    assert len(choose(run_of(clean_job()), run_id=asked)) == found


# --- --since


def quiet() -> AgentTape:
    """An agent without an event since its workers began to train."""
    [agent] = agents = [AgentTape("node-a", backend="static")]
    agent.start(0)
    agent.bring_up(0, 0, 0, agents)
    return agent


def test_a_job_that_runs_now_was_going_on_however_long_it_is_quiet() -> None:
    """Hours of training have no event; a running job must not be excluded."""
    agent = quiet()
    run = run_of([agent], living={agent.origin.id})
    assert run.outcome == Outcome.RUNNING
    assert len(choose(run, since=10 * HOUR)) == 1


def test_a_job_whose_end_nobody_told_may_be_going_on() -> None:
    """Of a file that a Collector wrote nobody knows whether its agents live."""
    run = run_of([quiet()])
    assert run.outcome == Outcome.UNKNOWN
    assert len(choose(run, since=10 * HOUR)) == 1


def test_a_job_that_had_ended_before_is_left_out() -> None:
    """Also where only one of its nodes is here, as in each node's spool directory: all that is known of it is over."""
    whole, part = run_of(clean_job(2)), run_of(clean_job(2)[:1])
    assert (whole.outcome, part.outcome) == (Outcome.SUCCEEDED, Outcome.UNKNOWN)
    for run in (whole, part):
        assert len(choose(run, since=14)) == 1, "it ended at 14.5"
        assert choose(run, since=15) == []


def test_a_spare_that_outlives_its_job_does_not_keep_it() -> None:
    """It never took part."""
    spare = AgentTape("node-s")
    spare.start(1)
    spare.seek(1)
    spare.say(2, semconv.RENDEZVOUS_REDUNDANCY_LIST_ADDED, rendezvous_round=1)
    spare.ours(3, semconv.RUN_IDENTIFIED, run_nonce=NONCE, inferred_from="store")
    run = run_of([*clean_job(1), spare])
    assert (run.outcome, len(run.nodes)) == (Outcome.SUCCEEDED, 2)
    assert choose(run, since=15) == []


def test_a_job_without_times_is_not_held_for_over() -> None:
    """Torch's raw JSON has none: nobody can say that it was before."""
    [agent] = clean_job(1, nonce=None)
    agent.events = [replace(event, time_ns=None, observed_ns=0) for event in agent.events]
    run = run_of([agent])
    assert run.last_ns is None
    assert len(select([run], None, None, EPOCH_NS * 2, None)) == 1


# --- --round


def test_a_round_alone_is_told_no_shorter_than_among_all() -> None:
    """Who is new in it, too: that it is the only one shown does not make it the first."""
    run = in_three_rounds()
    whole = shown(Selection(run, run))
    for number in range(3):
        [choice] = choose(run, round_=number)
        assert block(shown(choice), f"round {number}") == block(whole, f"round {number}")
    assert "new        node 2 (node-c)" in block(whole, "round 1")


def test_a_round_in_between_is_told_in_full() -> None:
    """Among many it is a line; alone it has its rows."""
    [agent] = agents = [AgentTape("node-a")]
    agent.start(0)
    for number in range(9):
        agent.bring_up(number * 30, number, 0, agents)
        if number < 8:
            agent.fail(number * 30 + 20)
            agent.restart(number * 30 + 21, "worker_failure", number + 1)
    agent.succeed(300)
    run = run_of(agents)
    [choice] = choose(run, round_=4)
    assert "    failed     12:55:40.000" not in shown(Selection(run, run))
    assert "    failed     12:55:40.000" in shown(choice)


def test_the_head_and_the_doubts_of_a_round_alone_say_that_they_are_of_the_whole_run() -> None:
    """One round and one restart would be untrue of the run, and of the round."""
    run = replace(run_of(failing_job()), inferred=("this",), unknown=("that",))
    [choice] = choose(run, round_=1)
    lines = shown(choice).splitlines()
    assert lines[0].startswith("run job  succeeded  2 nodes  ")
    assert lines[1].startswith("  2 rounds, 1 restart")
    assert lines[3] == "  shown: 1 of 2 rounds; everything else is of the whole run"
    assert "  inferred, in the whole run" in lines
    assert "  unknown, in the whole run" in lines
    alone = json_report([choice.run])["runs"][0]
    assert [each["round"] for each in alone.pop("rounds")] == [1]
    every = json_report([run])["runs"][0]
    del every["rounds"]
    assert alone == every, "what the document says of the run is of the whole, too"


def test_nothing_is_said_of_a_part_where_all_is_shown() -> None:
    """``--round 0`` of a run with one round is the run."""
    [choice] = choose(run_of(clean_job(1)), round_=0)
    assert shown(choice) == shown(Selection(choice.full_run, choice.full_run))
    assert "shown:" not in shown(choice)


def test_a_round_that_is_not_there_leaves_no_run() -> None:
    """Its exit status is 1."""
    assert choose(run_of(clean_job(1)), round_=1) == []


# --- --node


def without_ids(agents: Sequence[AgentTape]) -> Sequence[AgentTape]:
    """Torch's static rendezvous gives nodes no id."""
    for rank, agent in enumerate(agents):
        del agent.standing[semconv.NODE_ID]
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
        agent.succeed(14)
    return agents


@pytest.mark.parametrize("node", ["1", "node-b"])
def test_a_node_without_an_id_is_found_by_its_rank_and_its_host(node: str) -> None:
    """Under ``static`` nodes have no id; the rank is what the logs say."""
    run = run_of(without_ids([AgentTape(f"node-{name}", backend="static", nonce=None) for name in "ab"]))
    assert {member.node_id for member in run.nodes} == {None}
    [choice] = choose(run, node=node)
    assert [member.host for member in choice.run.nodes] == ["node-b"]
    assert [agent.origin.host_name for agent in choice.run.agents] == ["node-b"]
    assert [[each.host for each in round_.nodes] for round_ in choice.run.rounds] == [["node-b"]]


@pytest.mark.parametrize(("node", "hosts"), [("node-b", ["node-b"]), ("node-b_106_0", ["node-b"]), ("0", ["node-a"])])
def test_a_node_is_found_by_its_host_its_id_and_its_rank(node: str, hosts: list[str]) -> None:
    """All three stand in the text; what failed first stays, wherever that was."""
    [choice] = choose(run_of(failing_job()), node=node)
    assert [member.host for member in choice.run.nodes] == hosts
    text = shown(choice)
    assert "\n  shown: 1 of 2 nodes; everything else is of the whole run\n" in text
    assert "failed     12:53:40.000 node 1 (node-b), rank 3" in text
    assert text.startswith("run job  succeeded  2 nodes  ")
    alone, every = (json_report([run])["runs"][0] for run in (choice.run, choice.full_run))
    assert {key for key in every if alone[key] != every[key]} == {"nodes", "rounds"}


def test_nodes_of_one_host_keep_their_names_when_one_is_shown() -> None:
    """The host alone does not identify it."""
    agents = [AgentTape("node-a") for _ in range(2)]
    for rank, agent in enumerate(agents):
        agent.node_id = agent.standing[semconv.NODE_ID] = f"node-a_{rank}_0"
        agent.origin = replace(agent.origin, id=f"origin-{rank}", pid=rank)
    for rank, agent in enumerate(agents):
        agent.start(0)
        agent.bring_up(0, 0, rank, agents)
        agent.succeed(14)
    [choice] = choose(run_of(agents), node="1")
    assert [member.node_id for member in choice.run.nodes] == ["node-a_1_0"]
    assert "joined     node 1 (node-a_1_0) 12:53:20.000" in shown(choice)


def test_a_node_that_is_not_there_leaves_no_run() -> None:
    """Its exit status is 1."""
    assert choose(run_of(clean_job(2)), node="node-7") == []
