"""Recorded streams are read to the last digit, whatever stands among them."""

from __future__ import annotations

import gzip
import json

import pytest

from torchelastic_otel.cli.log_captures import BadLine, read
from torchelastic_otel.errors import UnreadableError

RAW_RENDEZVOUS = (
    '{"name": "dynamic_rendezvous.py:x", "run_id": "r", "message": "m", "hostname": "node-1", "pid": 77,'
    ' "node_state": "RUNNING", "master_endpoint": "", "rank": null, "local_id": 0, "error_trace": ""}'
)
RAW_AGENT = (
    '{"name": "torchelastic.worker.status.SUCCEEDED", "source": "AGENT", "timestamp": 0,'
    ' "metadata": {"run_id": "r", "hostname": "node-1", "duration_ms": NaN}}'
)


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"),
    [
        ("1795352134.557753", 1_795_352_134_557_753_000),
        ("1795352134.557753123", 1_795_352_134_557_753_123),
        ("1795352134.5577531239", 1_795_352_134_557_753_123),
        ("1795352134", 1_795_352_134_000_000_000),
        ("1.795352134557753e9", 1_795_352_134_557_753_000),
        ("0", 0),
        ("null", None),
    ],
)
def test_a_time_is_exact(seconds: str, nanoseconds: int | None) -> None:
    """A float is good to about 240 ns here: two events of one burst would change places."""
    capture = read(b'{"t": %s, "dest": "null", "event": {"name": "n"}}' % seconds.encode())
    assert [each.time_ns for each in capture.recorded] == [nanoseconds]


@pytest.mark.parametrize("seconds", ["-1", "1e300", "NaN", "Infinity", '"now"', "true", "9223372037"])
def test_a_time_that_is_none_makes_a_bad_line(seconds: str) -> None:
    """A guess would put the event anywhere; huge exponents must cost nothing."""
    capture = read(b'{"t": %s, "dest": "null", "event": {}}' % seconds.encode())
    assert capture.recorded == ()
    assert capture.bad == (BadLine(1, 'JSON, but not a capture: "t" is seconds since the epoch'),)


def test_torchs_own_lines_have_no_time_and_are_kept_to_the_letter() -> None:
    """Torch's ``timestamp`` is always 0; what it wrote is what normalise must see."""
    capture = read(f"{RAW_RENDEZVOUS}\n{RAW_AGENT}\n".encode())
    assert [(each.destination, each.text, each.time_ns) for each in capture.recorded] == [
        ("dynamic_rendezvous", RAW_RENDEZVOUS, None),
        ("console", RAW_AGENT, None),
    ]
    assert (capture.host_name, capture.pid) == ("node-1", 77)


def test_lines_that_are_no_events_are_named_and_the_rest_is_read() -> None:
    """A job's stderr holds anything, and a cut line at its end."""
    lines = [
        b"W0101 torch warning",
        b"",
        RAW_RENDEZVOUS.encode(),
        b"\xff\xfe",
        b'{"level": "info"}',
        b"17",
        b'{"t": 1, "dest": 5, "event": {}}',
        b"[" * 100_000,
        b'{"t": 1, "dest": "null", "ev',
    ]
    capture = read(b"\n".join(lines))
    assert [each.number for each in capture.recorded] == [3]
    assert capture.bad == (
        BadLine(1, "not JSON"),
        BadLine(4, "not UTF-8"),
        BadLine(5, "JSON, but not one of torch's events"),
        BadLine(6, "JSON, but not an event"),
        BadLine(7, 'JSON, but not a capture: "event" is the event, "dest" the name of its destination'),
        BadLine(8, "not JSON"),
        BadLine(9, "not JSON"),
    )


def test_gzip_is_read_and_is_the_same_agent() -> None:
    """Packed or not, the same events must get the same uids."""
    data = RAW_RENDEZVOUS.encode()
    assert read(gzip.compress(data)) == read(data)
    assert len(read(data).digest) == 32
    assert read(data).digest != read(data + b"\n" + data).digest


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:12] + b"x" * 20])
def test_damaged_gzip_is_said(damage: object) -> None:
    """Half a file must not look like a whole one."""
    assert callable(damage)
    with pytest.raises(UnreadableError, match="damaged"):
        read(damage(gzip.compress(RAW_RENDEZVOUS.encode() * 10)))


def test_a_stream_that_names_nobody_is_of_an_unknown_host() -> None:
    """A static rendezvous records no event with a pid; an invented one would mislead."""
    capture = read(json.dumps({"t": 1, "dest": "null", "event": {"name": "x", "source": "AGENT"}}).encode())
    assert (capture.host_name, capture.pid) == ("unknown", 0)
