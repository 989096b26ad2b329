"""One agent, as the hooks observe it, as events; plain data, nothing of torch.

Guarantees:

- On torch's threads a method only records state, emits (which waits for the spool as any event does, at most 50 ms) and
  passes tasks on; what takes time runs on the event loop or on the store's thread.
- The agent is in exactly one phase at any time, and phases are emitted in the order in which they begin.
- Events describe what was observed here; what the job agrees on comes from
  :mod:`~torchelastic_otel.agent.coordination.coordinator`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.agent.config import AgentConfig
from torchelastic_otel.agent.coordination.coordinator import JobCoordinator
from torchelastic_otel.agent.coordination.job_store import MAX_WAIT_S
from torchelastic_otel.agent.coordination.round_start import JoinedRound
from torchelastic_otel.agent.inspection import WorkerInspector
from torchelastic_otel.agent.processes import Worker
from torchelastic_otel.agent.rendezvous_wait import RendezvousView, RendezvousWaitMonitor
from torchelastic_otel.agent.training import TrainingFiles
from torchelastic_otel.agent.workers import WorkerGroupMonitor
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.cause import NODE_LEFT, Cause
from torchelastic_otel.model.failure import HANG
from torchelastic_otel.model.inferred_event import ClockReading, InferredEvent
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.trace_ids import RUNNING, round_ids
from torchelastic_otel.units import NS_PER_S

MAX_PARTICIPANTS: Final = 128
"""Up to this number of nodes, a round's participants are listed."""


def now() -> ClockReading:
    """This moment, by both clocks."""
    return ClockReading(time.time_ns(), time.monotonic_ns())


