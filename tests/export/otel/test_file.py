"""The ``file`` destination, on real files."""

from __future__ import annotations

import gzip
import json
import logging
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import TraceFlags

from tests.support.otlp_lines import encode_line, read_lines
from torchelastic_otel.export.otel.file import OtlpJsonFileExporter
from torchelastic_otel.export.otel.otlp_json import from_json

SUCCESS, FAILURE = LogRecordExportResult.SUCCESS, LogRecordExportResult.FAILURE


def a_record(number: int = 1, body: str = "a message") -> ReadableLogRecord:
    """A record with every kind of attribute."""
    attributes: dict[str, Any] = {
        "log.record.uid": f"o-{number}",
        "n": 2**53 + 1,
        "f": 0.5,
        "ok": True,
        "ids": ("a", "b"),
    }
    return ReadableLogRecord(
        log_record=LogRecord(  # type: ignore[call-overload]
            timestamp=1_700_000_000_000_000_001,
            observed_timestamp=1_700_000_000_000_000_002,
            context=Context(),
            trace_id=0x1234,
            span_id=0xAB,
            trace_flags=TraceFlags(1),
            severity_number=SeverityNumber.INFO,
            severity_text="INFO",
            body=body,
            event_name="torchelastic.rendezvous.joined",
            attributes=attributes,
        ),
        resource=Resource({"host.name": "node-a"}, "https://example.test/schema"),
        instrumentation_scope=InstrumentationScope("torchelastic_otel", "1"),
    )


def uids(paths: Iterator[Path] | list[Path]) -> list[str]:
    """The uids of the records in files, in order."""
    return [
        attribute.value.string_value
        for path in paths
        for request in read_lines(path)
        for of_resource in request.resource_logs
        for scope in of_resource.scope_logs
        for record in scope.log_records
        for attribute in record.attributes
        if attribute.key == "log.record.uid"
    ]


def written(directory: Path) -> list[Path]:
    """The files of a directory, oldest first."""
    return sorted(directory.glob("*.jsonl"))


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """The kernel writes short at this size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def test_a_line_is_what_a_collectors_file_exporter_writes() -> None:
    """Other tools read these files: the whole form is held by a literal."""
    line = encode_line([a_record(body="two\nlines, é")])
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "resourceLogs": [
            {
                "resource": {"attributes": [{"key": "host.name", "value": {"stringValue": "node-a"}}]},
                "schemaUrl": "https://example.test/schema",
                "scopeLogs": [
                    {
                        "scope": {"name": "torchelastic_otel", "version": "1"},
                        "logRecords": [
                            {
                                "timeUnixNano": "1700000000000000001",
                                "observedTimeUnixNano": "1700000000000000002",
                                "severityNumber": 9,
                                "severityText": "INFO",
                                "eventName": "torchelastic.rendezvous.joined",
                                "body": {"stringValue": "two\nlines, é"},
                                "traceId": "00000000000000000000000000001234",
                                "spanId": "00000000000000ab",
                                "flags": 1,
                                "attributes": [
                                    {"key": "log.record.uid", "value": {"stringValue": "o-1"}},
                                    {"key": "n", "value": {"intValue": "9007199254740993"}},
                                    {"key": "f", "value": {"doubleValue": 0.5}},
                                    {"key": "ok", "value": {"boolValue": True}},
                                    {
                                        "key": "ids",
                                        "value": {
                                            "arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}
                                        },
                                    },
                                ],
                            }
                        ],
                    }
                ],
            }
        ]
    }


def test_what_is_written_reads_back_as_the_same_request(tmp_path: Path) -> None:
    """Encoder and parser are inverse, ids included; gzip as a person compresses old files."""
    exporter = OtlpJsonFileExporter(tmp_path)
    assert exporter.export([a_record(1), a_record(2)]) is SUCCESS
    [path] = written(tmp_path)
    zipped = tmp_path / "old.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    [plain], [unzipped] = list(read_lines(path)), list(read_lines(zipped))
    assert plain == unzipped
    record = plain.resource_logs[0].scope_logs[0].log_records[1]
    assert record.trace_id == (0x1234).to_bytes(16, "big")
    assert record.span_id == (0xAB).to_bytes(8, "big")
    assert record.time_unix_nano == 1_700_000_000_000_000_001


def test_files_are_private_and_named_by_host_and_pid(tmp_path: Path) -> None:
    """Promise 8 for what leaves the spool: tracebacks are nobody else's business."""
    directory = tmp_path / "deep" / "telemetry"
    before = os.umask(0o000)
    try:
        assert OtlpJsonFileExporter(directory, stem="job").export([a_record()]) is SUCCESS
    finally:
        os.umask(before)
    [path] = written(directory)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o700
    assert path.name.startswith("job-")
    assert path.name.endswith(f"-{os.getpid()}.000001.jsonl")


def test_files_stay_below_the_bound_and_the_oldest_goes(tmp_path: Path) -> None:
    """The destination cannot fill a disk; every line is whole in one file."""
    size = len(encode_line([a_record(10)]))
    exporter = OtlpJsonFileExporter(tmp_path, max_file_bytes=3 * size, max_files=2)
    for number in range(10, 20):
        assert exporter.export([a_record(number)]) is SUCCESS
    files = written(tmp_path)
    assert [path.name.split(".")[-2] for path in files] == ["000003", "000004"]
    assert all(path.stat().st_size <= 3 * size for path in files)
    assert uids(files) == [f"o-{number}" for number in (16, 17, 18, 19)]


