"""On the writer thread: order, failing disks, redaction, and rows that do not fit."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from torchelastic_otel import semconv
from torchelastic_otel.capture.writer import MAX_RAW, Redact, Writer
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.model.facts import Fact
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.settling import ORIGIN_KEY, SPANS, settle_what_is_left
from torchelastic_otel.spool import store
from torchelastic_otel.spool.store import row_bytes

if TYPE_CHECKING:
    from torchelastic_otel.capture.inlet import Observation

BOUND = 1 << 20
JOINED = json.dumps(
    {
        "name": "dynamic_rendezvous.py:DynamicRendezvousHandler.next_rendezvous",
        "run_id": "r",
        "message": "The node 'n_1_0' has joined round 0 of the rendezvous 'r' as rank 0 in a world of size 1.",
        "hostname": "n",
        "pid": 1,
        "node_state": "RUNNING",
        "rank": 0,
        "local_id": 0,
    }
)


class Landing:
    """Real spools, and who was told what."""

    started_ns = 0

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.spools: list[store.Spool] = []
        self.destinations: set[str] = set()
        self.commits = 0

    def _add(self, spool: store.Spool) -> store.Spool:
        self.spools.append(spool)
        if self.destinations:
            spool.subscribe({"x": sorted(self.destinations)})
        return spool

    def open_spool(self) -> store.Spool:
        """On disk where there is one."""
        if self.directory is None:
            return self._add(store.create_in_memory(BOUND))
        return self._add(store.create(self.directory / "a.spool", BOUND))

    def open_memory(self, first_sequence: int) -> store.Spool:
        """In memory."""
        return self._add(store.create_in_memory(BOUND, first_sequence))

    def seen(self, destinations: Iterable[str]) -> dict[str, str]:
        """Subscribes one cursor to them all, on the newest spool."""
        destinations = set(destinations)
        new = set(destinations) - self.destinations
        if new:
            self.spools[-1].subscribe({"x": sorted(new)})
            self.destinations |= new
        return {destination: destination for destination in destinations}

    def committed(self) -> None:
        """Counts."""
        self.commits += 1

    def rows(self) -> list[tuple[int, ElasticEvent]]:
        """What all spools hold, one after the other."""
        return [
            (row.sequence, ElasticEvent.from_json(row.payload))
            for spool in self.spools
            for name, row in spool.history()
            if name != SPANS and row not in [raw for _, raw in spool.raw()]
        ]

    def bodies(self) -> list[str]:
        """The bodies of it."""
        return [event.body for _, event in self.rows()]


def seen(*texts: str, destination: str = "null") -> list[Observation]:
    """As the inlet hands them over."""
    return [(destination, text, 1_700_000_000_000_000_000 + n, n) for n, text in enumerate(texts)]


def keep(writer: Writer, observations: list[Observation]) -> int:
    """As the inlet does it: kept while somebody waits, settled when nobody does."""
    missed = writer.keep(observations)
    writer.settle()
    return missed


def test_rows_stand_in_the_order_they_came_in(tmp_path: Path) -> None:
    """Promise 4: in order per agent."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    assert keep(writer, [*seen("a", "b"), *seen("c", destination="console")]) == 0
    assert keep(writer, seen("d")) == 0
    assert [(sequence, event.body, event.destination) for sequence, event in landing.rows()] == [
        (1, "a", "null"),
        (2, "b", "null"),
        (3, "c", "console"),
        (4, "d", "null"),
    ]
    assert [event.time_ns for _, event in landing.rows()][:2] == [1_700_000_000_000_000_000, 1_700_000_000_000_000_001]


def test_when_the_disk_fails_memory_goes_on_with_order_and_sequence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 4 and 6: one warning, and every uid as if nothing had happened."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    keep(writer, seen("a", "b"))
    landing.spools[0]._connection.execute("PRAGMA query_only=ON")
    with caplog.at_level(logging.WARNING):
        assert keep(writer, seen("c", "d")) == 0
        assert keep(writer, seen("e")) == 0
    assert [(sequence, event.body) for sequence, event in landing.rows()] == list(enumerate("abcde", 1))
    assert [spool.path for spool in landing.spools] == [tmp_path / "a.spool", None]
    assert len([r for r in caplog.records if "kept in memory from here on" in r.message]) == 1


