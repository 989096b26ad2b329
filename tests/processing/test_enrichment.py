"""What an agent last knew goes onto all of its events."""

from __future__ import annotations

import json
from dataclasses import replace

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.processing.enrichment import AgentContext, enrich

KNOWN = (semconv.RENDEZVOUS_ROUND, semconv.GROUP_RANK, semconv.GROUP_WORLD_SIZE, semconv.RESTART_COUNT)


def event(name: str, **attributes: object) -> ElasticEvent:
    """An event of that name with attributes by the last parts of their names."""
    names = {
        "round": semconv.RENDEZVOUS_ROUND,
        "rank": semconv.GROUP_RANK,
        "size": semconv.GROUP_WORLD_SIZE,
        "restarts": semconv.RESTART_COUNT,
        "intent": semconv.RENDEZVOUS_INTENT,
        "run": semconv.RUN_ID,
        "backend": semconv.RENDEZVOUS_BACKEND,
    }
    return ElasticEvent(name, "null", "", 1, 1, attributes={names[key]: value for key, value in attributes.items()})  # type: ignore[misc]


def fold(*events: ElasticEvent) -> tuple[AgentContext, list[ElasticEvent]]:
    """All events enriched, in order."""
    standing, told = AgentContext(restart_count=0), []
    for each in events:
        standing, enriched = enrich(standing, each)
        told.append(enriched)
    return standing, told


def test_once_joined_every_event_carries_round_rank_world_size_and_restart_count() -> None:
    """Torch sets the rank on one event in ten."""
    _, told = fold(
        event(semconv.RENDEZVOUS_JOINED, round=2, rank=1, size=4),
        event(semconv.RENDEZVOUS_KEEP_ALIVE_SENT),
        event(semconv.RENDEZVOUS_CLOSED),
    )
    for each in told:
        assert [each.attributes[name] for name in KNOWN] == [2, 1, 4, 0]


def test_agent_events_carry_the_rounds_true_rank_and_not_the_last_ones() -> None:
    """Trap 1: RENDEZVOUS and ASSIGN_WORKER_RANKS are constructed before the worker group is updated."""
    _, told = fold(
        event(semconv.RENDEZVOUS_JOINED, round=0, rank=0, size=2),
        event(semconv.RENDEZVOUS_JOINED, round=1, rank=1, size=3),
        event(semconv.AGENT_RENDEZVOUS_FINISHED, rank=0, size=2, restarts=1),
        event(semconv.AGENT_RANKS_ASSIGNED, rank=0, size=2, restarts=1),
    )
    for each in told[2:]:
        assert [each.attributes[name] for name in KNOWN] == [1, 1, 3, 1]


def test_a_later_worker_event_corrects_what_was_known() -> None:
    """Static rendezvous records no rendezvous events: rank and world size come with the first worker's start."""
    _, told = fold(
        event(semconv.AGENT_RENDEZVOUS_FINISHED, backend="static"),
        event(semconv.WORKER_STARTED, rank=1, size=2, backend="static"),
        event(semconv.AGENT_RENDEZVOUS_FINISHED, rank=1, size=2, backend="static", restarts=1),
    )
    assert semconv.GROUP_RANK not in told[0].attributes
    assert [each.attributes[semconv.RENDEZVOUS_ROUND] for each in told] == [0, 0, 1]
    assert told[2].attributes[semconv.GROUP_RANK] == 1


def test_a_synced_intent_is_committed_and_a_stale_one_rolled_back() -> None:
    """What ends in "Pending sync." is an intent: the compare-and-set that follows decides."""
    standing, told = fold(
        event(semconv.RENDEZVOUS_JOINED, round=0, rank=0, size=1, intent=False),
        event(semconv.RENDEZVOUS_PARTICIPANT_ADDED, round=1, intent=True),
        event(semconv.RENDEZVOUS_KEEP_ALIVE_UPDATED, intent=True),
        event(semconv.RENDEZVOUS_STATE_STALE, intent=False),
        event(semconv.RENDEZVOUS_PARTICIPANT_ADDED, round=2, intent=True),
        event(semconv.RENDEZVOUS_STATE_SYNCED, intent=False),
    )
    assert told[3].attributes[semconv.RENDEZVOUS_ROLLED_BACK] == (
        semconv.RENDEZVOUS_PARTICIPANT_ADDED,
        semconv.RENDEZVOUS_KEEP_ALIVE_UPDATED,
    )
    assert told[3].attributes[semconv.RENDEZVOUS_ROUND] == 0
    assert told[5].attributes[semconv.RENDEZVOUS_COMMITTED] == (semconv.RENDEZVOUS_PARTICIPANT_ADDED,)
    assert (standing.round, standing.intents) == (2, ())


def test_another_run_in_the_same_process_starts_from_nothing() -> None:
    """A notebook launches one job after another."""
    _, told = fold(
        event(semconv.RENDEZVOUS_JOINED, round=7, rank=3, size=4, restarts=2, run="a"),
        event(semconv.RENDEZVOUS_JOIN_ATTEMPTED, run="b"),
    )
    assert semconv.RENDEZVOUS_ROUND not in told[1].attributes
    assert told[1].attributes[semconv.RESTART_COUNT] == 0