def test_a_line_above_the_bound_gets_a_file_of_its_own(tmp_path: Path) -> None:
    """A line is never split, so the bound gives way, once."""
    exporter = OtlpJsonFileExporter(tmp_path, max_file_bytes=1000)
    for number, body in ((1, "small"), (2, "x" * 5000), (3, "small")):
        assert exporter.export([a_record(number, body)]) is SUCCESS
    assert [uids([path]) for path in written(tmp_path)] == [["o-1"], ["o-2"], ["o-3"]]


def test_a_full_disk_is_a_failure_that_leaves_no_torn_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A real short write (file size limit): taken back, said once, and the retry goes through."""
    exporter = OtlpJsonFileExporter(tmp_path)
    assert exporter.export([a_record(1)]) is SUCCESS
    with file_size_limit(len(encode_line([a_record(1)])) + 100), caplog.at_level(logging.WARNING):
        assert exporter.export([a_record(2)]) is FAILURE
        assert exporter.export([a_record(2)]) is FAILURE
    assert len(caplog.records) == 1
    assert exporter.export([a_record(2)]) is SUCCESS
    [path] = written(tmp_path)
    assert uids([path]) == ["o-1", "o-2"]


def test_a_directory_that_cannot_be_made_fails_until_it_can(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A volume that is mounted late costs nothing but a wait."""
    blocked = tmp_path / "volume"
    blocked.write_text("not a directory")
    exporter = OtlpJsonFileExporter(blocked / "out")
    assert exporter.export([a_record()]) is FAILURE
    assert "volume" in caplog.text
    blocked.unlink()
    assert exporter.export([a_record()]) is SUCCESS


def test_a_symbolic_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """Nobody can make us write into a file of their choice."""
    victim = tmp_path / "victim"
    probe = OtlpJsonFileExporter(tmp_path / "probe")
    probe.export([a_record()])
    [name] = [path.name for path in written(tmp_path / "probe")]
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / name).symlink_to(victim)
    exporter = OtlpJsonFileExporter(directory)
    assert exporter.export([a_record()]) is SUCCESS
    assert not victim.exists()
    assert exporter.path is not None
    assert exporter.path.endswith(".000002.jsonl")


def test_a_line_torn_by_a_kill_spoils_nothing_after_it(tmp_path: Path) -> None:
    """The next process starts its own file, and the reader leaves the torn end out."""
    first = OtlpJsonFileExporter(tmp_path)
    first.export([a_record(1)])
    [path] = written(tmp_path)
    with path.open("ab") as file:
        file.write(encode_line([a_record(2)])[:77])
    second = OtlpJsonFileExporter(tmp_path)
    second.export([a_record(2)])
    assert uids(written(tmp_path)) == ["o-1", "o-2"]
    torn = tmp_path / "torn.gz"
    torn.write_bytes(gzip.compress(path.read_bytes())[:-9])
    assert uids([torn]) in (["o-1"], [])


def test_a_bad_line_in_the_middle_is_named(tmp_path: Path) -> None:
    """Damage that no kill explains is not passed over in silence."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode_line([a_record()]) + b"\n" + b"{oops}\n" + encode_line([a_record()]))
    with pytest.raises(ValueError, match=r"x\.jsonl:3: "):
        list(read_lines(path))


def test_ids_in_base64_are_refused() -> None:
    """Protobuf's own JSON is not OTLP; reading it would give wrong trace ids."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    text = '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"spanId":"AAAAAAAAAKs="}]}]}]}'
    with pytest.raises(ValueError, match="hex"):
        from_json(text, ExportLogsServiceRequest())


def test_a_record_that_cannot_be_encoded_raises_and_writes_nothing(tmp_path: Path) -> None:
    """The pipeline splits on an exception; on FAILURE it would retry the bad record for ever."""
    exporter = OtlpJsonFileExporter(tmp_path)
    with pytest.raises(ValueError):
        exporter.export([a_record(1), a_record(2, "\ud800")])
    assert written(tmp_path) == []


def test_a_deleted_file_is_not_written_to_any_more(tmp_path: Path) -> None:
    """Log rotation from outside does not swallow what comes after it."""
    exporter = OtlpJsonFileExporter(tmp_path)
    exporter.export([a_record(1)])
    written(tmp_path)[0].unlink()
    exporter.export([a_record(2)])
    assert uids(written(tmp_path)) == ["o-2"]


def test_a_forked_child_writes_its_own_file(tmp_path: Path) -> None:
    """Two processes never share a file: a size bound and a torn line are one process's affair."""
    program = """
        import os, sys
        sys.path[:0] = [{root!r}]
        from tests.export.otel.test_file import OtlpJsonFileExporter, a_record
        exporter = OtlpJsonFileExporter({directory!r})
        exporter.export([a_record(1)])
        child = os.fork()
        if child == 0:
            exporter.export([a_record(2)])
            os._exit(0)
        os.waitpid(child, 0)
        exporter.export([a_record(3)])
    """
    program = textwrap.dedent(program).format(root=str(Path(__file__).parents[3]), directory=str(tmp_path))
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert sorted(uids([path]) for path in written(tmp_path)) == [["o-1", "o-3"], ["o-2"]]


def test_after_shutdown_nothing_is_taken(tmp_path: Path) -> None:
    """What is not written must not be acknowledged."""
    exporter = OtlpJsonFileExporter(tmp_path)
    exporter.export([a_record(1)])
    exporter.shutdown()
    assert exporter.force_flush()
    assert exporter.export([a_record(2)]) is FAILURE
    assert uids(written(tmp_path)) == ["o-1"]


@pytest.mark.parametrize("bad", [{"stem": "../up"}, {"stem": ""}, {"max_files": 0}, {"max_file_bytes": 0}])
def test_a_bad_argument_is_named(tmp_path: Path, bad: dict[str, object]) -> None:
    """An error says what was given and what is allowed."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        OtlpJsonFileExporter(tmp_path, **bad)  # type: ignore[arg-type]