def test_a_new_destination_on_a_failed_disk_loses_nothing(tmp_path: Path) -> None:
    """The cursor of a destination is noted on the disk first; that may be what fails."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    keep(writer, seen("a"))
    landing.spools[0]._connection.execute("PRAGMA query_only=ON")
    assert keep(writer, seen("b", destination="console")) == 0
    assert landing.bodies() == ["a", "b"]
    assert [row.sequence for row in landing.spools[1].read("x", 0, 9, 999)] == [2]


def test_a_disk_that_turns_corrupt_is_left_for_memory(tmp_path: Path) -> None:
    """Promise 6: corrupt is never a crash, in the middle of a run either."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    keep(writer, seen("a"))
    landing.spools[0]._connection.execute("DROP TABLE events")
    assert keep(writer, seen("b")) == 0
    assert [row.sequence for _, row in landing.spools[1].history()] == [2]


@pytest.mark.tests_own_faults
def test_an_event_that_fits_nowhere_is_counted_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 6: neither its neighbours nor the disk are given up for it."""
    landing = Landing(tmp_path)
    writer = Writer(landing, lambda event: replace(event, attributes={"x": "p" * 200_000} if event.body == "b" else {}))
    assert keep(writer, seen("a", "b", "c")) == 1
    assert landing.bodies() == ["a", "c"]
    assert len(landing.spools) == 1


def test_a_batch_larger_than_a_transaction_goes_in_portions(tmp_path: Path) -> None:
    """256 tracebacks that waited for a slow disk are more than a small spool takes at once."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    texts = [str(number) * 600 for number in range(1_000, 1_256)]
    assert keep(writer, seen(*texts)) == 0
    assert landing.bodies() == texts[-len(landing.bodies()) :]
    assert len(landing.spools) == 1
    assert landing.spools[0].last_sequence == 256


