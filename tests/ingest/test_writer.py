"""On the writer thread: order, failing disks, redaction, and rows that do not fit."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.writers import Landing, fact, keep, seen
from torchelastic_otel import semconv
from torchelastic_otel.ingest.writer import Redact, Writer
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.processing.processor import process_remaining
from torchelastic_otel.spool.records import row_bytes

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
    assert len([r for r in caplog.records if "stored in memory from here on" in r.message]) == 1


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
    assert [row.sequence for row in landing.spools[1].rows()] == [2]


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
    writer.append(seen("a", "b"))
    (spool,) = landing.spools
    assert (spool.read("x", 0, 9, 999), spool.pending()) == ([], 2)
    writer.process()
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
        writer.append(seen("after \ud800 it", "=odd", "-\0odd"))
        if landing is lived:
            writer.process()
    assert process_remaining(died.spools[0]) == 3
    assert died.rows() == lived.rows()
    assert died.rows()[3][1].attributes[semconv.RENDEZVOUS_ROUND] == 3
    assert process_remaining(died.spools[0]) == 0


@pytest.mark.tests_own_faults
def test_a_row_that_cannot_be_settled_holds_up_none_behind_it(tmp_path: Path, faults: list[BaseException]) -> None:
    """Promise 4: no exporter reads past a raw row, and what is taken in hand once is never settled again."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    at_fault = fact(semconv.ROUND_STARTED, 0, round_duration=10**400)
    assert keep(writer, [*seen("a"), at_fault, *seen("b")]) == 0
    assert keep(writer, seen("c")) == 0
    (spool,) = landing.spools
    assert spool.unprocessed() == []
    assert [row.sequence for row in spool.read("x", 0, 9, 99_999)] == [1, 2, 3, 4]
    assert [event.body for _, event in landing.rows()][::2] == ["a", "b"]
    assert str(10**400) in landing.bodies()[1]
    assert [type(fault) for fault in faults] == [OverflowError]


def test_a_disk_that_fails_before_the_settling_loses_nothing(tmp_path: Path) -> None:
    """Promise 6: what is raw on the failed disk goes on in memory, with its sequence."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    writer.append(seen("a", "b"))
    landing.spools[0]._connection.execute("PRAGMA query_only=ON")
    assert keep(writer, seen("c")) == 0
    assert [(sequence, event.body) for sequence, event in landing.rows()] == [(1, "a"), (2, "b"), (3, "c")]
    assert [spool.path for spool in landing.spools] == [tmp_path / "a.spool", None]


def test_a_batch_larger_than_a_transaction_goes_on_in_memory_whole(tmp_path: Path) -> None:
    """A disk that fails with much on the way must not cost what was on the way."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    for number in range(40):
        writer.append(seen(*(f"{number} {n} " + "z" * 300 for n in range(10))))
    landing.spools[0]._connection.execute("PRAGMA query_only=ON")
    writer.process()
    assert len(landing.spools) == 2
    assert [row.sequence for row in landing.spools[1].rows()] == list(range(1, 401))
    assert sum(row_bytes(row.destination, row.payload) for row in landing.spools[1].rows()) > writer._spool.append_limit
