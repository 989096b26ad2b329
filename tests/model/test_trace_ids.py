"""Ids that all agents of a run compute alike, and no two runs."""

from __future__ import annotations

import random

from torchelastic_otel.model.trace_ids import BRING_UP, ROOT, RUNNING, RoundIds, round_ids


def test_agents_with_an_agreed_nonce_compute_the_same_ids_and_their_own_spans() -> None:
    """A trace is job-wide without any context being handed around."""
    one, shared = round_ids("run", "n", 3, agreed=True, backend="c10d", agent_id="a")
    other, _ = round_ids("run", "n", 3, agreed=True, backend="c10d", agent_id="b")
    assert shared
    assert one == other
    assert one.span(RUNNING, "torchelastic.workers", "a") != other.span(RUNNING, "torchelastic.workers", "b")


def test_without_agreement_an_agent_has_traces_of_its_own() -> None:
    """Two nodes that each have their own view must not tell two halves of one trace."""
    one, shared = round_ids("run", "n", 3, agreed=False, backend="c10d", agent_id="a")
    other, _ = round_ids("run", "n", 3, agreed=False, backend="c10d", agent_id="b")
    assert not shared
    assert one.trace(RUNNING) != other.trace(RUNNING)


def test_under_static_only_the_first_round_is_everybodys() -> None:
    """Rank 0 "re-rendezvoused" in 2 ms and its peer noticed nothing: from then on each counts its own."""
    first = [round_ids("run", "n", 0, agreed=True, backend="static", agent_id=agent) for agent in "ab"]
    later = [round_ids("run", "n", 1, agreed=True, backend="static", agent_id=agent) for agent in "ab"]
    assert first[0] == first[1]
    assert first[0][1]
    assert later[0][0] != later[1][0]
    assert not later[0][1]


def test_every_run_round_trace_and_span_has_an_id_of_its_own() -> None:
    """Run ids repeat: torchrun's default is "none"."""
    made = [
        RoundIds((run, nonce), round_).trace(which)
        for run in ("none", "b")
        for nonce in ("1" * 32, "2" * 32)
        for round_ in (0, 1)
        for which in (BRING_UP, RUNNING)
    ]
    assert len(set(made)) == len(made) == 16
    ids = RoundIds(("none", "1" * 32), 0)
    spans = [
        ids.span(which, name, agent) for which in (BRING_UP, RUNNING) for name in (ROOT, "x") for agent in ("", "a")
    ]
    assert len(set(spans)) == len(spans) == 8


def test_ids_are_of_the_lengths_of_the_specification_and_stay_what_they_are() -> None:
    """Nodes of two versions of this package tell one trace: what is computed may never change."""
    ids = RoundIds(("rün\ud800", "0" * 32), 12)
    assert ids.trace(RUNNING) == "752b4177447ccb4894ff2f6634396a77"
    assert ids.span(BRING_UP, ROOT) == "6dbfc7f8b11fe1a6"


def test_no_random_number_is_drawn() -> None:
    """The job's own seed is none of our affair (promise 7)."""
    before = random.getstate()
    RoundIds(("run", "n"), 0).trace(RUNNING)
    assert random.getstate() == before
