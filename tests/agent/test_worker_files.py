"""Files that workers write are read where nothing waits for them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.support.observers import wait_until_idle
from torchelastic_otel.agent.worker_files import READ_TIMEOUT_NS, FileReader, read_regular
from torchelastic_otel.event_loop import EventLoopThread


def test_a_part_of_a_regular_file_is_read_with_its_time(tmp_path: Path) -> None:
    """Its beginning, or its end."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_regular(str(path), 4) == (b"0123", path.stat().st_mtime_ns)
    assert read_regular(str(path), 4, tail=True) == (b"6789", path.stat().st_mtime_ns)
    assert read_regular(str(path), 40, tail=True) == (b"0123456789", path.stat().st_mtime_ns)


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    """A FIFO would hold the reader for good, a link may lead to another user's file."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "target").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("fifo", "link", ".", "nothing", "n" * 300, "a\0b"):
        assert read_regular(str(tmp_path / name), 4) is None, name


@pytest.mark.tests_own_faults
def test_a_read_that_raises_or_hangs_is_given_up() -> None:
    """A network file system without its server answers never; others are read by another reader."""
    now = [0]
    thread = EventLoopThread(lambda: now[0], lambda: None)
    reader, release = FileReader(thread), threading.Event()
    results: list[tuple[str, object]] = []

    def fail() -> str:
        raise OSError("gone")

    thread.call_soon(lambda: reader.read(fail, lambda result: results.append(("raised", result))))
    while not results:
        wait_until_idle(thread)
    thread.call_soon(lambda: reader.read(release.wait, lambda result: results.append(("hung", result))))
    wait_until_idle(thread)
    assert results == [("raised", None)]
    now[0] = READ_TIMEOUT_NS + 1
    wait_until_idle(thread)
    assert results == [("raised", None), ("hung", None)]
    release.set()
    thread.stop()
