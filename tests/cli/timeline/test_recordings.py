"""Lines of OTLP and of torch's own JSON: what stands in for what was taken away, what is absurd, whose they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs import LogRecordLimits

from tests.support.job_streams import AgentTape, clean_job
from tests.support.otlp_lines import encode_line
from tests.support.recordings import DIRECTORY
from torchelastic_otel import semconv
from torchelastic_otel.cli import main
from torchelastic_otel.cli.timeline.sources import read_paths
from torchelastic_otel.export.otel.logs import log_record
from torchelastic_otel.history.reducer import HistoryState, add, build_runs

README_LOGS = sorted((Path(__file__).parents[2] / "recordings" / "llama-finetune").glob("*.logs.jsonl"))


# --- OTLP


def otlp(agents: list[AgentTape]) -> list[dict[str, Any]]:
    """Their log records, each a request of its own."""
    return [
        json.loads(encode_line([log_record(delivery, LogRecordLimits())]))
        for agent in agents
        for delivery in agent.deliveries
    ]


def records_of(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The log records in a request."""
    return [
        record
        for resource_logs in request["resourceLogs"]
        for scope_logs in resource_logs["scopeLogs"]
        for record in scope_logs["logRecords"]
    ]


def write(path: Path, requests: list[dict[str, Any]]) -> Path:
    """The requests, one a line."""
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


