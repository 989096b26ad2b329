"""``timeline`` shows the same history from every format, and reports clearly what it cannot read."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from opentelemetry.sdk._logs import LogRecordLimits

from tests.support.job_streams import AgentTape, clean_job, failing_job
from tests.support.orphaned_spools import Spools
from tests.support.otlp_lines import encode_line
from tests.support.recordings import DIRECTORY
from torchelastic_otel.cli import main
from torchelastic_otel.export.otel.logs import log_record
from torchelastic_otel.model.event import StoredEvent
from torchelastic_otel.processing.processor import ORIGIN_KEY, encode_record
from torchelastic_otel.spool import adoption

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "reference" / "timeline.schema.json").read_text())
RECORDED = sorted(DIRECTORY.glob("*.jsonl"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def timeline(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """The document, valid."""
    assert main(["timeline", "--json", *map(str, arguments)]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    VALIDATOR.validate(document)
    return document


def to_otlp(path: Path, deliveries: list[StoredEvent], batch: int = 7) -> Path:
    """The log records of the events, as the file destination writes them."""
    records = [log_record(delivery, LogRecordLimits()) for delivery in deliveries]
    path.write_bytes(b"".join(encode_line(records[i : i + batch]) for i in range(0, len(records), batch)))
    return path


def to_spool(spools: Spools, agent: AgentTape, *, deliver: bool = False) -> Path:
    """The agent's spool, left behind; with ``deliver``, delivered and retired."""
    owned = adoption.create(spools.directory, agent.origin.id, 1 << 22)
    owned.spool.put_meta(ORIGIN_KEY, agent.origin.to_json())
    if not deliver:
        owned.spool.subscribe({"otlp": ["null"]})
    owned.spool.append([("null", event.to_json()) for event in agent.events])
    path = owned.path
    owned.release()
    return path


def facts(document: dict[str, Any]) -> list[Any]:
    """What must not depend on how the events came here."""
    for run in document["runs"]:
        for member in run["nodes"]:
            del member["heartbeats"]
    return document["runs"]


def test_every_recording_gives_a_valid_document(capsys: pytest.CaptureFixture[str]) -> None:
    """The schema is what others build on."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    document = timeline(capsys, *RECORDED)
    assert len(document["runs"]) == 11
    assert timeline(capsys, DIRECTORY) == document, "a directory is all that is in it"
    every = timeline(capsys, "--all", *RECORDED)
    lines = sum(len(path.read_text().splitlines()) for path in RECORDED)
    assert sum(len(run["events"]) for run in every["runs"]) == lines


def test_the_document_of_a_failed_round_is_as_documented(
    spools: Spools, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Names, nesting, units: scripts hold on to them."""
    path = to_otlp(tmp_path / "logs.jsonl", [d for agent in failing_job() for d in agent.deliveries])
    [run] = timeline(capsys, path)["runs"]
    first = run["rounds"][0]
    assert (run["run_id"], run["outcome"], run["restarts"]) == ("job", "succeeded", 1)
    assert (run["started_at"], run["ended_at"]) == ("2026-11-22T12:53:20.000000000Z", "2026-11-22T12:54:05.500000000Z")
    assert run["time"] == {
        "training": 35.0,
        "rendezvous": 3.0,
        "starting": 4.0,
        "detecting": 2.0,
        "stopping": 1.0,
        "exit_barrier": 0.5,
        "unknown": 0.0,
    }
    assert run["effective_training_time_ratio"] == 35 / 45.5
    beside = ("kind", "node_id", "traceback", "time_error", "ambiguous", "stack", "in_collective", "explanation")
    assert {key: value for key, value in first["first_failure"].items() if key not in beside} == {
        "host": "node-b",
        "group_rank": 1,
        "rank": 3,
        "local_rank": 1,
        "pid": 1011,
        "exit_code": 1,
        "signal": None,
        "error_type": "ValueError",
        "message": "boom",
        "at": "2026-11-22T12:53:40.000000000Z",
        "inferred_from": "pidfd",
        "function": None,
        "file": None,
        "line": None,
        "evidence": "only_failure",
        "culprits": [],
    }
    assert first["restart"] == {
        "reason": "worker_failure",
        "index": 1,
        "agreed": True,
        "duration": 5.5,
        "phases": {"detect": 0.5, "stop": 1.5, "rendezvous": 2.0, "assign_ranks": 1.0, "start": 0.5},
    }
    assert run["rounds"][1]["restart"] is None
    assert first["last_joiner"] == "node-a_106_0"
    assert [(node["host"], node["left_reason"]) for node in first["nodes"]] == [
        ("node-a", "membership_change"),
        ("node-b", "worker_failure"),
    ]


