"""From raw rows to events and spans: the same whoever reads them, and all of it or nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.observers import EPOCH_NS, moment
from torchelastic_otel import semconv
from torchelastic_otel.errors import SpoolError
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.model.inferred_event import InferredEvent
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.processing.processor import (
    CONTEXT_KEY,
    METRICS_KEY,
    ORIGIN_KEY,
    SPANS,
    TRACE_KEY,
    ProcessorState,
    encode_record,
    load_state,
    process,
    process_remaining,
)
from torchelastic_otel.processing.stored_events import read_events
from torchelastic_otel.spool import store
from torchelastic_otel.spool.reader import read_spool

BOUND = 1 << 20
ORIGIN = Origin("0" * 32, "host", 1, EPOCH_NS)


def phase(at: float, name: Phase, **more: object) -> tuple[float, InferredEvent]:
    """The agent enters a phase."""
    told = {semconv.PHASE: name.value, **{getattr(semconv, key.upper()): value for key, value in more.items()}}
    return at, InferredEvent(semconv.AGENT_PHASE_ENTERED, {semconv.RUN_ID: "r", **told}, moment(at))


def round_(at: float, number: int) -> list[tuple[float, InferredEvent]]:
    """A round is brought up, and its one agent speaks for all."""
    started = {
        semconv.RENDEZVOUS_ROUND: number,
        semconv.ROUND_BEGAN: moment(at).wall_ns,
        semconv.ROUND_DURATION: 4.0,
        semconv.WRITER: True,
    }
    return [
        phase(at + 2, Phase.ASSIGN_RANKS, rendezvous_round=number, group_rank=0, group_world_size=1),
        phase(at + 3, Phase.START),
        phase(at + 4, Phase.RUNNING),
        (at + 4, InferredEvent(semconv.ROUND_STARTED, started)),
    ]


LIFE = [
    (0.0, InferredEvent(semconv.AGENT_STARTED, {semconv.AGENT_ID: "a", semconv.RUN_ID: "r"})),
    phase(0, Phase.RENDEZVOUS),
    (
        0.5,
        InferredEvent(
            semconv.RUN_IDENTIFIED,
            {semconv.RUN_NONCE: "5" * 32, semconv.INFERRED_FROM: "store", semconv.HOSTS_STORE: True},
        ),
    ),
    *round_(0, 0),
    phase(50, Phase.DETECT),
    (
        50.0,
        InferredEvent(
            semconv.WORKER_FAILED, {semconv.WORKER_RANK: 3, semconv.PROCESS_EXIT_CODE: 1}, moment(50), "an error"
        ),
    ),
    phase(51, Phase.STOP),
    (51.0, InferredEvent(semconv.RESTART_STARTED, {semconv.RESTART_COUNT: 1})),
    phase(55, Phase.RENDEZVOUS),
    *round_(55, 1),
    (
        60.0,
        InferredEvent(
            semconv.RESTART_CAUSE_AGREED, {semconv.RENDEZVOUS_ROUND: 1, semconv.RESTART_REASON: "worker_failure"}
        ),
    ),
    phase(90, Phase.EXIT_BARRIER),
    phase(91, Phase.ENDED, agent_outcome="succeeded"),
]
"""One agent from its beginning to its end, with a failure and a restart in between."""
ROWS = [("null", encode_record(event.to_text(), moment(at).wall_ns, moment(at).monotonic_ns)) for at, event in LIFE]


def spool_of(tmp_path: Path, name: str) -> store.Spool:
    """An empty spool on disk."""
    made = store.create(tmp_path / f"{name}.spool", BOUND)
    made.put_meta(ORIGIN_KEY, ORIGIN.to_json())
    made.subscribe({"x": ["null"], "y": [SPANS]})
    return made


def live(spool: store.Spool, until: int, *, at_once: int) -> None:
    """A process keeps the rows of a life, and settles them so many at a time; what is over stays raw."""
    known = ProcessorState.initial(ORIGIN.started_ns)
    for begin in range(0, until, at_once):
        batch = ROWS[begin : min(begin + at_once, until)]
        first, _ = spool.append(batch, unprocessed=True)
        if len(batch) < at_once and until < len(ROWS):
            return
        known, done = process(known, batch)
        payloads = [(first + n, event.to_json()) for n, event in enumerate(done.events)]
        more = [(event.destination, event.to_json()) for event in done.derived]
        spool.commit_processed(payloads, known.to_meta(), more + [(SPANS, span.to_json()) for span in done.spans])


def told(spool: store.Spool) -> tuple[list[str], list[str], list[str]]:
    """Events of rows, what follows from them, and spans; each in order, as the spool keeps them."""
    rows = [(row.destination, row.payload) for row in spool.rows()]
    events = [payload for destination, payload in rows if destination != SPANS]
    follow = [payload for payload in events if ElasticEvent.from_json(payload).name == semconv.RESTART_COMPLETED]
    return [e for e in events if e not in follow], follow, [payload for name, payload in rows if name == SPANS]


@pytest.mark.parametrize("killed_after", range(1, len(ROWS) + 1))
@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_whoever_reads_the_rows_tells_the_same(tmp_path: Path, killed_after: int, at_once: int) -> None:
    """Promise 3, for what follows from events too: whether an agent settled, or died before it could."""
    lived, died = spool_of(tmp_path, "lived"), spool_of(tmp_path, "died")
    live(lived, killed_after, at_once=1)
    live(died, killed_after, at_once=at_once)
    assert process_remaining(lived) == 0
    process_remaining(died)
    assert told(died) == told(lived)
    assert died.unprocessed() == []
    events, follow, spans = told(died)
    assert len(events) == killed_after
    # and it is told once, however often it is adopted
    for spool in (lived, died):
        before = told(spool)
        assert process_remaining(spool) == 0
        assert told(spool) == before
    if killed_after == len(ROWS):
        names = [ElasticSpan.from_json(span).name.removeprefix("torchelastic.") for span in spans]
        brought_up = ["rendezvous", "assign_ranks", "start_workers"]
        ran = ["workers", "training"]
        assert names == [*brought_up, "round", *ran, "stop_workers", *brought_up, "round", *ran]
        assert len(follow) == 1
    ids = [(span.trace_id, span.span_id) for span in map(ElasticSpan.from_json, spans)]
    assert len(ids) == len(set(ids))


def test_what_is_known_is_kept_with_the_rows_it_comes_from(tmp_path: Path) -> None:
    """A process that is killed in between must find, on the other side, one or the other, never half."""
    spool = spool_of(tmp_path, "a")
    live(spool, 8, at_once=4)
    known = load_state(spool.meta, 0)
    assert known.trace.phase is Phase.DETECT
    assert (known.context.round, known.context.hooked) == (0, True)
    spool.append(ROWS[8:10], unprocessed=True)
    spool._connection.execute("PRAGMA query_only=ON")
    with pytest.raises(SpoolError):
        process_remaining(spool)
    spool._connection.execute("PRAGMA query_only=OFF")
    assert len(spool.unprocessed()) == 2
    assert load_state(spool.meta, 0) == known
    assert process_remaining(spool) == 2


@pytest.mark.parametrize("key", [CONTEXT_KEY, TRACE_KEY, METRICS_KEY])
@pytest.mark.parametrize("written", ["{}", "[]", "[1, 2]", "nothing", '{"runs": 3}'])
def test_what_another_version_knew_may_be_lost_and_no_event_is(tmp_path: Path, key: str, written: str) -> None:
    """Promise 4: who upgrades this package finds spools that the version before has written, and delivers them."""
    spool = spool_of(tmp_path, "a")
    live(spool, 8, at_once=4)
    spool.append(ROWS[8:10], unprocessed=True)
    before = spool.last_sequence
    spool.put_meta(key, written)
    assert process_remaining(spool) == 2
    assert spool.unprocessed() == []
    assert spool.last_sequence >= before


def test_reading_a_spool_warns_of_no_delivery(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The timeline only reads: a state of another version makes it begin anew, silently."""
    spool = spool_of(tmp_path, "a")
    spool.append(ROWS[:2], unprocessed=True)
    for key in (CONTEXT_KEY, TRACE_KEY, METRICS_KEY):
        spool.put_meta(key, "[")
    assert spool.path is not None
    assert len(read_events(read_spool(spool.path))) >= 2
    assert caplog.records == []
    assert process_remaining(spool) == 2
    assert "its events are delivered without the state before them" in caplog.text


