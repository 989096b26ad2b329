"""Recorded streams arrive as live ones do: every event known, once by uid, in its own agent's name."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import BAD_REQUEST, OK, UNAVAILABLE, GrpcCollector, HttpCollector, refusing_port
from tests.support.orphaned_spools import Spools
from torchelastic_otel import semconv
from torchelastic_otel.cli import main
from torchelastic_otel.spool import adoption
from torchelastic_otel.spool.directory import SPOOL_SUFFIX

CAPTURES = sorted((Path(__file__).parents[1] / "captures").glob("*.jsonl"))
FILES = [str(path) for path in CAPTURES]
EVENTS = sum(len(path.read_text().splitlines()) for path in CAPTURES)

SetEnv = Callable[[dict[str, str]], None]


def replay(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """The status and the summary."""
    status = main(["replay", "--json", *arguments])
    out = capsys.readouterr().out
    return status, json.loads(out) if out else {}


def test_no_event_of_any_capture_is_unknown_and_all_arrive_with_their_own_times(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real streams of torch 1.13 to 2.13: a message that torch writes and we do not know would be seen here."""
    assert len(FILES) == 17
    setenv({"TORCHELASTIC_OTEL_HEARTBEATS": "logs"})
    with HttpCollector() as collector:
        setenv(collector.env())
        status, result = replay(capsys, *FILES)
        assert status == 0, result
        assert result["unknown"] == 0
        assert sum(result["events"].values()) == EVENTS
        uids = collector.uids()
        assert len(uids) == len(set(uids)) == EVENTS
        times = sorted(record.time_unix_nano for _, record in collector.records())
    recorded = [line.partition('"t": ')[2].partition(",")[0] for path in CAPTURES for line in path.open()]
    assert times == sorted(int(t.partition(".")[0]) * 10**9 + int(t.partition(".")[2].ljust(9, "0")) for t in recorded)
    assert {file["host"] for file in result["files"]} == {"localhost"}
    assert result["files"][0]["pid"] == 24672
    assert spools.files(SPOOL_SUFFIX) == []


