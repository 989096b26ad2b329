"""The ``console`` destination, on real streams."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from torchelastic_otel.export.otel.console import ConsoleLineExporter

SUCCESS, FAILURE = LogRecordExportResult.SUCCESS, LogRecordExportResult.FAILURE


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Colour is welcome."""
        return True


def a_record(body: str = "The node has joined.", severity: SeverityNumber = SeverityNumber.INFO) -> ReadableLogRecord:
    """A record with everything the line shows."""
    return ReadableLogRecord(
        log_record=LogRecord(
            timestamp=43_384_512_999_999,
            observed_timestamp=99,
            context=Context(),
            severity_number=severity,
            body=body,
            event_name="torchelastic.rendezvous.joined",
            attributes={
                "torchelastic.group.rank": 0,
                "torchelastic.group.world_size": 2,
                "torchelastic.rendezvous.round": 1,
            },
        ),
        resource=Resource({"host.name": "node-a"}),
    )


def printed(record: ReadableLogRecord, stream: io.StringIO | None = None, **environment: str) -> str:
    """What the exporter prints for a record, in UTC."""
    stream = stream if stream is not None else io.StringIO()
    exporter = ConsoleLineExporter(stream, localtime=time.gmtime, environment=environment)
    assert exporter.export([record]) is SUCCESS
    return stream.getvalue()


def test_a_record_is_one_line_that_says_when_where_and_what() -> None:
    """The line is the product: held by a literal."""
    assert printed(a_record()) == (
        "12:03:04.512 INFO  node-a       node 0/2   round 1  rendezvous.joined              The node has joined.\n"
    )


def test_what_is_not_known_is_a_dash_in_the_same_columns() -> None:
    """A record before the first round lines up with the others."""
    record = a_record()
    record.log_record.attributes = {}
    assert printed(record) == (
        "12:03:04.512 INFO  node-a       node -/-   round -  rendezvous.joined              The node has joined.\n"
    )


def test_a_body_cannot_break_the_line_or_steer_the_terminal() -> None:
    """Bodies come from workers' exceptions, that is from anywhere."""
    line = printed(a_record("first\n  second\x1b[2Jthird"))
    assert line.endswith("first second\\x1b[2Jthird\n")
    assert line.count("\n") == 1


def test_colour_only_on_a_terminal_and_not_against_no_color() -> None:
    """Log files and CI stay plain text."""
    error = a_record(severity=SeverityNumber.ERROR)
    assert "\x1b" not in printed(error)
    assert "\x1b" not in printed(error, Terminal(), NO_COLOR="1")
    assert printed(error, Terminal()).startswith("\x1b[31m12:03:04.512 ERROR node-a")


def test_stderr_is_looked_up_at_each_write(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that redirects stderr later is followed."""
    exporter = ConsoleLineExporter()
    exporter.export([a_record()])
    assert "rendezvous.joined" in capsys.readouterr().err
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    exporter.export([a_record()])
    assert "rendezvous.joined" in later.getvalue()


def test_an_ascii_stream_gets_escapes_instead_of_an_error() -> None:
    """``LC_ALL=C`` in a container must not stop the destination."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert ConsoleLineExporter(stream).export([a_record("é \ud800")]) is SUCCESS
    assert raw.getvalue().decode("ascii").endswith("\\xe9 \\ud800\n")


def test_a_stream_that_is_gone_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed stderr or a pipe without a reader never comes back: retrying would only fill the spool."""
    closed = io.StringIO()
    closed.close()
    assert ConsoleLineExporter(closed).export([a_record()]) is SUCCESS
    monkeypatch.setattr(sys, "stderr", None)
    assert ConsoleLineExporter().export([a_record()]) is SUCCESS
    reader, writer = os.pipe()
    os.close(reader)
    stream = io.TextIOWrapper(io.FileIO(writer, "w"), encoding="utf-8", write_through=True)
    assert ConsoleLineExporter(stream).export([a_record()]) is SUCCESS


def test_a_full_disk_behind_the_stream_is_a_failure() -> None:
    """Redirected to a file on a full disk, the records are kept for a retry."""
    # Closing flushes what the device never takes.
    with contextlib.suppress(OSError), open("/dev/full", "w") as stream:
        result = ConsoleLineExporter(stream).export([a_record()])
    assert result is FAILURE


def test_after_shutdown_nothing_is_taken() -> None:
    """What is not printed must not be acknowledged."""
    stream = io.StringIO()
    exporter = ConsoleLineExporter(stream)
    exporter.shutdown()
    assert exporter.export([a_record()]) is FAILURE
    assert stream.getvalue() == ""
