"""The spool against a model that anyone can check by reading: a list and a dictionary."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from torchelastic_otel.spool import store

BOUND = 1 << 20
CURSORS = {"x": ["a"], "y": ["a", "b"], "z": ["c"]}


class SpoolAgainstModel(RuleBasedStateMachine):
    """Random appends, acknowledgements, subscriptions, floods and reopenings; with SIGKILL's equivalent."""

    @initialize()
    def begin(self) -> None:
        """An empty spool and an empty model."""
        self.directory = Path(tempfile.mkdtemp())
        self.spool = store.create(self.directory / "m.spool", BOUND)
        self.left_open: list[store.Spool] = []
        self.rows: dict[int, tuple[str, str]] = {}
        self.last = 0
        self.positions: dict[str, int] = {}
        self.destinations: dict[str, set[str]] = {}
        self.delivered: dict[str, int] = {}
        self.dropped: dict[str, int] = {}

    def teardown(self) -> None:
        """Leave no files."""
        if hasattr(self, "directory"):
            self.spool.close()
            shutil.rmtree(self.directory)

    def _owed(self, cursor: str) -> list[int]:
        wanted = self.destinations[cursor]
        return [n for n, (d, _) in sorted(self.rows.items()) if n > self.positions[cursor] and d in wanted]

    @rule(cursor=st.sampled_from(sorted(CURSORS)))
    def subscribe(self, cursor: str) -> None:
        """A cursor comes, or comes again."""
        self.spool.subscribe({cursor: CURSORS[cursor]})
        self.positions.setdefault(cursor, 0)
        self.delivered.setdefault(cursor, 0)
        self.dropped.setdefault(cursor, 0)
        self.destinations[cursor] = set(CURSORS[cursor])

    def _append(self, rows: list[tuple[str, str]], *, unprocessed: bool = False) -> None:
        first, lost = self.spool.append(rows, unprocessed=unprocessed)
        assert first == self.last + 1
        self._went(lost)
        self._came(rows)

    def _came(self, rows: list[tuple[str, str]]) -> None:
        for row in rows:
            self.last += 1
            self.rows[self.last] = row

    def _went(self, lost: int) -> None:
        owed_before = {cursor: self._owed(cursor) for cursor in self.positions}
        kept = {row.sequence for row in self.spool.rows()}
        gone = set(self.rows) - kept
        undelivered = {n for owed in owed_before.values() for n in owed}
        if gone & undelivered:
            # nothing undelivered goes while something delivered is there, and then the oldest goes
            left = set(self.rows) - gone
            assert left <= undelivered
            assert max(gone & undelivered) < min(left, default=self.last + 1)
        assert lost == len(gone & undelivered)
        for cursor, owed in owed_before.items():
            self.dropped[cursor] += len(gone & set(owed))
        for number in gone:
            del self.rows[number]

    @rule(rows=st.lists(st.tuples(st.sampled_from("abcd"), st.text(max_size=30)), min_size=1, max_size=8))
    def append(self, rows: list[tuple[str, str]]) -> None:
        """A few rows."""
        self._append(rows)

    @rule(size=st.sampled_from([1_400, 3_000, 20_000, 120_000]), count=st.integers(1, 5), to=st.sampled_from("abc"))
    def flood(self, size: int, count: int, to: str) -> None:
        """Rows large enough that room has to be made."""
        for _ in range(count):
            self._append([(to, "p" * size)] * max(1, 60_000 // size))

    @rule(
        sizes=st.lists(st.sampled_from([10, 900, 2_100, 20_000]), min_size=1, max_size=6),
        more=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([10, 1_900, 30_000])), max_size=4),
        to=st.sampled_from("abc"),
    )
    def receive_and_settle(self, sizes: list[int], more: list[tuple[str, int]], to: str) -> None:
        """As the writer does it: rows are kept raw, read, and what follows from them is appended with that."""
        first = self.last + 1
        self._append([(to, "r" * (size // 2)) for size in sizes], unprocessed=True)
        read = {first + number: "R" * size for number, size in enumerate(sizes)}
        follow = [(destination, "f" * size) for destination, size in more]
        begin, lost = self.spool.commit_processed(list(read.items()), {"known": str(first)}, follow)
        assert begin == self.last + 1
        self.rows |= {number: (to, payload) for number, payload in read.items() if number in self.rows}
        self._went(lost)
        self._came(follow)
        assert (self.spool.unprocessed(), self.spool.meta("known")) == ([], str(first))

    @precondition(lambda self: self.positions)
    @rule(data=st.data())
    def read_and_acknowledge(self, data: st.DataObject) -> None:
        """A route's step."""
        cursor = data.draw(st.sampled_from(sorted(self.positions)))
        limit = data.draw(st.integers(1, 20))
        rows = self.spool.read(cursor, self.positions[cursor], limit, 1 << 30)
        assert [row.sequence for row in rows] == self._owed(cursor)[:limit]
        assert [row.payload for row in rows] == [self.rows[row.sequence][1] for row in rows]
        if data.draw(st.booleans()) and rows:
            self.spool.acknowledge(cursor, rows[-1].sequence, delivered=len(rows))
            self.positions[cursor] = rows[-1].sequence
            self.delivered[cursor] += len(rows)

    @rule(killed=st.booleans())
    def reopen(self, killed: bool) -> None:
        """The process ends, well or badly, and another one opens the file."""
        if killed:
            # the files as they are at this moment, which is all that SIGKILL leaves
            copy = Path(tempfile.mkdtemp(dir=self.directory))
            for path in self.directory.glob("m.spool*"):
                if not path.name.endswith("-shm"):
                    shutil.copy(path, copy)
            self.spool.close()
            for path in self.directory.glob("m.spool*"):
                path.unlink()
            for path in copy.iterdir():
                shutil.move(path, self.directory)
        else:
            self.spool.close()
        self.spool = store.open_file(self.directory / "m.spool", BOUND)

    @invariant()
    def counts_agree(self) -> None:
        """The spool says of itself what the model knows."""
        if not hasattr(self, "spool"):
            return
        assert self.spool.last_sequence == self.last
        cursors = self.spool.cursors()
        assert set(cursors) == set(self.positions)
        for name, state in cursors.items():
            assert state.pending == len(self._owed(name))
            assert (state.position, state.delivered, state.dropped) == (
                self.positions[name],
                self.delivered[name],
                self.dropped[name],
            )
        assert self.spool.pending() == len({n for cursor in self.positions for n in self._owed(cursor)})

    @invariant()
    def files_stay_small(self) -> None:
        """Promise 6."""
        if hasattr(self, "directory"):
            files = [p for p in self.directory.glob("m.spool*") if not p.name.endswith("-shm")]
            assert sum(path.stat().st_size for path in files) <= BOUND


TestSpoolAgainstModel = SpoolAgainstModel.TestCase
TestSpoolAgainstModel.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    # a failure says enough by its steps; making them fewer takes minutes
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