def without_uid(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a processor leaves that takes the uid away."""
    for request in requests:
        for record in records_of(request):
            record["attributes"] = [a for a in record["attributes"] if a["key"] != semconv.LOG_RECORD_UID]
    return requests


def runs(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    """The runs of the document."""
    assert main(["timeline", "--json", "--all", *map(str, arguments)]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["runs"]
    return found


def test_records_without_a_uid_are_told_whole_from_rotated_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A place in a file is no name: the second file's events would take the place of the first's."""
    lines = [json.loads(line) for path in README_LOGS for line in path.read_text().splitlines()]
    whole = runs(capsys, *README_LOGS)
    bare = without_uid(lines)
    half = len(bare) // 2
    # the newest file has the shortest name, which comes last; "z-old" is read last, and is the older one
    newer, older = write(tmp_path / "logs.jsonl", bare[half:]), write(tmp_path / "z-old.jsonl", bare[:half])
    assert len(whole[0]["events"]) >= 90
    assert runs(capsys, tmp_path) == whole
    assert runs(capsys, older, newer) == whole
    assert runs(capsys, tmp_path, write(tmp_path / "again.json", bare)) == whole, (
        "recorded twice, it is still one event"
    )


def test_records_without_a_uid_beside_such_with_one_take_no_ones_place(tmp_path: Path) -> None:
    """The configuration of a Collector changes in the middle of a run."""
    [agent] = clean_job(1)
    requests = otlp([agent])
    named = write(tmp_path / "a.jsonl", requests[:7])
    bare = write(tmp_path / "b.jsonl", without_uid(requests[7:]))
    data = read_paths([str(bare), str(named)], print)
    assert len({delivery.sequence for delivery in data.events}) == len(agent.events)
    [run] = build_runs(add(HistoryState(), data.events))
    assert [event.name for event in run.agents[0].events] == [event.name for event in agent.events]


@pytest.mark.parametrize(
    "value",
    [
        {"doubleValue": float("nan")},
        {"doubleValue": float("-inf")},
        {"doubleValue": "NaN"},
        {"doubleValue": 10**400},
        {"intValue": 1 << 63},
        {"intValue": "-99999999999999999999"},
        {"intValue": True},
        {"stringValue": 5},
    ],
)
def test_an_attribute_that_json_cannot_say_again_is_none(
    value: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The document must be JSON for every reader: a bare NaN is not."""
    requests = otlp(clean_job(1))
    for request in requests:
        for record in records_of(request):
            record["attributes"] += [
                {"key": "hostile", "value": value},
                {"key": "good", "value": {"doubleValue": "2.5"}},
            ]
    [run] = runs(capsys, write(tmp_path / "a.jsonl", requests))
    assert run["outcome"] == "succeeded"
    assert not [event for event in run["events"] if "hostile" in event["attributes"]]
    assert {event["attributes"]["good"] for event in run["events"]} == {2.5}


@pytest.mark.parametrize("time", [10**39, "9" * 20, -5, float("nan"), None, "soon"])
def test_an_absurd_time_is_no_time(time: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A year that no calendar has must not end in a traceback."""
    requests = otlp(clean_job(1))
    records_of(requests[0])[0]["timeUnixNano"] = time
    path = write(tmp_path / "a.jsonl", requests)
    [run] = runs(capsys, path)
    assert (run["outcome"], run["events"][0]["at"]) == ("succeeded", None)
    assert main(["timeline", "--all", str(path)]) == 0


# --- torch's own events


def test_a_file_in_which_several_agents_are_mixed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``srun``'s stderr is everybody's: its history has runs that never were."""
    lines = [(DIRECTORY / f"clean-2node-{letter}.jsonl").read_text().splitlines() for letter in "AB"]
    path = tmp_path / "stderr.log"
    both = sorted((line for each in lines for line in each), key=lambda line: float(json.loads(line)["t"]))
    path.write_text("\n".join(both))
    warning = (
        f"torchelastic-otel timeline: {path}: the lines of several agents are mixed (localhost pid 22996, localhost pid"
        " 22997); give one file for each agent, otherwise the timeline is wrong\n"
    )
    assert main(["timeline", str(path)]) == 0
    assert capsys.readouterr().err == warning
    path.write_text("\n".join(json.dumps(json.loads(line)["event"]) for line in both))
    assert main(["timeline", str(path)]) == 0
    assert capsys.readouterr().err == warning, "also in torch's own JSON"


@pytest.mark.parametrize(
    ("backend", "agents", "mixed"),
    [
        ("static", ["a0", "b1", "a0", "b1"], "a node 0 of j, b node 1 of j"),
        ("static", ["a0", "a1", "a0", "a1"], "a node 0 of j, a node 1 of j"),
        ("static", ["a0", "a0"], None),
        ("etcd", ["a0", "a0", "b1", "b1"], "a, b"),
        ("etcd", ["a0", "a1"], None),
    ],
)
def test_agents_without_events_of_a_rendezvous_are_told_apart_by_host_and_rank(
    backend: str, agents: list[str], mixed: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing tells of processes there; a rank may change from round to round, but not under static."""
    lines = []
    for host, rank in map(tuple, agents):
        data = {"hostname": host, "run_id": "j", "rdzv_backend": backend, "group_rank": int(rank), "state": "START"}
        lines.append(json.dumps({"name": "torchelastic.worker.status.START", "source": "WORKER", "metadata": data}))
    path = tmp_path / "stderr.log"
    path.write_text("\n".join(lines))
    main(["timeline", str(path)])
    assert f"({mixed})" in capsys.readouterr().err if mixed else "mixed" not in capsys.readouterr().err


def test_a_recording_with_a_number_that_json_cannot_say_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's JSON writes a bare NaN, and reads it again; others do not."""
    lines = [json.loads(line) for line in (DIRECTORY / "clean-1node-A.jsonl").read_text().splitlines()]
    for line in lines:
        if "metadata" in line["event"]:
            line["event"]["metadata"]["duration_ms"] = float("nan")
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert "NaN" in path.read_text()
    assert runs(capsys, path)[0]["outcome"] == "succeeded"


def test_a_log_that_one_job_after_another_wrote_to_is_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is any recording of one agent; a warning that is always there is none."""
    path = tmp_path / "stderr.log"
    path.write_bytes(b"".join((DIRECTORY / f"clean-{n}node-A.jsonl").read_bytes() for n in (1, 2)))
    assert len(runs(capsys, path)) == 2
    for each in (path, DIRECTORY):
        main(["timeline", str(each)])
        assert capsys.readouterr().err == ""