def test_enriched_events_survive_the_spool_unchanged() -> None:
    """What is kept is what is told (lists come back as tuples)."""
    _, told = fold(event(semconv.RENDEZVOUS_KEEP_ALIVE_UPDATED, intent=True), event(semconv.RENDEZVOUS_STATE_SYNCED))
    assert ElasticEvent.from_json(told[1].to_json()) == told[1]
    assert json.loads(told[1].to_json())[0] == semconv.RENDEZVOUS_STATE_SYNCED


def phase(name: str, **attributes: object) -> ElasticEvent:
    """The agent enters a phase, as our hooks say it."""
    entered = event(semconv.AGENT_PHASE_ENTERED, **attributes)
    return replace(entered, attributes={**entered.attributes, semconv.PHASE: name, semconv.INFERRED: True})


def known(told: ElasticEvent) -> list[object]:
    """Round, rank, world size and restart count of an event; ``None`` for what it does not say."""
    return [told.attributes.get(name) for name in KNOWN]


def test_in_the_rendezvous_nothing_of_the_round_before_is_told() -> None:
    """Who looks for the events of round 0 must not find the wait for round 1 among them, under its rank."""
    _, told = fold(
        phase("rendezvous"),
        phase("assign_ranks", round=0, rank=1, size=4),
        event(semconv.RENDEZVOUS_KEEP_ALIVE_SENT),
        phase("stop"),
        event(semconv.RESTART_STARTED, restarts=1),
        phase("rendezvous"),
        event(semconv.RENDEZVOUS_JOIN_ATTEMPTED),
        event(semconv.RENDEZVOUS_PARTICIPANT_ADDED, round=1, intent=True),
        event(semconv.RENDEZVOUS_STATE_STALE),
        event(semconv.AGENT_RENDEZVOUS_FINISHED, rank=1, size=4, restarts=1),
    )
    assert [known(each) for each in told[1:5]] == [[0, 1, 4, 0]] * 3 + [[0, 1, 4, 1]]
    assert known(told[6]) == [None, None, None, 1]
    assert known(told[7]) == [1, None, None, 1]
    assert known(told[8]) == [None, None, None, 1]
    # torch emits it also where the rendezvous failed, with the last round's rank
    assert known(told[9]) == [None, None, None, 1]


def test_after_the_ranks_are_assigned_torchs_own_events_carry_the_new_ones() -> None:
    """Trap 1: they are constructed before the worker group is updated, and are wrong in every restart."""
    _, told = fold(
        phase("rendezvous"),
        phase("assign_ranks", round=0, rank=1, size=4),
        phase("rendezvous"),
        phase("assign_ranks", round=1, rank=0, size=3),
        event(semconv.AGENT_RENDEZVOUS_FINISHED, rank=1, size=4),
        event(semconv.AGENT_RANKS_ASSIGNED, rank=1, size=4),
        phase("rendezvous"),
        event(semconv.AGENT_FAILED, rank=0, size=3),
    )
    assert [known(each)[:3] for each in told[4:6]] == [[1, 0, 3]] * 2
    # it failed while it waited for a round of which nobody knows
    assert known(told[7])[:3] == [None, None, None]


def test_with_our_hooks_the_rounds_of_static_are_counted_once() -> None:
    """Without them the round is concluded from torch's events; both must not count the same."""
    _, told = fold(
        phase("rendezvous"),
        phase("assign_ranks", round=0, rank=0, size=1, backend="static"),
        event(semconv.AGENT_RENDEZVOUS_FINISHED, backend="static"),
        phase("running"),
        phase("rendezvous"),
        phase("assign_ranks", round=1, rank=0, size=1, backend="static"),
        event(semconv.AGENT_RENDEZVOUS_FINISHED, rank=0, size=1, backend="static"),
        event(semconv.WORKER_STARTED, rank=0, size=1, backend="static"),
    )
    assert [known(each)[0] for each in told] == [None, 0, 0, 0, None, 1, 1, 1]


def test_another_agent_of_the_same_run_id_starts_from_nothing() -> None:
    """A notebook launches one job after another, and torchrun's default run id is "none" for all of them."""
    _, told = fold(
        phase("assign_ranks", round=7, rank=3, size=4, run="none"),
        event(semconv.RESTART_STARTED, restarts=2, run="none"),
        event(semconv.AGENT_STARTED, run="none"),
    )
    assert known(told[2]) == [None, None, None, 0]


def test_standing_survives_the_spool() -> None:
    """A spool that a dead agent left is read on from where it stood."""
    standing, _ = fold(
        phase("assign_ranks", round=7, rank=3, size=4, run="r", backend="c10d"),
        event(semconv.RENDEZVOUS_KEEP_ALIVE_UPDATED, intent=True),
    )
    assert standing.hooked
    assert AgentContext.from_json(standing.to_json()) == standing