def test_each_file_is_an_agent_with_a_resource_of_its_own(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Two agents of one run must stay two series in the backend."""
    # other content than in the tests before: resources are kept by origin for the life of a process
    files = [tmp_path / path.name for path in CAPTURES[:2]]
    for file, path in zip(files, CAPTURES, strict=False):
        file.write_bytes(path.read_bytes() + b"\n")
    with GrpcCollector() as collector:
        setenv(collector.env() | {"OTEL_SERVICE_NAME": "replayed", "POD_NAME": "the-replaying-pod"})
        status, result = replay(capsys, *map(str, files))
        assert status == 0
        seen = {(resource["service.instance.id"], resource["process.pid"]) for resource, _ in collector.records()}
        assert seen == {(file["origin"], file["pid"]) for file in result["files"]}
        assert {resource["service.name"] for resource, _ in collector.records()} == {"replayed"}
        assert not any("k8s.pod.name" in resource for resource, _ in collector.records())


def test_a_second_replay_gives_the_same_uids(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """So that a backend can drop what it has; packing a file changes nothing."""
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(CAPTURES[0].read_bytes()))
    with HttpCollector() as collector:
        setenv(collector.env())
        assert replay(capsys, FILES[0])[0] == 0
        first = collector.uids()
        assert replay(capsys, str(packed))[0] == 0
        assert collector.uids() == first + first


def test_what_cannot_be_delivered_now_is_left_to_flush_with_the_same_uids(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, the reason, and nothing is lost."""
    setenv({"TORCHELASTIC_OTEL_HEARTBEATS": "logs"})
    with HttpCollector() as collector:
        setenv(collector.env())
        collector.behaviour = UNAVAILABLE
        status, result = replay(capsys, "--timeout", "5", FILES[0])
        assert status == 1
        assert result["left"] == 45
        assert "HTTP 503" in result["why"]["otlp"]
        assert len(spools.files(SPOOL_SUFFIX)) == 1
        assert main(["replay", "--timeout", "5", FILES[0]]) == 1
        text = capsys.readouterr().out
        assert "45 of 45 events are left (otlp: HTTP 503" in text
        assert "'torchelastic-otel flush' delivers them" in text
        assert len(spools.files(SPOOL_SUFFIX)) == 1, "the same content is one agent, however often it is replayed"
        collector.behaviour = OK
        assert main(["flush"]) == 0
        assert len(collector.uids()) == len(set(collector.uids())) == 45
        assert spools.files(SPOOL_SUFFIX) == []


def test_a_replay_that_was_killed_half_way_is_completed_by_the_next(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the first one kept must not come twice, nor under other uids."""
    setenv({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{refusing_port()}"})
    setenv({"TORCHELASTIC_OTEL_HEARTBEATS": "logs"})
    assert replay(capsys, "--timeout", "0.5", FILES[0])[0] == 1
    [owned] = adoption.adopt(spools.directory, 1 << 26)
    owned.spool._connection.execute("DELETE FROM events WHERE sequence > 10")
    owned.spool._connection.execute("UPDATE sqlite_sequence SET seq = 10 WHERE name = 'events'")
    owned.spool.close()
    owned.lock.release()
    with HttpCollector() as collector:
        setenv(collector.env())
        assert replay(capsys, FILES[0])[0] == 0
        assert [int(uid.rpartition("-")[2]) for uid in collector.uids()] == list(range(1, 46))


def test_heartbeats_are_no_logs_unless_they_are_asked_for(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than half of a stream, and nothing a person looks for; what is withheld is not left either."""
    with HttpCollector() as collector:
        setenv(collector.env())
        status, result = replay(capsys, FILES[0])
        assert (status, result["left"], result["refused"]) == (0, 0, 0)
        told = [record.event_name for _, record in collector.records()]
        assert not set(told) & semconv.HEARTBEATS
        assert len(told) == sum(count for name, count in result["events"].items() if name not in semconv.HEARTBEATS)
        assert spools.files(SPOOL_SUFFIX) == []


def test_what_an_earlier_replay_owes_to_another_destination_is_not_this_ones_business(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is asked for console now: delivered there is delivered; the rest goes on waiting for flush."""
    setenv({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{refusing_port()}"})
    assert replay(capsys, "--timeout", "0", FILES[0])[0] == 1
    status, result = replay(capsys, "--destination", "memory", FILES[0])
    assert (status, result["left"], result["why"]) == (0, 0, {})
    assert len(spools.files(SPOOL_SUFFIX)) == 1


def test_what_a_receiver_refuses_is_told(spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused is not delivered."""
    with HttpCollector() as collector:
        collector.behaviour = BAD_REQUEST
        setenv(collector.env())
        assert main(["replay", str(CAPTURES[12])]) == 1
    assert "1 event rejected" in capsys.readouterr().out


def test_torchs_raw_lines_among_other_text_are_read_from_stdin(
    spools: Spools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ``torchrun --event-log-handler console 2>&1 | torchelastic-otel replay -`` gives."""
    events = [json.loads(line)["event"] for line in CAPTURES[2].open()]
    lines = ["W0101 a warning of torch's", *map(json.dumps, events), "", "Traceback (most recent call last):"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    assert main(["replay", "--destination", "memory", "--json", "-"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["files"][0]["file"] == "<stdin>"
    assert result["files"][0]["events"] == len(events)
    assert result["unknown"] == 0
    assert shown.err.splitlines() == [
        "torchelastic-otel replay: <stdin>:1: not JSON; skipped",
        f"torchelastic-otel replay: <stdin>:{len(events) + 3}: not JSON; skipped",
    ]


def test_strict_stops_at_a_bad_line_and_delivers_nothing(
    spools: Spools, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """For pipelines that would rather have nothing than a part."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(CAPTURES[0].read_bytes() + b'{"t": 12, "ev')
    assert main(["replay", "--strict", "--destination", "console", str(file)]) == 1
    shown = capsys.readouterr()
    assert shown.err == f"torchelastic-otel replay: {file}:46: not JSON; nothing was delivered (--strict)\n"
    assert shown.out == ""
    assert list(spools.directory.iterdir()) == []


def test_a_whole_jobs_stderr_does_not_drown_the_terminal(
    spools: Spools, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Twenty bad lines are named, the rest is counted."""
    file = tmp_path / "stderr"
    file.write_bytes(b"text\n" * 1_000 + CAPTURES[0].read_bytes())
    assert main(["replay", "--destination", "memory", str(file)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == f"torchelastic-otel replay: {file}: 980 more such lines"


def test_unknown_events_are_pointed_out_and_delivered(
    spools: Spools, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A torch that is newer than this version must be noticed, not hidden."""
    file = tmp_path / "new.jsonl"
    event = {"name": "torchelastic.worker.status.ASCENDED", "source": "WORKER", "metadata": {}}
    file.write_text(json.dumps({"t": 1, "dest": "null", "event": event}))
    assert main(["replay", "--destination", "memory", str(file)]) == 0
    out = capsys.readouterr().out
    assert "1  torchelastic.event  <- unknown to this version" in out
    assert "all 1 events are delivered" in out


def test_the_same_content_given_twice_is_taken_once(
    spools: Spools, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One agent cannot be two."""
    status, result = replay(capsys, "--destination", "memory", FILES[0], FILES[0])
    assert status == 0
    assert len(result["files"]) == 1


def test_a_stream_that_another_process_delivers_is_left_to_it(
    spools: Spools, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two writers of one spool would break it."""
    from torchelastic_otel.cli.log_captures import read

    owned = adoption.create(spools.directory, read(CAPTURES[0].read_bytes()).digest, 1 << 20)
    try:
        assert main(["replay", "--destination", "memory", FILES[0]]) == 1
        assert "another process is delivering the same content" in capsys.readouterr().err
    finally:
        owned.release()


def test_more_than_a_spool_may_take_is_replayed_whole(
    spools: Spools, setenv: SetEnv, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The spool's bound is for jobs; a replay must not drop its own beginning."""
    event = {"name": "n", "source": "AGENT", "metadata": {"text": "x" * 2_000}}
    file = tmp_path / "large.jsonl"
    file.write_text("".join(json.dumps({"t": t, "dest": "null", "event": event}) + "\n" for t in range(2_000)))
    setenv({"TORCHELASTIC_OTEL_SPOOL_MAX_BYTES": str(1 << 20)})
    status, result = replay(capsys, "--destination", "memory", "--timeout", "30", str(file))
    assert status == 0
    assert result["files"][0]["exporters"]["memory"]["delivered"] == 2_000


def test_an_exporter_that_cannot_be_made_is_a_mistake_of_settings(
    spools: Spools, capsys: pytest.CaptureFixture[str]
) -> None:
    """No waiting for what can never work."""
    assert main(["replay", "--destination", "console_line", FILES[0]]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "unknown destination 'console_line'" in err
