"""What one worker left behind: its evidence, torch's error file, the end of its standard error, the kernel's counters.

Guarantees: everything is read on reader threads, bounded in size and time; what cannot be read is left out, and what
was read by then counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from torchelastic_otel.agent.evidence import WorkerEvidence
from torchelastic_otel.agent.evidence import read as read_evidence
from torchelastic_otel.agent.memory_events import MemoryCounters, MemoryKill, MemoryReader, kill_between
from torchelastic_otel.agent.processes import Worker
from torchelastic_otel.agent.worker_files import FileReader, read_regular
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.torch_events.standard_error import MAX_TAIL

_MAX_ERROR_FILE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class MemoryBaseline:
    """A worker's memory group, and its counters when the worker was started."""

    folder: str | None
    counters: MemoryCounters


@dataclass(slots=True)
class Findings:
    """What was found; each part is ``None`` until it is read, or if there is nothing.

    Attributes:
        evidence: What its hooks wrote.
        error_file: The text of torch's error file.
        error_file_ns: When that was written, nanoseconds since the epoch.
        standard_error: The end of its standard error.
        memory: What the kernel killed in its memory group since it was started.
    """

    evidence: WorkerEvidence | None = None
    error_file: str | None = None
    error_file_ns: int | None = None
    standard_error: str | None = None
    memory: MemoryKill | None = None


class WorkerInspector:
    """Reads what workers leave behind.

    Args:
        thread: The event loop.
        memory: Reads the kernel's counters.
    """

    def __init__(self, thread: EventLoopThread, memory: Callable[[], MemoryReader] = MemoryReader.open) -> None:
        # a dead file system below torch's log folder must not cost what is in this node's own folders
        self._local, self._logs = FileReader(thread), FileReader(thread)
        self._open_memory = memory
        self._memory: MemoryReader | None = None
        self._baselines: dict[int, MemoryBaseline] = {}

    # --- on the event loop

    def on_started(self, workers: Mapping[int, Worker]) -> None:
        """Workers were started: read the counters before anything happens."""
        pids = [worker.pid for worker in workers.values()]
        self._local.read(lambda: self._read_baselines(pids), lambda _: None)

    def inspect(self, worker: Worker, on_done: Callable[[Findings], object], *, ended: bool) -> None:
        """Read what a worker has left behind.

        Args:
            worker: The worker.
            on_done: Called once on the event loop.
            ended: Whether it has ended; of one that runs only its own evidence is read.
        """
        findings, waiting = Findings(), [self._local]
        if ended:
            waiting.append(self._logs)

        def finish(reader: FileReader) -> None:
            waiting.remove(reader)
            if not waiting:
                on_done(findings)

        self._local.read(lambda: self._read_local(worker, findings, ended), lambda _: finish(self._local))
        if ended:
            self._logs.read(lambda: _read_logs(worker, findings), lambda _: finish(self._logs))

    # --- on the reader threads

    def _read_baselines(self, pids: list[int]) -> None:
        if self._memory is None:
            self._memory = self._open_memory()
        baselines = {}
        for pid in pids:
            folder = self._memory.folder_of(pid)
            baselines[pid] = MemoryBaseline(folder, self._memory.read(folder))
        self._baselines = baselines

    def _read_local(self, worker: Worker, findings: Findings, ended: bool) -> None:
        if worker.evidence:
            findings.evidence = read_evidence(worker.evidence, worker.pid)
        baseline = self._baselines.get(worker.pid)
        if ended and self._memory is not None and baseline is not None:
            findings.memory = kill_between(baseline.counters, self._memory.read(baseline.folder))


def _read_logs(worker: Worker, findings: Findings) -> None:
    if worker.error_file and (read := read_regular(worker.error_file, _MAX_ERROR_FILE)) is not None:
        findings.error_file = read[0].decode("utf-8", "replace") or None
        findings.error_file_ns = read[1]
    if worker.standard_error and (read := read_regular(worker.standard_error, MAX_TAIL, tail=True)) is not None:
        findings.standard_error = read[0].decode("utf-8", "replace") or None
