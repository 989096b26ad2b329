"""One spool: what append, cursors, room-making and faults do to it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.spools import BOUND, size_on_disk
from torchelastic_otel.errors import SpoolCorruptError, SpoolError, SpoolTooSmallError
from torchelastic_otel.spool import store


def payloads(spool: store.Spool, cursor: str = "x") -> list[str]:
    """Everything that a cursor would still read, were it to start at its position."""
    position = spool.cursors()[cursor].position
    return [row.payload for row in spool.read(cursor, position, 10_000_000, 1 << 40)]


def test_rows_come_back_as_they_went_in_and_in_order(spool: store.Spool) -> None:
    """Payloads are opaque: nothing in them may change on the way (promise 3)."""
    texts = ["", "ü\n", "{}", "'; DROP TABLE events; --", "\x00nul", "🙂" * 10]
    assert spool.append([("d", text) for text in texts]) == (1, 0)
    rows = spool.read("x", 0, 100, 1 << 20)
    assert [row.payload for row in rows] == texts
    assert [row.sequence for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_cursor_reads_its_own_destinations_only(spool: store.Spool) -> None:
    """Fan-out is by subscription; one exporter must not get what was recorded to another's destination."""
    spool.subscribe({"y": ["e", "d"]})
    spool.append([("d", "1"), ("e", "2"), ("f", "3"), ("d", "4")])
    assert [row.sequence for row in spool.read("x", 0, 10, 100)] == [1, 4]
    assert [row.sequence for row in spool.read("y", 0, 10, 100)] == [1, 2, 4]
    assert spool.cursors()["y"].destinations in {("d", "e"), ("e", "d")}


def test_a_read_is_bounded_in_bytes_but_never_empty(spool: store.Spool) -> None:
    """A batch stays small, and a row larger than a batch still gets its turn."""
    spool.append([("d", "a" * 500), ("d", "b" * 500), ("d", "c" * 500)])
    assert [row.sequence for row in spool.read("x", 0, 10, 1_000)] == [1, 2]
    assert [row.sequence for row in spool.read("x", 2, 10, 10)] == [3]
    assert [row.sequence for row in spool.read("x", 0, 1, 10_000)] == [1]


def test_a_cursor_is_never_moved_back(spool: store.Spool) -> None:
    """Two answers that overtake each other must not make a row come again."""
    spool.append([("d", "1"), ("d", "2")])
    spool.acknowledge("x", 2, delivered=2)
    spool.acknowledge("x", 1)
    state = spool.cursors()["x"]
    assert (state.position, state.pending, state.delivered) == (2, 0, 2)


def test_subscribing_again_keeps_what_the_cursor_has_got(spool: store.Spool) -> None:
    """A restart of the pipeline subscribes again; nothing may be delivered twice for that."""
    spool.append([("d", "1")])
    spool.acknowledge("x", 1, delivered=1)
    spool.subscribe({"x": ["d", "e"]})
    assert spool.cursors()["x"].position == 1
    assert spool.pending() == 0


def test_a_row_set_aside_is_counted_and_stays(spool: store.Spool) -> None:
    """What a receiver refuses is still there for the timeline."""
    spool.append([("d", "1")])
    spool.quarantine("x", 1, "HTTP 400")
    spool.quarantine("x", 1, "HTTP 400 again")
    assert spool.cursors()["x"].quarantined == 1
    assert [row.payload for row in spool.rows()] == ["1"]


