"""What ``timeline`` reads, and what it says of what it cannot: one line, and never a traceback."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.job_streams import AgentTape, clean_job
from tests.support.orphaned_spools import Spools
from tests.support.recordings import DIRECTORY
from torchelastic_otel.cli import main
from torchelastic_otel.cli.timeline.sources import read_paths, read_spools, spools_in
from torchelastic_otel.processing.processor import ORIGIN_KEY
from torchelastic_otel.spool import adoption

NOBODY = 65534


@pytest.fixture
def locked() -> Iterator[Path]:
    """A directory that others can enter, with one in it that this process may not look into while the test runs."""
    main(["timeline", "--json", str(DIRECTORY / "clean-1node-A.jsonl")])  # imports, while everything may be read
    root = Path(tempfile.mkdtemp(prefix="timeline-locked-"))
    root.chmod(0o755)
    (root / "closed").mkdir()
    (root / "closed" / "a.spool").touch()
    (root / "closed").chmod(0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)  # root may look into everything
    yield root
    os.seteuid(was)
    (root / "closed").chmod(0o700)
    shutil.rmtree(root)


@pytest.mark.parametrize("name", ["closed", "closed/a.spool", "closed/deep/er", "closed/a.jsonl"])
def test_a_path_that_one_may_not_look_at_is_one_line(
    name: str, locked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another user's folder of mode 0700 is an everyday case; that it is empty would be a lie."""
    capsys.readouterr()
    assert main(["timeline", str(locked / name)]) == 2
    assert capsys.readouterr().err == f"torchelastic-otel timeline: {locked / name}: Permission denied\n"


def test_a_closed_folder_below_a_directory_is_said_and_passed_over(
    locked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``/tmp`` is full of other people's folders."""
    capsys.readouterr()
    assert main(["timeline", str(locked)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"torchelastic-otel timeline: {locked / 'closed'}: Permission denied; skipped"
    assert f"{locked}: nothing to read in this directory; allowed are" in second


def test_a_spool_directory_that_one_may_not_look_into_is_not_empty(
    locked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of somebody else's folder nobody can say that there is no run in it."""
    monkeypatch.setenv("TORCHELASTIC_OTEL_SPOOL_DIR", str(locked / "closed"))
    capsys.readouterr()
    assert main(["timeline"]) == 2
    assert capsys.readouterr().err.endswith(": Permission denied\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "an empty path is not allowed (an unset shell variable?); name files or directories"),
        ("a" * 5_000, "File name too long"),
        ("nul\0", "embedded null"),
        ("{tmp}/loop", "Too many levels of symbolic links"),
        ("{tmp}/gone.spool", "No such file or directory"),
        ("{tmp}/random.gz", "random.gz: begins as gzip, but nothing of it can be decompressed"),
        ("{tmp}/twice.gz", "twice.gz: compressed twice: damaged gzip"),
        ("{tmp}/esc\x1b[31m.log", "esc\\x1b[31m.log: No such file"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``timeline "$UNSET"`` must not read the whole working directory; a damaged file is a path that cannot be read."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "random.gz").write_bytes(b"\x1f\x8b" + bytes(range(256)))
    (tmp_path / "twice.gz").write_bytes(gzip.compress(b"\x1f\x8b" + bytes(range(256))))
    assert main(["timeline", name.format(tmp=tmp_path)]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err[:-1].isprintable()


def test_a_closed_stdin_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon has none."""
    monkeypatch.setattr("sys.stdin", None)
    assert main(["timeline", "-"]) == 2
    assert capsys.readouterr().err == "torchelastic-otel timeline: <stdin>: it is closed\n"


def test_of_a_gzip_stream_that_is_damaged_in_the_middle_the_beginning_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came before the damage is whole."""
    packed = gzip.compress((DIRECTORY / "max-restarts-exhausted-A.jsonl").read_bytes(), 0)
    assert len(packed) > 12_000
    packed = packed[:-8] + b"\xff" * 8
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    assert main(["timeline", "--json", "--all", str(tmp_path / "a.jsonl.gz")]) == 0
    shown = capsys.readouterr()
    assert "a.jsonl.gz: the gzip stream is damaged or incomplete; only the part before that is read" in shown.err
    assert json.loads(shown.out)["runs"][0]["events"]


# --- spools


def put(spools: Spools, agent: AgentTape) -> adoption.OwnedSpool:
    """The agent's spool, with nothing delivered yet."""
    owned = adoption.create(spools.directory, agent.origin.id, 1 << 22)
    owned.spool.put_meta(ORIGIN_KEY, agent.origin.to_json())
    owned.spool.subscribe({"otlp": ["null"]})
    owned.spool.append([("null", event.to_json()) for event in agent.events])
    return owned


def retire(owned: adoption.OwnedSpool) -> Path:
    """All is delivered; what the spool became."""
    owned.spool.acknowledge("otlp", 10**6, delivered=10**6)
    owned.release()
    assert not owned.path.exists()
    return owned.path.with_suffix(".delivered")


def test_a_spool_that_is_retired_after_it_was_listed_is_read_as_what_it_became(
    spools: Spools, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job that ends while one looks must not lose the node that ended."""
    [agent] = clean_job(1)
    owned = put(spools, agent)
    listed = spools_in(spools.directory)
    assert listed == [owned.path]
    history = retire(owned)
    reports: list[str] = []
    data = read_spools(listed, reports.append)
    assert len(data.events) == len(agent.events)
    assert (data.exited, reports) == ({agent.origin.id}, [])
    assert len(read_paths([str(owned.path)], reports.append).events) == len(agent.events), "also where it was named"
    history.unlink()
    assert read_spools(listed, reports.append).events == []
    assert reports == [], "a spool whose time as history is over is no trouble"


def test_spools_of_an_older_version_are_one_line_in_a_users_words(
    spools: Spools, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder may hold a week of them after an update."""
    [agent] = clean_job(1)
    retire(put(spools, agent))
    paths = [spools.directory / f"{number}.delivered" for number in range(12)]
    for path in paths:
        with closing(sqlite3.connect(path)) as old, old:
            old.execute("CREATE TABLE events(sequence INTEGER PRIMARY KEY, destination TEXT, payload TEXT)")
            old.execute("CREATE TABLE meta(key TEXT, value TEXT)")
            old.execute("CREATE TABLE set_aside(cursor TEXT)")
    message = "12 spools were written by an older version of torchelastic-otel, the first is"
    for arguments in ([], [str(spools.directory)]):
        assert main(["timeline", "--json", *arguments]) == 0
        shown = capsys.readouterr()
        assert len(json.loads(shown.out)["runs"]) == 1
        assert shown.err.count("\n") == 1
        assert message in shown.err
    assert main(["timeline", str(paths[0])]) == 2
    assert "was written by an older version of torchelastic-otel; that version can read it" in capsys.readouterr().err


def test_a_thousand_spools_that_lost_their_oldest_rows_are_one_sentence(
    spools: Spools, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is unknown must stay readable where there is the most of it."""
    agents = clean_job(10)
    for agent in agents:
        path = retire(put(spools, agent))
        with closing(sqlite3.connect(path)) as spool, spool:
            spool.execute("DELETE FROM events WHERE sequence <= 2")
    assert main(["timeline", "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    message = [sentence for sentence in run["unknown"] if "make room" in sentence]
    assert message == [
        "the first events of 10 agents: deleted to make room in their spools: "
        + ", ".join(f"node-{number} pid 106 (2)" for number in range(8))
        + " and 2 more"
    ]