def test_a_newer_versions_fields_are_left_out_and_missing_ones_have_their_defaults(tmp_path: Path) -> None:
    """An upgrade or a downgrade between two jobs must not cost a dead agent's numbers."""
    spool = spool_of(tmp_path, "a")
    live(spool, 8, at_once=4)
    known = load_state(spool.meta, 0)
    tally, narrative = json.loads(spool.meta(METRICS_KEY) or ""), json.loads(spool.meta(TRACE_KEY) or "")
    tally["newer"] = narrative["newer"] = tally["runs"][0]["newer"] = tally["runs"][0]["times"]["newer"] = [1]
    del tally["runs"][0]["hosts_store"], narrative["restart_count"]
    spool.put_meta(METRICS_KEY, json.dumps(tally))
    spool.put_meta(TRACE_KEY, json.dumps(narrative))
    found = load_state(spool.meta, 0)
    assert found.trace == replace(known.trace, restart_count=None)
    assert found.metrics == replace(known.metrics, runs=(replace(known.metrics.runs[0], hosts_store=False),))


@pytest.mark.tests_own_faults
@pytest.mark.parametrize("payload", ["", "x", "1 2", "1 x -{}", "1 2 =nothing", "1 2 ="])
def test_a_row_that_cannot_be_read_is_told_as_it_is(payload: str) -> None:
    """One row that is at fault costs no other."""
    known, done = process(ProcessorState.initial(0), [("null", payload), *ROWS[:1]])
    assert [event.name for event in done.events] == [semconv.UNKNOWN_EVENT, semconv.AGENT_STARTED]
    assert done.events[0].body == payload
    assert known.trace.agent_id == "a"


