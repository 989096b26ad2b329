"""Rows that are received raw and settled later, with what follows from them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.support.spools import BOUND, size_on_disk
from torchelastic_otel.errors import SpoolError
from torchelastic_otel.spool import store


def test_what_follows_from_rows_is_appended_with_their_settling(spool: store.Spool) -> None:
    """Rows, what follows from them and what is known then: a kill in between leaves all of it or nothing."""
    spool.subscribe({"y": ["e"]})
    spool.append([("d", "raw 1"), ("d", "raw 2")], unprocessed=True)
    assert spool.commit_processed([(1, "one"), (2, "two")], {"k": "v", "l": "w"}, [("e", "three"), ("d", "four")]) == (
        3,
        0,
    )
    assert [(row.sequence, row.payload) for row in spool.read("x", 0, 9, 999)] == [(1, "one"), (2, "two"), (4, "four")]
    assert [(row.sequence, row.payload) for row in spool.read("y", 0, 9, 999)] == [(3, "three")]
    assert (spool.meta("k"), spool.meta("l"), spool.unprocessed()) == ("v", "w", [])
    assert spool.append([("d", "five")]) == (5, 0)
    spool._connection.execute("PRAGMA query_only=ON")
    before = spool.size
    with pytest.raises(SpoolError):
        spool.commit_processed([], {"k": "x"}, [("d", "six")])
    assert (spool.meta("k"), spool.last_sequence, spool.size) == ("v", 5, before)


def test_what_is_known_may_be_kept_with_rows_that_are_read(tmp_path: Path) -> None:
    """With a redaction hook rows are never raw: what follows from them must not be ahead of them after a kill."""
    spool = store.create(tmp_path / "a.spool", BOUND)
    spool.append([("d", "one")], meta={"k": "v"})
    again = store.open_file(tmp_path / "a.spool", BOUND)
    assert ([row.payload for row in again.rows()], again.meta("k")) == (["one"], "v")
    spool._connection.execute("PRAGMA query_only=ON")
    with pytest.raises(SpoolError):
        spool.append([("d", "two")], meta={"k": "w"})
    assert spool.meta("k") == "v"
    for each in (spool, again):
        each.close()


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("size", [300, 700, 1_500, 2_100, 9_000])
def test_settling_stays_below_the_bound_whatever_follows(tmp_path: Path, size: int, on_disk: bool) -> None:
    """Promise 6: read rows are larger than raw ones, and more follow; room is made, and the loss counted."""
    path = tmp_path / "a.spool"
    spool = store.create(path, BOUND) if on_disk else store.create_in_memory(BOUND)
    spool.subscribe({"x": ["d", "s"]})
    written = dropped = 0
    for number in itertools.count():
        if dropped > 50:
            break
        payloads = ["p" * (size // 3), "q" * (size // 2 + number % 7)]
        first, lost = spool.append([("d", payload) for payload in payloads], unprocessed=True)
        dropped += lost
        more = [("s", "r" * (size + number % 11)), ("s", "s" * (size // 2))] if number % 2 else []
        raw = [(first + n, "P" * (size + number % 5)) for n in range(2)]
        _, lost = spool.commit_processed(raw, {"k": "m" * 500}, more)
        dropped += lost
        written += 2 + len(more)
        assert spool.unprocessed() == []
        if on_disk and number % 16 == 0:
            assert size_on_disk(path) <= BOUND
    assert spool.last_sequence == written
    rows = [row.sequence for row in spool.rows()]
    assert rows == list(range(written - len(rows) + 1, written + 1))
    assert written - len(rows) == dropped == spool.cursors()["x"].dropped
    assert dropped > 0
    kept = spool.size
    if on_disk:
        spool.close()
        assert store.open_file(path, BOUND).size == kept


def test_what_follows_of_mixed_sizes_keeps_fitting(tmp_path: Path) -> None:
    """Rows that share pages badly leave the file full below its limit: then more room is made, and the spool stays."""
    path = tmp_path / "a.spool"
    spool = store.create(path, BOUND)
    spool.subscribe({"x": ["d"]})
    for size in (1, 2_100, 20, 60_000, 4_200, 1, 60_000, 700):
        for _ in range(max(4, min(3_000, BOUND // (size + 30)) // 64)):
            count = 1 if size > 9_000 else 16 if size > 700 else 64
            first, _ = spool.append([("d", "p")], unprocessed=True)
            spool.commit_processed([(first, "P" * size)], {}, [("d", "q" * size)] * (count - 1))
    state = spool.cursors()["x"]
    assert state.pending + state.dropped == spool.last_sequence
    assert size_on_disk(path) <= BOUND
    spool.close()


def test_a_raw_row_that_went_to_make_room_stays_gone(tmp_path: Path) -> None:
    """Between its keeping and its settling a flood may come; what it tells is then lost, and counted once."""
    spool = store.create(tmp_path / "a.spool", BOUND)
    spool.subscribe({"x": ["d"]})
    spool.append([("d", "first")], unprocessed=True)
    for _ in range(40):
        spool.append([("d", "f" * 50_000)])
    dropped = spool.cursors()["x"].dropped
    assert dropped > 0
    assert spool.commit_processed([(1, "read")], {}, [("d", "more")])[0] == 42
    assert [row.sequence for row in spool.rows()][-1] == 42
    assert "read" not in [row.payload for row in spool.rows()]
    assert spool.last_sequence == 42
    spool.close()
