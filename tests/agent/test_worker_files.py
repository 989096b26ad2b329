"""Files that workers write are read where nothing waits for them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.support.observed_agent import ObservedAgent
from tests.support.observers import LONGEST_S, wait_until_idle
from torchelastic_otel import semconv
from torchelastic_otel.agent import inspection
from torchelastic_otel.agent.worker_files import READ_TIMEOUT_NS, FileReader, read_regular
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.units import NS_PER_S


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


def test_a_failure_is_reported_and_proposed_though_its_files_cannot_be_read(
    observed: ObservedAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The log folder's server is gone: what is known without it is reported when its time is over."""
    reading, blocked = threading.Event(), threading.Event()

    def block(worker: object, findings: object) -> None:
        reading.set()
        blocked.wait(LONGEST_S)

    monkeypatch.setattr(inspection, "_read_logs", block)
    worker = observed.worker(0, "exit 3", tmp_path / "error.json")
    observed.bring_up(0, [worker])
    stdin = observed.processes[0].stdin
    assert stdin is not None
    stdin.close()
    assert reading.wait(LONGEST_S)
    # torch's thread passes a task and goes on
    observed.watch.on_close_begin({0: 3})
    wait_until_idle(observed.thread)
    assert observed.events.of(semconv.WORKER_FAILED) == []
    observed.clock.seconds += READ_TIMEOUT_NS / NS_PER_S
    wait_until_idle(observed.thread)
    (failed,) = observed.events.wait(semconv.WORKER_FAILED)
    assert failed.attributes[semconv.PROCESS_EXIT_CODE] == 3
    blocked.set()
