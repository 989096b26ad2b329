"""How many files a reader has to open to follow one failed worker to the record of ``restart.completed``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

import torchelastic_otel
from tests.support import observed_agent
from tests.support.observers import EventCollector
from tests.support.writers import Landing
from torchelastic_otel import semconv
from torchelastic_otel.ingest.queue import IngestQueue
from torchelastic_otel.ingest.writer import Writer
from torchelastic_otel.model.inferred_event import InferredEvent

PACKAGE = Path(torchelastic_otel.__file__).parent
STEPS = ("_on_exit", "propose", "submit", "restart_completed", "commit_processed")
"""Functions of the package that take the failure over: on its way their callers are all that pass it on."""
MOST = 8


def _callers(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        name = frame.f_code.co_filename
        # the event loop runs any task, and knows none
        if name.startswith(str(PACKAGE)) and not name.endswith("event_loop.py"):
            yield str(Path(name).relative_to(PACKAGE))
        frame = frame.f_back


def test_the_path_of_a_failed_worker_to_its_restart_goes_through_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the exit that ``ExitWatcher`` reads to the row in the spool: the files on the stack at each step."""
    files: dict[str, list[str]] = {}

    def profile(frame: FrameType, event: str, argument: object) -> None:
        step = frame.f_code.co_name
        if event != "call" or step not in STEPS or not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return
        if step != "submit" or semconv.RESTART_CAUSE_AGREED in frame.f_locals["text"]:
            files.setdefault(step, list(dict.fromkeys(_callers(frame))))

    landing = Landing(tmp_path)

    def make_writer() -> Writer:
        sys.setprofile(profile)
        return Writer(landing)

    queue = IngestQueue(make_writer, wait_s=60)

    class Submitted(EventCollector):
        """Submits what is emitted, as the hooks do."""

        def __call__(self, event: InferredEvent) -> None:
            queue.submit("null", event.to_text())
            super().__call__(event)

    monkeypatch.setattr(observed_agent, "EventCollector", Submitted)
    agent = observed_agent.ObservedAgent()
    agent.thread.call_soon(lambda: sys.setprofile(profile))
    agent.bring_up(0, [agent.worker(0, "exit 3")])
    sys.setprofile(profile)
    try:
        agent.let_end(0)
        agent.at(20).on_close_begin(agent.codes())
        agent.at(21).on_restart("worker_failure", 1)
        agent.bring_up(22, [agent.worker(0, "exit 0")], round_=1)
    finally:
        sys.setprofile(None)
        agent.thread.call_soon(lambda: sys.setprofile(None))
    assert queue.flush(60)
    assert semconv.RESTART_COMPLETED in [event.name for _, event in landing.rows()]
    assert files.keys() == set(STEPS)
    path = list(dict.fromkeys(file for step in STEPS for file in reversed(files[step])))
    assert len(path) <= MOST, "\n".join(path)
    agent.let_end(1)
    queue.stop()