def test_a_full_spool_is_said_once_and_counted_always(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Promise 6: a collector that is away for a week must not fill the job's log."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    with caplog.at_level(logging.WARNING):
        for _ in range(60):
            keep(writer, seen(*["p" * 6_000] * 8))
    assert len([r for r in caplog.records if "spool is full" in r.message]) == 1
    state = landing.spools[0].cursors()["x"]
    assert state.dropped > 0
    assert state.dropped + state.pending == 480


def test_what_the_hook_returns_is_what_is_kept(tmp_path: Path) -> None:
    """Promise 8: what is redacted is never on disk."""

    def redact(event: ElasticEvent) -> ElasticEvent:
        return replace(event, body=event.body.replace("secret", "***"))

    landing = Landing(tmp_path)
    keep(Writer(landing, redact), seen("my secret"))
    assert landing.bodies() == ["my ***"]
    landing.spools[0].close()
    assert b"secret" not in (tmp_path / "a.spool").read_bytes()


def _raises(event: ElasticEvent) -> ElasticEvent:
    raise RuntimeError("broken hook")


def _exits(event: ElasticEvent) -> ElasticEvent:
    raise SystemExit(1)


def _forgets(event: ElasticEvent) -> ElasticEvent:
    return None  # type: ignore[return-value]


def _returns_what_no_json_can_hold(event: ElasticEvent) -> ElasticEvent:
    return replace(event, attributes={"x": {1, 2}})  # type: ignore[dict-item]


@pytest.mark.tests_own_faults
@pytest.mark.parametrize("hook", [_raises, _exits, _forgets, _returns_what_no_json_can_hold])
def test_a_broken_hook_withholds_the_text_and_loses_no_event(tmp_path: Path, hook: Redact) -> None:
    """Promise 8: what it was to hide must not get out because it is broken; that it happened is still told."""
    failed = (
        '{"name": "torchelastic.worker.status.FAILED", "source": "WORKER", "timestamp": 0, "metadata": '
        '{"run_id": "r", "error_msg": "secret", "raw_error": "{\\"message\\": {\\"message\\": \\"secret\\"}}"}}'
    )
    landing = Landing(tmp_path)
    writer = Writer(landing, hook)
    assert keep(writer, seen("a secret text", failed, "another secret")) == 0
    assert landing.bodies() == ["[withheld: the redaction hook failed]"] * 3
    landing.spools[0].close()
    assert b"secret" not in (tmp_path / "a.spool").read_bytes()


def test_without_a_disk_everything_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Promise 6: no spool directory is no reason to lose what a collector could take."""
    landing = Landing(None)
    writer = Writer(landing)
    assert keep(writer, seen("a", "b")) == 0
    assert landing.bodies() == ["a", "b"]
    assert landing.commits == 1


def test_what_is_kept_is_no_event_yet_and_nobody_reads_it(tmp_path: Path) -> None:
    """A caller of torch's waits for the commit alone; reading comes after it."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    writer.keep(seen("a", "b"))
    (spool,) = landing.spools
    assert (spool.read("x", 0, 9, 999), spool.pending()) == ([], 2)
    writer.settle()
    assert [row.sequence for row in spool.read("x", 0, 9, 9_999)] == [1, 2]
    assert landing.commits == 1


def test_what_a_killed_process_had_not_settled_becomes_the_same_events(tmp_path: Path) -> None:
    """Promise 3: also between the commit and the settling, also with what the agent knew by then."""
    joined = JOINED.replace("round 0", "round 3")
    for name in ("lived", "died"):
        (tmp_path / name).mkdir()
    lived, died = Landing(tmp_path / "lived"), Landing(tmp_path / "died")
    for landing in (lived, died):
        writer = Writer(landing)
        keep(writer, seen(joined))
        writer.keep(seen("after \ud800 it", "=odd", "-\0odd"))
        if landing is lived:
            writer.settle()
    assert settle_what_is_left(died.spools[0]) == 3
    assert died.rows() == lived.rows()
    assert died.rows()[3][1].attributes[semconv.RENDEZVOUS_ROUND] == 3
    assert settle_what_is_left(died.spools[0]) == 0


def test_a_disk_that_fails_before_the_settling_loses_nothing(tmp_path: Path) -> None:
    """Promise 6: what is raw on the failed disk goes on in memory, with its sequence."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    writer.keep(seen("a", "b"))
    landing.spools[0]._connection.execute("PRAGMA query_only=ON")
    assert keep(writer, seen("c")) == 0
    assert [(sequence, event.body) for sequence, event in landing.rows()] == [(1, "a"), (2, "b"), (3, "c")]
    assert [spool.path for spool in landing.spools] == [tmp_path / "a.spool", None]


def fact(name: str, at: int, error_file: str | None = None, **attributes: object) -> Observation:
    """What a hook says, as the inlet hands it over; attributes by their constants' names, in lower case."""
    told = {getattr(semconv, key.upper()): value for key, value in attributes.items()}
    ns = 1_700_000_000_000_000_000 + at
    return ("null", Fact(name, {semconv.RUN_ID: "r", **told}, error_file=error_file).to_text(), ns, at)


LIFE = [
    fact(semconv.AGENT_STARTED, 1, agent_id="a"),
    fact(semconv.AGENT_PHASE_ENTERED, 2, phase="rendezvous"),
    fact(semconv.RUN_IDENTIFIED, 3, run_nonce="5" * 32, inferred_from="own_view"),
    fact(semconv.AGENT_PHASE_ENTERED, 4, phase="assign_ranks", rendezvous_round=0),
    fact(semconv.AGENT_PHASE_ENTERED, 5, phase="running"),
    fact(semconv.AGENT_PHASE_ENTERED, 6, phase="detect"),
    fact(semconv.WORKER_FAILED, 6, error_file="a secret", worker_rank=0),
    fact(semconv.AGENT_PHASE_ENTERED, 7, phase="stop"),
]


def spans(landing: Landing) -> list[ElasticSpan]:
    """The spans that all spools hold."""
    rows = [(name, row) for spool in landing.spools for name, row in spool.history()]
    return [ElasticSpan.from_json(row.payload) for name, row in rows if name == SPANS]


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_spans_stand_beside_the_events_they_come_from(tmp_path: Path, at_once: int) -> None:
    """Traces are a projection of the same stream, with cursors of their own."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    for begin in range(0, len(LIFE), at_once):
        assert keep(writer, LIFE[begin : begin + at_once]) == 0
    names = [span.name.removeprefix("torchelastic.") for span in spans(landing)]
    assert names == ["rendezvous", "assign_ranks", "round", "workers", "training"]
    assert SPANS in landing.destinations


def test_what_a_hook_takes_away_is_not_in_the_spans_either(tmp_path: Path) -> None:
    """Promise 8: the text of an error is on the span of the workers that failed."""

    def redact(event: ElasticEvent) -> ElasticEvent:
        attributes = {
            name: value.replace("secret", "***") if isinstance(value, str) else value
            for name, value in event.attributes.items()
        }
        return replace(event, body=event.body.replace("secret", "***"), attributes=attributes)

    landing = Landing(tmp_path)
    keep(Writer(landing, redact), LIFE)
    assert [span.error for span in spans(landing) if span.name == semconv.SPAN_WORKERS] == [
        "Worker rank 0 (local rank None, pid None) failed: a ***"
    ]
    for spool in landing.spools:
        spool.close()
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_with_a_hook_a_killed_agents_spans_are_still_ended(tmp_path: Path) -> None:
    """Its rows are never raw: what is known of it has to be kept with them."""
    landing = Landing(tmp_path)
    writer = Writer(landing, lambda event: event)
    for each in LIFE[:5]:
        keep(writer, [each])
    (spool,) = landing.spools
    spool.put_meta(ORIGIN_KEY, Origin("0" * 32, "h", 1, 0).to_json())
    before = len(spans(landing))
    assert settle_what_is_left(spool) == 0
    told = spans(landing)[before:]
    assert [span.name.removeprefix("torchelastic.") for span in told] == ["workers", "training"]
    assert {span.error for span in told} == {"the agent's process ended without a word"}


def test_a_text_too_long_to_be_kept_raw_is_read_behind_what_came_before_it(tmp_path: Path) -> None:
    """A worker's traceback is what is long, and its failure is the one that must not overtake its detection."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    writer.keep(LIFE[:6])
    writer.keep([fact(semconv.WORKER_FAILED, 6, error_file="x" * (MAX_RAW + 1), worker_rank=0)])
    writer.keep(LIFE[7:])
    writer.settle()
    names = [event.name for _, event in landing.rows()]
    assert names.count(semconv.WORKER_FAILED) == 1
    (workers,) = [span for span in spans(landing) if span.name == semconv.SPAN_WORKERS]
    assert [event.name for event in workers.events] == [semconv.WORKER_FAILED]
    assert workers.error is not None


def test_a_spool_that_is_full_of_spans_and_events_stays_on_disk(tmp_path: Path) -> None:
    """Promise 6: what follows from events takes room too, and must not drive the spool into memory."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    at = 10
    for number in range(300):
        phases = ("rendezvous", "assign_ranks", "running", "detect", "stop")
        story = [
            fact(semconv.AGENT_PHASE_ENTERED, at + step, phase=phase, rendezvous_round=number)
            for step, phase in enumerate(phases)
        ]
        failed = [fact(semconv.WORKER_FAILED, at + 3, error_file="e" * 900, worker_rank=rank) for rank in range(8)]
        assert keep(writer, [*(LIFE[:3] if not number else ()), *story[:4], *failed, story[4]]) == 0
        at += 10
    assert [spool.path for spool in landing.spools] == [tmp_path / "a.spool"]
    files = [path for path in tmp_path.iterdir() if not path.name.endswith("-shm")]
    assert sum(path.stat().st_size for path in files) <= BOUND
    assert landing.spools[0].cursors()["x"].dropped > 0
    assert len(spans(landing)) > 50


def test_a_batch_larger_than_a_transaction_goes_on_in_memory_whole(tmp_path: Path) -> None:
    """A disk that fails with much on the way must not cost what was on the way."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    for number in range(40):
        writer.keep(seen(*(f"{number} {n} " + "z" * 300 for n in range(10))))
    landing.spools[0]._connection.execute("PRAGMA query_only=ON")
    writer.settle()
    assert len(landing.spools) == 2
    assert [row.sequence for _, row in landing.spools[1].history()] == list(range(1, 401))
    assert sum(row_bytes(name, row.payload) for name, row in landing.spools[1].history()) > writer._spool.append_limit