UNTOLD = encode_record(
    InferredEvent(semconv.ROUND_STARTED, {semconv.ROUND_DURATION: 10**400}).to_text(), EPOCH_NS, EPOCH_NS
)
"""A row that can be read, and that is not counted: no float holds its time."""


@pytest.mark.tests_own_faults
@pytest.mark.parametrize("before", [1, 4, len(ROWS)])
def test_a_row_that_cannot_be_counted_changes_nothing_that_is_known(before: int, faults: list[BaseException]) -> None:
    """A fault in the middle of a life must not take half of it into what the rows behind it are told by."""
    known, done = process(ProcessorState.initial(0), [*ROWS[:before], ("other", UNTOLD), *ROWS[before:]])
    expected, plain = process(ProcessorState.initial(0), ROWS)
    assert known == expected
    at_fault = done.events.pop(before)
    assert (at_fault.name, at_fault.destination, at_fault.body) == (semconv.UNKNOWN_EVENT, "other", UNTOLD)
    assert done == plain
    assert [type(fault) for fault in faults] == [OverflowError]


@pytest.mark.tests_own_faults
def test_a_row_at_fault_in_a_dead_process_spool_holds_up_none_behind_it(tmp_path: Path) -> None:
    """No exporter reads past a raw row: one that stays raw is the end of delivery, whoever adopts the spool."""
    spool = spool_of(tmp_path, "a")
    spool.append([ROWS[0], ("null", UNTOLD), *ROWS[1:]], unprocessed=True)
    assert process_remaining(spool) == len(ROWS) + 1
    assert spool.unprocessed() == []
    names = [ElasticEvent.from_json(row.payload).name for row in spool.read("x", 0, 99, BOUND)]
    assert names[:3] == [semconv.AGENT_STARTED, semconv.UNKNOWN_EVENT, semconv.AGENT_PHASE_ENTERED]
    assert load_state(spool.meta, 0).trace.phase is Phase.ENDED


@pytest.mark.tests_own_faults
@pytest.mark.parametrize("payload", [UNTOLD.replace('"at"', '"secret":1,"at"'), "a secret"])
def test_what_is_in_a_row_at_fault_is_withheld_where_a_hook_is_to_hide_it(payload: str) -> None:
    """A hook that looks at attributes finds none in a row's text, and a fault of ours is no leave to tell it."""
    _, done = process(ProcessorState.initial(0), [("null", payload), *ROWS[:1]], lambda event: event)
    assert [event.name for event in done.events] == [semconv.UNKNOWN_EVENT, semconv.AGENT_STARTED]
    assert "secret" not in done.events[0].to_json()
    assert done.events[0].body.startswith("[withheld")


@pytest.mark.tests_own_faults
def test_a_hook_that_raises_hides_the_row_and_costs_no_other() -> None:
    """What was to be hidden must not get out by way of the fault of whoever was to hide it."""

    def redact(event: ElasticEvent) -> ElasticEvent:
        if event.name == semconv.WORKER_FAILED:
            raise RuntimeError("broken hook")
        return event

    _, done = process(ProcessorState.initial(0), ROWS, redact)
    assert sum(event.name == semconv.UNKNOWN_EVENT for event in done.events) == 1
    assert len(done.events) == len(ROWS)
    stored: tuple[Any, ...] = (*done.events, *done.derived, *done.spans)
    for written in stored:
        assert "an error" not in written.to_json()


def test_what_a_hook_takes_away_is_in_nothing_that_follows() -> None:
    """Spans and restarts are told of events: a text that must not get out must not get in there."""

    def redact(event: ElasticEvent) -> ElasticEvent:
        return ElasticEvent.from_json(event.to_json().replace("an error", "***"))

    known, done = process(ProcessorState.initial(0), ROWS, redact)
    stored: tuple[Any, ...] = (*done.events, *done.derived, *done.spans, known.trace, known.metrics)
    for written in stored:
        assert "an error" not in written.to_json()
    assert any("***" in span.to_json() for span in done.spans)
    _, plain = process(ProcessorState.initial(0), ROWS)
    assert any("an error" in span.to_json() for span in plain.spans)
