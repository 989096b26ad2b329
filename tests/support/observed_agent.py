"""One agent under watch with literal clocks; processes are real where their exits matter."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.support.observers import EPOCH_NS, LONGEST_S, Clock, EventCollector, S, wait_until_idle
from torchelastic_otel import semconv
from torchelastic_otel.agent.config import AgentConfig
from torchelastic_otel.agent.coordination.coordinator import JobCoordinator
from torchelastic_otel.agent.observer import AgentObserver
from torchelastic_otel.agent.processes import Worker
from torchelastic_otel.agent.rendezvous_wait import RendezvousView
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.inferred_event import InferredEvent

UNWATCHED_PID = 5_000_000
"""Above every process id of Linux: where torch alone tells how a worker ended."""
SPEC = AgentConfig("run", "c10d", "trainer", "train.py", 1, 2, 2, 3)


class ObservedAgent:
    """One agent, the clock in the test's hands, and no store."""

    def __init__(self) -> None:
        self.clock, self.events = Clock(), EventCollector()
        self.thread = EventLoopThread(self.clock.monotonic_ns, lambda: None)
        self.view: RendezvousView | None = None
        self.job = JobCoordinator("run", lambda: self.watch.id, "here", self.events, self.thread, shared_rounds=True)
        self.job.set_store(None, hosts_store=False)
        self.watch = AgentObserver(SPEC, self.events, self.thread, self.job, lambda: self.view, self.clock)
        self.processes: list[subprocess.Popen[bytes]] = []

    def at(self, seconds: float) -> AgentObserver:
        """The agent, at that time; what is due by then is done."""
        self.clock.seconds = seconds
        self.wait_until_idle()
        return self.watch

    def wait_until_idle(self) -> None:
        """Wait until what is due is done, and what workers left behind is read."""
        wait_until_idle(self.thread)
        if self.watch._workers is not None:
            self.watch._workers.flush(LONGEST_S)

    def bring_up(self, seconds: float, workers: list[Worker], round_: int = 0) -> None:
        """Rendezvous for two seconds, ranks and start for one each; then the workers run."""
        node = "here_1_0"
        self.view = RendezvousView(round_, False, (node,), (), node)
        self.at(seconds).on_rendezvous_begin()
        self.view = RendezvousView(round_, True, (node, "there_2_0"), (), node)
        self.at(seconds + 2).on_rendezvous_end(0, 2)
        self.at(seconds + 3).on_start_begin()
        self.at(seconds + 4).on_start_end(workers)
        self.wait_until_idle()

    def worker(self, local_rank: int, code: str, error_file: Path | None = None) -> Worker:
        """A real process that does this once it is let go."""
        process = subprocess.Popen(["/bin/sh", "-c", f"read go; {code}"], stdin=subprocess.PIPE)
        self.processes.append(process)
        return Worker(local_rank, 10 + local_rank, process.pid, None if error_file is None else str(error_file))

    def let_end(self, *numbers: int) -> None:
        """Let processes go on and end, one after the other, and be seen."""
        for number in numbers:
            process = self.processes[number]
            assert process.stdin is not None
            count = len(self.events.of(semconv.WORKER_EXITED))
            process.stdin.close()
            self.events.wait(semconv.WORKER_EXITED, count + 1)

    def codes(self) -> dict[int, int | None]:
        """Exit codes as torch knows them once it polls."""
        return {rank: process.poll() for rank, process in enumerate(self.processes)}

    def attributes_of(self, name: str) -> list[dict[str, Any]]:
        """The attributes of what was said under a name, without the run's."""
        self.wait_until_idle()
        return [{k: v for k, v in f.attributes.items() if k != semconv.RUN_ID} for f in self.events.of(name)]

    def phases(self) -> list[tuple[str, float, float | None]]:
        """Each phase, when it began, and how long the one before took; both in seconds."""
        self.wait_until_idle()
        return [
            (f.attributes[semconv.PHASE], (when(f) - EPOCH_NS) / S, f.attributes.get(semconv.PHASE_DURATION))
            for f in self.events.of(semconv.AGENT_PHASE_ENTERED)
        ]


def when(event: InferredEvent) -> int:
    """When it happened, as it says."""
    assert event.at is not None
    return event.at.wall_ns


def unwatched_workers(count: int = 2) -> list[Worker]:
    """Workers whose processes nobody can watch."""
    return [Worker(rank, 10 + rank, UNWATCHED_PID + rank) for rank in range(count)]


UP = [("rendezvous", 0, None), ("assign_ranks", 2, 2), ("start", 3, 1), ("running", 4, 1)]