class AgentObserver:
    """See the header of this file.

    Args:
        config: How the agent was launched.
        emit: Takes the events.
        thread: The event loop.
        job: What the agents agree on.
        view: The current state of the rendezvous; ``None`` for backends that do not provide it.
        clock: Both clocks.
    """

    def __init__(
        self,
        config: AgentConfig,
        emit: Callable[[InferredEvent], object],
        thread: EventLoopThread,
        job: JobCoordinator,
        view: Callable[[], RendezvousView | None],
        clock: Callable[[], ClockReading] = now,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.config = config
        self._emit_event = emit
        self._thread = thread
        self._job = job
        self._view = view
        self._clock = clock
        self._rendezvous_wait = RendezvousWaitMonitor(thread, self._emit, view, config.nodes_min, clock)
        self._phase: Phase | None = None
        self._phase_began = clock()
        self._bring_up_began_ns = 0
        self._join_began_ns = 0
        self._workers: WorkerGroupMonitor | None = None
        self._previous_workers: WorkerGroupMonitor | None = None
        job.on_agreed = self._on_agreed
        self._inspector = WorkerInspector(thread)
        self.training = TrainingFiles(thread, self._on_training_started)
        self.round: int | None = None
        self.group_rank: int | None = None
        self.node_id: str | None = None
        self._emit(semconv.AGENT_STARTED, {semconv.AGENT_ID: self.id, **config.to_attributes()})

    # --- rendezvous

    def on_rendezvous_begin(self) -> None:
        """The agent begins its rendezvous."""
        began_ns = time.monotonic_ns()
        self._flush_workers()
        self._enter(Phase.RENDEZVOUS)
        self._join_began_ns = self._phase_began.wall_ns
        self._bring_up_began_ns = self._bring_up_began_ns or self._join_began_ns
        # this agent's proposal must be stored before the round is complete: the rendezvous is the barrier
        self._job.before_join(MAX_WAIT_S - (time.monotonic_ns() - began_ns) / NS_PER_S)
        self._rendezvous_wait.begin()

    def on_rendezvous_end(self, rank: int, world_size: int) -> None:
        """The agent has joined a round."""
        self._rendezvous_wait.end()
        view = self._view()
        previous = self.round
        if view is not None:
            self.round, self.node_id = view.round, view.node_id
        else:
            self.round = 0 if previous is None else previous + 1
        self.group_rank = rank
        participants = view.participants if view is not None else ()
        self._enter(
            Phase.ASSIGN_RANKS,
            {
                semconv.RENDEZVOUS_ROUND: self.round,
                semconv.GROUP_RANK: rank,
                semconv.GROUP_WORLD_SIZE: world_size,
                semconv.NODE_ID: self.node_id,
                semconv.RENDEZVOUS_PARTICIPANTS: participants if len(participants) <= MAX_PARTICIPANTS else (),
            },
        )
        self._rendezvous_wait.set_previous(participants)
        self._job.on_joined(JoinedRound(self.round, previous, rank, world_size, participants, self.node_id))

    # --- workers

    def traceparent(self) -> str | None:
        """The span of this node's workers in the round that is starting, as W3C Trace Context has it."""
        nonce, round_, config = self._job.nonce, self.round, self.config
        if nonce is None or round_ is None:
            return None
        agreed = self._job.nonce_is_agreed
        ids, _ = round_ids(config.run_id, nonce, round_, agreed=agreed, backend=config.backend, agent_id=self.id)
        return f"00-{ids.trace(RUNNING)}-{ids.span(RUNNING, semconv.SPAN_WORKERS, self.id)}-01"

    def on_start_begin(self) -> None:
        """Workers are about to be started."""
        self._enter(Phase.START)

    def on_start_end(self, workers: Iterable[Worker]) -> None:
        """Worker processes run."""
        joined = self._job.round
        round_ = {} if self.round is None else {semconv.RENDEZVOUS_ROUND: self.round}
        started = WorkerGroupMonitor(
            workers,
            # what is emitted when the next round has begun belongs to this one
            lambda name, attributes, at, error_file: self._emit(name, {**round_, **attributes}, at, error_file),
            self._on_failure_detected,
            lambda cause: self._propose(cause, joined),
            lambda culprits: self._job.propose_culprits([self._named(cause, joined) for cause in culprits], joined),
            self._thread,
            self._clock,
            self._inspector,
            self.round,
            is_alone=joined is None or joined.world_size == 1,
        )
        self._previous_workers, self._workers = self._workers, started
        pids = tuple(f"{rank}:{worker.rank}:{worker.pid}" for rank, worker in started.workers.items())
        self._enter(Phase.RUNNING, {semconv.WORKER_PIDS: pids})
        started.watch(self._phase_began)
        self.training.started(list(started.workers))
        self._job.on_workers_up(self._bring_up_began_ns, self._join_began_ns, self._phase_began.wall_ns)
        self._bring_up_began_ns = 0

    def on_poll(self) -> None:
        """Torch has polled its workers."""
        if self._workers is not None:
            self._workers.on_poll()

    def on_close_begin(self, codes: Mapping[int, int | None]) -> None:
        """Torch is about to stop the remaining workers; ``codes`` are the exit codes that it knows.

        It does so if one has failed, inside the poll that saw it (``PContext.close``, torch 2.2 to 2.15), before a
        restart, and at the end.
        """
        workers = self._workers
        if workers is None or workers.stopping:
            return
        self.training.poll()
        if workers.on_close_begin(codes):
            self._begin_stop(workers)

    def on_close_end(self, codes: Mapping[int, int | None]) -> None:
        """Torch has stopped its workers and knows how they ended."""
        if self._workers is not None:
            self._workers.on_close_end(codes)

    def on_stop(self) -> None:
        """The agent stops its workers."""
        workers = self._workers
        if workers is not None and self._phase in (Phase.RUNNING, Phase.DETECT):
            if not workers.stopping:
                workers.on_interrupt()
            self._begin_stop(workers)

    def on_result(self, failed: Mapping[int, int | None], hanging: Iterable[int]) -> None:
        """Torch's result is that its workers failed.

        Args:
            failed: Exit codes by process id.
            hanging: Process ids of workers in uninterruptible sleep, if that is the failure.
        """
        if self._workers is not None:
            self._workers.on_result(failed, hanging)

    def on_restart(self, trigger: str, count: int) -> None:
        """The agent begins to restart its workers."""
        self._emit(semconv.RESTART_STARTED, {semconv.RESTART_TRIGGER: trigger, semconv.RESTART_COUNT: count})
        self._job.on_restart(trigger)

    # --- the end

    def on_exit_barrier(self) -> None:
        """Own workers are done; the agent waits for the others."""
        self._enter(Phase.EXIT_BARRIER)
        self._job.on_exit_barrier()

    def on_leave(self, signal: str) -> None:
        """The agent got a signal to end."""
        self._emit(semconv.AGENT_LEAVING, {semconv.WORKER_SIGNAL: signal})
        if self.round is not None:
            self._propose(Cause(NODE_LEFT, self._clock().wall_ns, signal=signal), self._job.round)
        # workers that got the signal too have not failed
        if self._workers is not None and self._phase in (Phase.RUNNING, Phase.DETECT):
            self._begin_stop(self._workers)

    def on_exit(self, outcome: str, error_type: str | None) -> None:
        """The agent's ``run`` is over."""
        self._rendezvous_wait.end()
        self._flush_workers()
        self.training.close()
        self._job.finish()
        self._enter(Phase.ENDED, {semconv.AGENT_OUTCOME: outcome, semconv.ERROR_TYPE: error_type})

    # --- inside

    def _emit(
        self, name: str, attributes: Mapping[str, Any], at: ClockReading | None = None, error_file: str | None = None
    ) -> None:
        self._emit_event(InferredEvent(name, {semconv.RUN_ID: self.config.run_id, **attributes}, at, error_file))

    def _propose(self, cause: Cause, joined: JoinedRound | None) -> None:
        """In this agent's view, this ended that round."""
        self._job.propose(self._named(cause, joined), joined)

    def _named(self, cause: Cause, joined: JoinedRound | None) -> Cause:
        node_id, rank = (self.node_id, self.group_rank) if joined is None else (joined.node_id, joined.rank)
        return replace(cause, host=self._job.host, node_id=node_id, group_rank=rank)

    def _on_agreed(self, cause: Cause, joined: JoinedRound) -> None:
        """On the event loop: the cause of the end of the previous round is known."""
        for workers in (self._previous_workers, self._workers):
            if cause.failure_kind == HANG and workers is not None and workers.round == joined.previous:
                workers.report_hang()

    def _flush_workers(self) -> None:
        """Wait until what is known of the workers' failures is reported and proposed, at most 50 ms."""
        if self._workers is not None:
            self._workers.flush(MAX_WAIT_S)

    def _enter(self, phase: Phase, attributes: Mapping[str, Any] | None = None, at: ClockReading | None = None) -> None:
        at = at or self._clock()
        previous, began = self._phase, self._phase_began
        self._phase, self._phase_began = phase, at
        if phase in (Phase.DETECT, Phase.STOP) and not self._bring_up_began_ns:
            self._bring_up_began_ns = at.wall_ns
        attributes = {**(attributes or {}), semconv.PHASE: phase.value}
        if previous is not None:
            attributes[semconv.PHASE_PREVIOUS] = previous.value
            attributes[semconv.PHASE_DURATION] = max(0, at.monotonic_ns - began.monotonic_ns) / NS_PER_S
        self._emit(semconv.AGENT_PHASE_ENTERED, attributes, at)

    def _on_failure_detected(self, at: ClockReading) -> None:
        """The first of the workers has failed, some time ago."""
        if self._phase is Phase.RUNNING:
            began = self._phase_began
            self._enter(Phase.DETECT, at=at if at.monotonic_ns >= began.monotonic_ns else began)

    def _begin_stop(self, workers: WorkerGroupMonitor) -> None:
        if not workers.stopping:
            workers.begin_stop()
            self.training.poll()
            if self._phase is not Phase.STOP:
                self._enter(Phase.STOP)

    def _on_training_started(self, local_rank: int, at: ClockReading) -> None:
        """On the event loop: a worker has begun to train."""
        started = self._workers
        if started is not None and local_rank in started.workers:
            rank = started.workers[local_rank].rank
            self._emit(semconv.TRAINING_STARTED, {semconv.WORKER_RANK: rank, semconv.WORKER_LOCAL_RANK: local_rank}, at)
