"""Spools that an older version wrote are delivered and read as that version delivered and read them."""

from __future__ import annotations

import json
import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.received import Receiver
from torchelastic_otel.cli import main
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX, SPOOL_SUFFIX, prepare_directory

RECORDINGS = Path(__file__).parents[1] / "recordings" / "spools-b323570"
EXPECTED = json.loads((RECORDINGS / "expected.json").read_text())
JOBS = {"fails-once": ("node-a", "node-b"), "killed": ("node-c", "node-d")}
NODES = [(job, node) for job, nodes in JOBS.items() for node in nodes]


def unpack(job: str, directory: Path) -> None:
    """The files of a job's nodes, a folder for each node."""
    with tarfile.open(RECORDINGS / f"{job}.tar.xz") as archive:
        archive.extractall(directory)


def place(job: str, node: str, base: Path) -> Path:
    """One node's spool in a spool directory; its file."""
    directory = prepare_directory(base, os.geteuid())
    unpack(job, base / "unpacked")
    for file in (base / "unpacked" / node).iterdir():
        file.rename(directory / file.name)
    [spool] = directory.glob(f"*{SPOOL_SUFFIX}")
    return spool


def rows_of(spool: Path) -> dict[str, list[Any]]:
    """The processed events as they are in the file, by uid, read without any code of the package."""
    with closing(sqlite3.connect(f"file:{spool}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT sequence, payload FROM events WHERE NOT raw AND destination != 'spans'")
        return {f"{spool.stem}-{sequence}": json.loads(payload) for sequence, payload in rows}


@pytest.mark.parametrize(("job", "node"), NODES)
def test_an_older_spool_is_adopted_and_delivered_whole(
    job: str, node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An upgrade loses nothing: undelivered and unprocessed records, spans left open, counts since the last export."""
    spool = place(job, node, tmp_path)
    written = rows_of(spool)
    with Receiver() as receiver:
        for name, value in {
            "TORCHELASTIC_OTEL_SPOOL_DIR": str(tmp_path),
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }.items():
            monkeypatch.setenv(name, value)
        assert main(["flush", "--json"]) == 0, capsys.readouterr().out
        records, spans, metrics = receiver.records, receiver.spans, receiver.metrics
    expected = EXPECTED["delivered"][node]
    assert {record.uid: record.event_name for record in records} == expected["logs"]
    assert {span.span_id: span.name for span in spans} == expected["spans"]
    assert sorted(span.span_id for span in spans if span.error is not None) == expected["errors"]
    # the last point of each series, in order of arrival
    series = {
        f"{metric.name} {json.dumps(point.attributes, sort_keys=True)}": [point.value, point.count, list(point.buckets)]
        for metric in metrics
        for point in metric.points
    }
    assert {name: value for name, value in series.items() if value[0] or value[1]} == expected["metrics"]
    assert {record.resource["host.name"] for record in records} <= {node}
    compared = 0
    for record in records:
        if record.uid in written:
            name, _, body, time_ns, observed_ns, _, severity, attributes, trace_id, span_id = written[record.uid]
            assert (record.event_name, record.body, record.severity) == (name, body, severity)
            assert record.time_ns == (observed_ns if time_ns is None else time_ns)
            assert (record.trace_id, record.span_id) == (trace_id or "", span_id or "")
            assert {key: value for key, value in record.attributes.items() if key in attributes} == attributes
            compared += 1
    assert compared >= 2
    assert not spool.exists()
    assert spool.with_suffix(DELIVERED_SUFFIX).exists()


@pytest.mark.parametrize("job", JOBS)
def test_the_timeline_of_older_spools_is_unchanged(
    job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """History is read from spools of any age, unprocessed records included; sentences may change, data may not."""
    unpack(job, tmp_path)
    assert main(["timeline", "--json", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    for run in found["runs"]:
        assert isinstance(run.pop("inferred"), list)
        assert isinstance(run.pop("unknown"), list)
    assert known_to(EXPECTED["timeline"][job], found) == EXPECTED["timeline"][job]


def known_to(older: object, newer: object) -> object:
    """What the older version wrote of a document: objects without the keys that it did not have."""
    if isinstance(older, dict) and isinstance(newer, dict):
        return {key: known_to(older[key], value) for key, value in newer.items() if key in older}
    if isinstance(older, list) and isinstance(newer, list) and len(older) == len(newer):
        return [known_to(one, other) for one, other in zip(older, newer, strict=True)]
    return newer