@pytest.mark.parametrize("size", [1, 40, 300, 1_100, 2_100, 4_050, 4_200, 9_000, 60_000])
@pytest.mark.parametrize("reader", [False, True])
def test_a_flood_stays_below_the_bound_and_is_counted(tmp_path: Path, size: int, reader: bool) -> None:
    """Promise 6: whatever the size of the rows, the files stay below the bound and each lost row is counted."""
    path = tmp_path / "a.spool"
    spool = store.create(path, BOUND)
    spool.subscribe({"slow": ["d"], "fast": ["d"]})
    rows = max(3 * BOUND // (size + 30), 40)
    batch = max(1, min(256, 50_000 // size))
    sent, largest, lost = 0, 0, 0
    while sent < rows:
        first, dropped = spool.append([("d", "p" * size)] * batch)
        assert first == sent + 1
        sent += batch
        lost += dropped
        if reader:
            spool.acknowledge("fast", sent, delivered=batch)
        largest = max(largest, size_on_disk(path))
    assert largest <= BOUND
    slow = spool.cursors()["slow"]
    assert lost == slow.dropped > 0
    assert slow.dropped + slow.pending == sent
    assert spool.cursors()["fast"].dropped == (0 if reader else lost)
    kept = [row.sequence for row in spool.read("slow", 0, rows + batch, 1 << 40)]
    assert kept == list(range(sent - len(kept) + 1, sent + 1))  # the newest, without a gap
    assert len(kept) * size > BOUND // 4 or size == 1  # and the room is used
    spool.close()


def test_delivered_rows_go_before_undelivered_ones(tmp_path: Path) -> None:
    """Promise 6: the oldest delivered first, also where an undelivered one is older."""
    spool = store.create(tmp_path / "a.spool", BOUND)
    spool.subscribe({"x": ["d"], "y": ["e"]})
    spool.append([("d", "kept")])
    for _ in range(40):
        first, dropped = spool.append([("e", "p" * 50_000)])
        spool.acknowledge("y", first, delivered=1)
        assert dropped == 0
    assert payloads(spool) == ["kept"]
    assert spool.cursors()["x"].dropped == spool.cursors()["y"].dropped == 0


def test_rows_of_mixed_sizes_keep_fitting(tmp_path: Path) -> None:
    """Small rows fill the file with their overhead; large ones must find room afterwards, and the other way."""
    path = tmp_path / "a.spool"
    spool = store.create(path, BOUND)
    spool.subscribe({"x": ["d"]})
    for size in (1, 2_100, 20, 60_000, 4_200, 1, 60_000, 700):
        for _ in range(max(4, min(3_000, BOUND // (size + 30)) // 64)):
            spool.append([("d", "p" * size)] * (1 if size > 9_000 else 16 if size > 700 else 64))
    state = spool.cursors()["x"]
    assert state.pending + state.dropped == spool.last_sequence
    assert size_on_disk(path) <= BOUND


def test_a_row_larger_than_the_whole_spool_is_refused_and_harms_nothing(spool: store.Spool) -> None:
    """One monster must not throw out all the others, nor look like a broken disk."""
    spool.append([("d", "kept")])
    with pytest.raises(SpoolTooSmallError, match="1048576 bytes"):
        spool.append([("d", "p" * BOUND)])
    assert payloads(spool) == ["kept"]
    assert spool.append([("d", "next")]) == (2, 0)


def test_append_is_all_or_nothing_when_the_disk_is_full(spool: store.Spool) -> None:
    """The caller keeps in memory what append refused; half a batch in both places would come twice."""
    spool.append([("d", "kept")])
    spool._connection.execute(f"PRAGMA max_page_count={spool._connection.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(SpoolError, match="full"):
        spool.append([("d", "p" * 30_000)] * 3)
    assert payloads(spool) == ["kept"]
    spool._connection.execute("PRAGMA max_page_count=200")
    assert spool.append([("d", "next")])[0] == 2


FILE_LIMIT_PROGRAM = """
import resource, signal, sys
from pathlib import Path
from torchelastic_otel.spool import store
from torchelastic_otel.errors import SpoolCorruptError, SpoolError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = store.create(Path(sys.argv[1]), 1 << 20)
spool.subscribe({"x": ["d"]})
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
kept = 0
try:
    while True:
        spool.append([("d", "p" * 1000)])
        kept += 1
except SpoolCorruptError:
    raise
except SpoolError as error:
    print(error, file=sys.stderr)
print(kept, len(spool.read("x", 0, 10_000, 1 << 30)))
"""


@pytest.mark.crash
def test_a_disk_that_fills_up_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    """Promise 3 and 6: the write that fails is an error, and what was said to be kept is kept."""
    path = tmp_path / "a.spool"
    ran = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT_PROGRAM, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    kept, readable = map(int, ran.stdout.split())
    assert kept == readable > 10
    spool = store.open_file(path, BOUND)
    assert len(payloads(spool)) == kept
    spool.close()


def test_a_second_opener_finds_what_a_killed_process_left(tmp_path: Path) -> None:
    """Promise 3: a row whose append returned survives SIGKILL."""
    program = (
        "import os, signal, sys; from pathlib import Path; from torchelastic_otel.spool import store\n"
        "spool = store.create(Path(sys.argv[1]), 1 << 20); spool.subscribe({'x': ['d']})\n"
        "for i in range(300): spool.append([('d', str(i))])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "a.spool"
    assert subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False).returncode == -9
    spool = store.open_file(path, BOUND)
    assert payloads(spool) == [str(i) for i in range(300)]
    assert spool.append([("d", "more")]) == (301, 0)
    spool.close()


def test_sequences_go_on_after_everything_was_deleted(tmp_path: Path) -> None:
    """A number that came twice would make two records one in a backend."""
    path = tmp_path / "a.spool"
    spool = store.create(path, BOUND)
    for _ in range(20):
        spool.append([("nobody", "p" * 60_000)])
    spool._connection.execute("DELETE FROM events")
    spool.close()
    again = store.open_file(path, BOUND)
    assert again.append([("nobody", "q")])[0] == 21
    again.close()


def test_a_spool_in_memory_goes_on_where_it_is_told(tmp_path: Path) -> None:
    """After a failed disk the record's uid must go on, not begin again (promise 4)."""
    spool = store.create_in_memory(BOUND, 42)
    spool.subscribe({"x": ["d"]})
    assert spool.append([("d", "a"), ("d", "b")]) == (42, 0)
    assert [row.sequence for row in spool.read("x", 0, 9, 99)] == [42, 43]


def test_files_are_for_their_owner_only(spool: store.Spool) -> None:
    """Promise 8: 0600, the write-ahead log too, whatever the umask."""
    assert spool.path is not None
    spool.append([("d", "secret")])
    for path in spool.path.parent.glob("a.spool*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_what_is_there_already_is_not_opened_as_new(tmp_path: Path) -> None:
    """Promise 8: neither a file nor a symbolic link that somebody put there is written through."""
    (tmp_path / "a.spool").write_text("somebody's")
    with pytest.raises(SpoolError, match="exists"):
        store.create(tmp_path / "a.spool", BOUND)
    (tmp_path / "b.spool").symlink_to(tmp_path / "target")
    with pytest.raises(SpoolError, match="exists"):
        store.create(tmp_path / "b.spool", BOUND)
    assert not (tmp_path / "target").exists()
    with pytest.raises(SpoolError, match="symbolic link"):
        store.open_file(tmp_path / "b.spool", BOUND)


def test_a_read_only_spool_says_so_and_can_be_read(tmp_path: Path) -> None:
    """What is on a disk that went read-only is still delivered."""
    path = tmp_path / "a.spool"
    spool = store.create(path, BOUND)
    spool.subscribe({"x": ["d"]})
    spool.append([("d", "kept")])
    spool._connection.execute("PRAGMA query_only=ON")
    with pytest.raises(SpoolError, match="readonly"):
        spool.append([("d", "lost")])
    with pytest.raises(SpoolError, match="readonly"):
        spool.acknowledge("x", 1)
    assert payloads(spool) == ["kept"]
    spool.close()


@pytest.mark.parametrize("damage", ["text", "header", "schema", "empty"])
def test_a_file_that_is_no_spool_is_called_corrupt(tmp_path: Path, damage: str) -> None:
    """Promise 6: corrupt is an answer, never a crash and never taken for a full disk."""
    path = tmp_path / "a.spool"
    spool = store.create(path, BOUND)
    spool.append([("d", "x" * 5_000)] * 10)
    if damage == "schema":
        spool.put_meta("schema", "999")
    spool.close()
    if damage == "text":
        path.write_text("not a database, but long enough to be looked at" * 100)
    if damage == "header":
        path.write_bytes(b"\x00" * 100 + path.read_bytes()[100:])
    if damage == "empty":
        connection = sqlite3.connect(path)
        connection.execute("DROP TABLE meta")
        connection.commit()
        connection.close()
    with pytest.raises(SpoolCorruptError):
        store.open_file(path, BOUND)


def test_damage_in_the_middle_is_found_when_it_is_read(tmp_path: Path) -> None:
    """Promise 6: a torn page is an error of the spool's own kind."""
    path = tmp_path / "a.spool"
    spool = store.create(path, BOUND)
    spool.subscribe({"x": ["d"]})
    for _ in range(8):
        spool.append([("d", "x" * 1_000)] * 50)
    spool.close()
    with path.open("r+b") as file:
        file.seek(4_096 * 10)
        file.write(os.urandom(4_096 * 60))
    with pytest.raises(SpoolCorruptError):  # when it is opened or when it is read, whichever looks there first
        store.open_file(path, BOUND).read("x", 0, 1_000, 1 << 30)


def test_a_closed_spool_is_not_called_corrupt(spool: store.Spool) -> None:
    """A route that is late by a moment must not report damage that is not there."""
    spool.close()
    with pytest.raises(SpoolError) as caught:
        spool.append([("d", "late")])
    assert not isinstance(caught.value, SpoolCorruptError)
    with pytest.raises(SpoolError) as caught:
        spool.read("x", 0, 1, 1)
    assert not isinstance(caught.value, SpoolCorruptError)


CLOSED_IN_USE = """
import pathlib, sys, threading
from torchelastic_otel.spool import store
from torchelastic_otel.errors import SpoolError

CALLS = {
    "append": lambda spool: spool.append([("d", "x")]),
    "commit_processed": lambda spool: spool.commit_processed([], {"key": "x"}),
    "unprocessed": lambda spool: spool.unprocessed(),
    "acknowledge": lambda spool: spool.acknowledge("x", 0),
    "subscribe": lambda spool: spool.subscribe({"x": ["d"]}),
    "put_meta": lambda spool: spool.put_meta("key", "x"),
    "meta": lambda spool: spool.meta("key"),
    "read": lambda spool: spool.read("x", 0, 10, 100),
    "rows": lambda spool: spool.rows(),
    "cursors": lambda spool: spool.cursors(),
    "pending": lambda spool: spool.pending(),
}

def use(spool, call, begun):
    try:
        while True:
            call(spool)
            begun.release()
    except SpoolError:
        begun.release()

for turn in range(100):
    spool = store.create(pathlib.Path(sys.argv[1], f"{turn}.spool"), 1 << 20)
    spool.subscribe({"x": ["d"]})
    begun = threading.Semaphore(0)
    users = [threading.Thread(target=use, args=(spool, CALLS[sys.argv[2]], begun)) for _ in range(2)]
    for user in users:
        user.start()
    begun.acquire()
    spool.close()
    for user in users:
        user.join()
print("alive")
"""


@pytest.mark.parametrize(
    "call",
    [
        "append",
        "commit_processed",
        "unprocessed",
        "acknowledge",
        "subscribe",
        "put_meta",
        "meta",
        "read",
        "rows",
        "cursors",
        "pending",
    ],
)
def test_a_spool_can_be_closed_while_others_use_it(tmp_path: Path, call: str) -> None:
    """SQLite ends the process, the job's agent, where a connection is closed under a statement (promise 1)."""
    done = subprocess.run(
        [sys.executable, "-c", CLOSED_IN_USE, str(tmp_path), call], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_a_spool_that_another_process_writes_to_is_busy_and_not_corrupt(spool: store.Spool) -> None:
    """A person with a shell on the file holds the writer up, for a bounded time."""
    assert spool.path is not None
    spool._connection.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(spool.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SpoolError, match="locked") as caught:
        spool.append([("d", "x")])
    assert not isinstance(caught.value, SpoolCorruptError)
    other.execute("ROLLBACK")
    other.close()
    assert spool.append([("d", "x")]) == (1, 0)


def test_threads_may_use_one_spool_at_once(spool: store.Spool) -> None:
    """The writer appends while routes read and acknowledge."""
    spool.subscribe({"y": ["d"]})
    failed: list[BaseException] = []

    def read(cursor: str) -> None:
        at = 0
        try:
            while at < 400:
                for row in spool.read(cursor, at, 7, 1 << 20):
                    assert row.sequence == at + 1
                    at = row.sequence
                    spool.acknowledge(cursor, at, delivered=1)
        except BaseException as error:  # noqa: BLE001 - looked at below
            failed.append(error)

    readers = [threading.Thread(target=read, args=(cursor,)) for cursor in "xy"]
    for reader in readers:
        reader.start()
    for number in range(200):
        spool.append([("d", str(number)), ("d", "again")])
    for reader in readers:
        reader.join(30)
    assert not failed
    assert {state.delivered for state in spool.cursors().values()} == {400}


def test_a_path_with_odd_characters_is_a_path(tmp_path: Path) -> None:
    """SQLite's URIs read ``?``, ``#`` and ``%``; a job's directory may hold them."""
    odd = tmp_path / "50%25 ?mode=memory #1 ü"
    odd.mkdir()
    spool = store.create(odd / "a.spool", BOUND)
    spool.append([("d", "x")])
    spool.close()
    assert (odd / "a.spool").stat().st_size > 0
    assert len(list(tmp_path.iterdir())) == 1
