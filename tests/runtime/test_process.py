"""The spool and the pipeline of one process, under what a machine does to them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.collector import wait_until
from tests.support.writers import seen
from torchelastic_otel.export.destinations import Registry
from torchelastic_otel.ingest.writer import Writer
from torchelastic_otel.runtime.process import ProcessRuntime
from torchelastic_otel.settings import from_environment

IS_OWNED = """
import sys
from pathlib import Path
from torchelastic_otel.spool.adoption import is_owned
print(is_owned(Path(sys.argv[1])))
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessRuntime]:
    """One whose events go to files, and whose maintenance thread scans without a pause."""
    monkeypatch.setenv("TORCHELASTIC_OTEL_SPOOL_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHELASTIC_OTEL_FILE_DIR", str(tmp_path / "out"))
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "10")
    settings, _ = from_environment(os.environ)
    registry = Registry()
    registry.set_default_exporters(registry.exporters("file"))
    made = ProcessRuntime(settings, registry, {})
    made.pipeline._interval_s = 0.01
    yield made
    made.close(10_000_000_000, drained=False, for_good=True)


@contextmanager
def no_thread_to_spare() -> Iterator[None]:
    """The system refuses every new thread: for what its stack would take."""
    before = threading.stack_size(1 << 50)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=int).start()
        yield
    finally:
        threading.stack_size(before)


def is_owned(path: Path) -> bool:
    """As another process sees it."""
    asked = [sys.executable, "-c", IS_OWNED, str(path)]
    return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout == "True\n"


def test_a_living_agents_spool_looks_used_and_stays_its_own(runtime: ProcessRuntime) -> None:
    """What systemd-tmpfiles removes after ten idle days, and what it leaves alone since it was touched."""
    runtime.open_spool()
    path = runtime.path
    assert path is not None
    lock = path.with_suffix(".lock")
    files = (path, lock, *(Path(f"{path}{end}") for end in ("-wal", "-shm")))
    old = {file: file.stat().st_mtime_ns for file in files}
    assert wait_until(lambda: all(file.stat().st_mtime_ns > old[file] for file in files), 60)
    lock.unlink()
    assert wait_until(lock.exists, 60)
    assert wait_until(lambda: is_owned(path), 60)


def test_a_spool_that_is_gone_is_said_once(runtime: ProcessRuntime, caplog: pytest.LogCaptureFixture) -> None:
    """A lock that nobody needs is not made again, each 30 s, for a file that is not there."""
    runtime.open_spool()
    path = runtime.path
    assert path is not None
    looked = threading.Semaphore(0)
    runtime.pipeline._on_scan = looked.release
    assert all(looked.acquire(timeout=60) for _ in range(2))  # no look is under way that found the spool
    path.unlink()
    path.with_suffix(".lock").unlink()
    runtime.pipeline._on_scan = runtime._touch
    assert wait_until(lambda: "or its lock was removed" in caplog.text, 60)
    runtime.pipeline._on_scan = lambda: (runtime._touch(), looked.release())
    assert all(looked.acquire(timeout=60) for _ in range(3))
    assert not path.with_suffix(".lock").exists()
    assert caplog.text.count("or its lock was removed") == 1


def test_without_a_thread_to_spare_events_are_kept_and_told_when_there_is_one(
    runtime: ProcessRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on processes is reached by a job's data loaders; the disk works all the same."""
    with no_thread_to_spare():
        writer = Writer(runtime)
        for number in range(30):
            assert writer.append(seen(f'{{"name": "kept {number}"}}')) == 0
            writer.process()
        assert caplog.text.count("cannot start a thread") == 1
        assert Writer(runtime)._spool is writer._spool  # whoever tries anew
    assert len(list(tmp_path.rglob("*.spool"))) == 1
    assert runtime.pipeline.pending() > 0
    assert wait_until(lambda: (runtime.on_commit(), runtime.pipeline._started.is_set())[1], 60)
    assert runtime.pipeline.flush(60_000_000_000)
    told = "".join(file.read_text() for file in (tmp_path / "out").rglob("*.jsonl"))
    assert all(f"kept {number}" in told for number in range(30))


def test_a_destination_that_comes_when_no_thread_is_to_be_had_is_led_later(runtime: ProcessRuntime) -> None:
    """Its rows have their cursor from the first on."""
    writer = Writer(runtime)
    assert runtime.pipeline.wait_until_started(60_000_000_000)
    with no_thread_to_spare():
        assert writer.append(seen('{"name": "late"}', destination="memory")) == 0
        writer.process()
    assert runtime.pipeline._workers_by_cursor["memory"]._thread is None
    assert wait_until(
        lambda: (runtime.on_commit(), runtime.pipeline._workers_by_cursor["memory"]._thread is not None)[1], 60
    )
    assert runtime.pipeline.flush(60_000_000_000)
    assert writer._spool.cursors()["memory"].delivered == 1