def test_spools_delivered_ones_otlp_lines_and_all_of_them_at_once_tell_the_same(
    spools: Spools, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An event is the one that its uid names: kept twice, it is still one."""
    first, second = agents = failing_job()
    deliveries = [delivery for agent in agents for delivery in agent.deliveries]
    plain = to_otlp(tmp_path / "logs.jsonl", deliveries)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    left, retired = to_spool(spools, first), to_spool(spools, second, deliver=True).with_suffix(".delivered")
    assert left.exists()
    assert retired.exists()
    expected = facts(timeline(capsys, plain))
    assert facts(timeline(capsys, packed)) == expected
    assert facts(timeline(capsys)) == expected, "this node's spools are what is read without a path"
    assert facts(timeline(capsys, left, retired)) == expected
    assert facts(timeline(capsys, spools.directory, tmp_path)) == expected
    assert sorted(path.name for path in spools.directory.iterdir()) == sorted(
        [left.name, retired.name, left.with_suffix(".lock").name]
    ), "nothing is made by looking"


def test_a_collectors_file_is_read_whatever_it_did_on_the_way(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It adds resource attributes, mixes records of others among ours, writes empty ids, and numbers as it likes."""
    path = to_otlp(tmp_path / "logs.jsonl", [d for agent in clean_job(2) for d in agent.deliveries])
    expected = facts(timeline(capsys, path))
    lines = []
    for line in reversed(path.read_text().splitlines()):
        request = json.loads(line)
        for resource_logs in request["resourceLogs"]:
            resource_logs["resource"]["attributes"].append({"key": "cloud", "value": {"kvlistValue": {"values": []}}})
            for scope_logs in resource_logs["scopeLogs"]:
                for record in scope_logs["logRecords"]:
                    record |= {"traceId": "", "spanId": "", "timeUnixNano": int(record["timeUnixNano"])}
                scope_logs["logRecords"].append({"body": {"stringValue": "hello"}, "attributes": []})
        lines.append(json.dumps(request))
    lines += ['{"resourceSpans":[]}', '{"resourceMetrics":[{"resource":{}}]}']
    mixed = tmp_path / "mixed.json"
    mixed.write_text("\n".join(lines))
    assert facts(timeline(capsys, mixed)) == expected


def test_events_that_a_process_had_no_time_to_settle_are_read_from_its_spool(
    spools: Spools, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an agent kept in haste before it was killed is the most wanted."""
    lines = [json.loads(line) for line in (DIRECTORY / "clean-1node-A.jsonl").read_text().splitlines()]
    [whose] = [AgentTape("node-a", run_id="clean-1node")]
    owned = adoption.create(spools.directory, whose.origin.id, 1 << 22)
    owned.spool.put_meta(ORIGIN_KEY, whose.origin.to_json())
    owned.spool.subscribe({"otlp": ["null"]})
    rows = [(line["dest"], encode_record(json.dumps(line["event"]), int(line["t"] * 1e9), 1)) for line in lines]
    owned.spool.append(rows, unprocessed=True)
    [run] = timeline(capsys)["runs"]
    assert (run["run_id"], run["outcome"], run["nodes"][0]["host"]) == ("clean-1node", "succeeded", "node-a")
    assert len(owned.spool.unprocessed()) == len(rows), "they are still its owner's to settle"
    owned.release()


def test_a_live_agents_run_is_running_and_a_dead_ones_is_not(
    spools: Spools, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the lock beside a spool tells them apart."""
    [agent] = agents = [AgentTape("node-a")]
    agent.start(0)
    agent.bring_up(0, 0, 0, agents)
    path = to_spool(spools, agent)
    [dead] = timeline(capsys)["runs"]
    assert (dead["outcome"], dead["nodes"][0]["outcome"]) == ("failed", "lost")
    program = (
        "import sys; from pathlib import Path; from torchelastic_otel.spool.lock import acquire;"
        "held = acquire(Path(sys.argv[1])); print(bool(held), flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path.with_suffix(".lock"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "True\n"
        [live] = timeline(capsys)["runs"]
        owner.kill()
    assert (live["outcome"], live["ended_at"], live["rounds"][0]["outcome"]) == ("running", None, "running")


def test_a_spool_that_lost_its_oldest_events_says_so(spools: Spools, capsys: pytest.CaptureFixture[str]) -> None:
    """A history that begins in the middle must not look like a whole one."""
    [agent] = clean_job(1)
    path = to_spool(spools, agent)
    with sqlite3.connect(path) as spool:
        spool.execute("DELETE FROM events WHERE sequence <= 3")
    [run] = timeline(capsys)["runs"]
    assert any(sentence.startswith("the first 3 events of node-0 pid 106") for sentence in run["unknown"])


def test_stdin_is_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``kubectl logs ... | torchelastic-otel timeline -``."""
    data = (DIRECTORY / "max-restarts-exhausted-A.jsonl").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert timeline(capsys, "-")["runs"][0]["outcome"] == "failed"


def test_the_options_choose(capsys: pytest.CaptureFixture[str]) -> None:
    """A directory holds many runs, a run many rounds and nodes."""
    assert [run["run_id"] for run in timeline(capsys, "--run", "redundancy", *RECORDED)["runs"]] == ["redundancy"]
    [run] = timeline(capsys, "--run", "agent-sigkill", "--round", "1", *RECORDED)["runs"]
    assert [round_["round"] for round_ in run["rounds"]] == [1]
    [run] = timeline(capsys, "--run", "agent-sigkill", "--node", "localhost_24677_0", "--all", *RECORDED)["runs"]
    assert [member["node_id"] for member in run["nodes"]] == ["localhost_24677_0"]
    assert [round_["round"] for round_ in run["rounds"]] == [0]
    assert run["rounds"][0]["first_failure"]["kind"] == "node_lost", "what failed first stays, wherever that was"
    assert {event["attributes"].get("torchelastic.node.id") for event in run["events"]} == {"localhost_24677_0"}
    [run] = timeline(capsys, "--run", "agent-sigkill", "--node", "1", *RECORDED)["runs"]
    assert [member["node_id"] for member in run["nodes"]] == ["localhost_24677_0"]
    later = timeline(capsys, "--since", "2026-11-22T13:00:00Z", *RECORDED)["runs"]
    assert [run["run_id"] for run in later] == ["redundancy", "node-joins-scaleup-noshare", "torch1.13.1-clean-2node"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["no/such/file"], 2, "no/such/file: No such file or directory"),
        (
            ["{tmp}/text.log"],
            2,
            "text.log: no supported content (line 1: not JSON); allowed are spools, OTLP JSON lines",
        ),
        (["{tmp}/empty"], 2, "empty: nothing to read in this directory; allowed are"),
        (["{tmp}/packed.zst"], 2, "packed.zst: compressed with zstd; decompress it first: zstd -d"),
        (["{tmp}/torn.spool"], 2, "torn.spool"),
        (["{tmp}/foreign.db"], 2, "foreign.db"),
        (["--run", "other", "{captures}/clean-1node-A.jsonl"], 1, "no run matches the options; there are clean-1node"),
        (["--round", "7", "{captures}/clean-1node-A.jsonl"], 1, "no run matches the options"),
        (["{tmp}/nothing.jsonl"], 1, "there is no run in the files given"),
        ([], 1, "there is no run in this node's spool directory"),
        (["--round", "first"], 2, "'first' is not allowed; give a round's number, from 0"),
        (["--since", "yesterday"], 2, "'yesterday' is not allowed; give how long ago (90m, 2h, 7d) or a time"),
    ],
)
def test_what_cannot_be_read_or_is_not_there_is_one_line(
    arguments: list[str], status: int, message: str, spools: Spools, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was given, what is allowed, what to do; never a traceback."""
    (tmp_path / "text.log").write_text("hello\nworld\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "packed.zst").write_bytes(b"\x28\xb5\x2f\xfd rest")
    (tmp_path / "torn.spool").write_bytes(b"SQLite format 3\0" + b"x" * 5_000)
    with sqlite3.connect(tmp_path / "foreign.db") as other:
        other.execute("CREATE TABLE set_aside(x)")
    (tmp_path / "nothing.jsonl").write_text("")
    given = [argument.format(tmp=tmp_path, captures=DIRECTORY) for argument in arguments]
    assert main(["timeline", *given]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_bad_lines_torn_ends_and_torn_gzip_cost_no_other_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A kill tears the last line; a job's stderr holds anything."""
    path = to_otlp(tmp_path / "logs.jsonl", [d for agent in clean_job(1) for d in agent.deliveries])
    whole = path.read_bytes()
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(b"W1122 a warning\n" + whole + whole[: len(whole) // 2].rpartition(b"\n")[2])
    assert main(["timeline", "--json", str(torn)]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["runs"][0]["outcome"] == "succeeded"
    assert "torn.jsonl:1: not JSON; skipped" in shown.err
    packed = tmp_path / "torn.jsonl.gz"
    packed.write_bytes(gzip.compress(whole) + gzip.compress(whole)[:-30])
    assert main(["timeline", "--json", str(packed)]) == 0
    assert "the gzip stream is damaged or incomplete" in capsys.readouterr().err


def test_one_bad_file_in_a_directory_is_named_and_the_rest_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A directory is not chosen file by file."""
    (tmp_path / "notes.log").write_text("hello\n")
    (tmp_path / "a.jsonl").write_bytes((DIRECTORY / "clean-1node-A.jsonl").read_bytes())
    assert main(["timeline", "--json", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)["runs"]) == 1
    assert "notes.log: no supported content" in shown.err
    assert shown.err.endswith("skipped\n")
