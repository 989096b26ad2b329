"""What one agent is seen to do by our hooks, said as facts; plain data in, nothing of torch in here.

What always holds:

- Called on torch's threads, a method only notes, says (which waits for the spool as any event does, at most 50 ms) and
  hands over; what takes time happens on the watch thread or on the store's.
- The agent is at exactly one phase at any time, and phases are said in the order in which they began.
- What is said is what was seen here; what the job agrees on comes from :mod:`~torchelastic_otel.capture.job_facts`.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.capture.job_facts import JobFacts
from torchelastic_otel.capture.round_start import Joined
from torchelastic_otel.capture.training_files import TrainingFiles
from torchelastic_otel.capture.waiting import RendezvousView, Waiting
from torchelastic_otel.capture.watch_thread import WatchThread
from torchelastic_otel.capture.worker_exits import Exit, WorkerExits
from torchelastic_otel.model.cause import NODE_LEFT, WORKER_FAILURE, Cause
from torchelastic_otel.model.exceptions import from_error_file, signal_name
from torchelastic_otel.model.facts import Fact, Moment
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.trace_ids import RUNNING, ids_of

MAX_PARTICIPANTS: Final = 128
"""Nodes up to which a round's participants are said by name."""
_MAX_ERROR_FILE: Final = 64 * 1024
_MAX_MESSAGE: Final = 300


def now() -> Moment:
    """This moment, by both clocks."""
    return Moment(time.time_ns(), time.monotonic_ns())


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """How an agent was launched.

    Attributes:
        run_id: The run's id, ``--rdzv-id``.
        backend: The rendezvous backend's name.
        role: The workers' role.
        entry_point: What the workers run.
        nodes_min: Nodes that a round needs; ``None`` where that is not known.
        nodes_max: Nodes that a round takes.
        local_world_size: Workers on this node.
        restarts_max: How often this agent may restart its workers after failures of their own.
    """

    run_id: str
    backend: str
    role: str
    entry_point: str
    nodes_min: int | None
    nodes_max: int | None
    local_world_size: int
    restarts_max: int


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process.

    Attributes:
        local_rank: Its rank on this node.
        rank: Its global rank.
        pid: Its process id.
        error_file: Where it leaves its exception.
    """

    local_rank: int
    rank: int | None
    pid: int
    error_file: str | None = None


@dataclass(slots=True)
class _Start:
    """One start of workers: whom, and what was told of them."""

    workers: Mapping[int, Worker]
    exits: WorkerExits
    told: dict[int, tuple[Moment, str, int] | None] = field(default_factory=dict)
    exited: dict[int, object] = field(default_factory=dict)
    failed: bool = False
    stopping_since_ns: int | None = None


class AgentWatch:
    """See the header of this file.

    Args:
        spec: How the agent was launched.
        say: Takes what there is to say.
        thread: The watch thread.
        job: What the agents agree on.
        view: The rendezvous as it stands; ``None`` for backends that do not tell.
        clock: Both clocks.
    """

    def __init__(
        self,
        spec: AgentSpec,
        say: Callable[[Fact], object],
        thread: WatchThread,
        job: JobFacts,
        view: Callable[[], RendezvousView | None],
        clock: Callable[[], Moment] = now,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.spec = spec
        self._say = say
        self._thread = thread
        self._job = job
        self._view = view
        self._clock = clock
        self._waiting = Waiting(thread, self._told, view, spec.nodes_min, clock)
        self._phase: Phase | None = None
        self._phase_began = clock()
        self._polled = clock()
        self._bring_up_began_ns = 0
        self._join_began_ns = 0
        self._start: _Start | None = None
        self.training = TrainingFiles(thread, self._trains)
        self.round: int | None = None
        self.group_rank: int | None = None
        self.world_size: int | None = None
        self.node_id: str | None = None
        self._told(
            semconv.AGENT_STARTED,
            {
                semconv.AGENT_ID: self.id,
                semconv.NODES_MIN: spec.nodes_min,
                semconv.NODES_MAX: spec.nodes_max,
                semconv.LOCAL_WORLD_SIZE: spec.local_world_size,
                semconv.RESTARTS_MAX: spec.restarts_max,
                semconv.ROLE_NAME: spec.role,
                semconv.RENDEZVOUS_BACKEND: spec.backend,
                semconv.ENTRY_POINT: spec.entry_point,
            },
        )

    # --- rendezvous

    def rendezvous_begins(self) -> None:
        """The agent goes to the rendezvous."""
        self._enter(Phase.RENDEZVOUS)
        self._join_began_ns = self._phase_began.wall_ns
        self._bring_up_began_ns = self._bring_up_began_ns or self._join_began_ns
        # what this agent proposes must be there before the round is closed: the rendezvous is the barrier
        self._job.before_join()
        self._waiting.begin()

    def rendezvous_over(self, rank: int, world_size: int) -> None:
        """The agent has joined a round."""
        self._waiting.end()
        view = self._view()
        before = self.round
        if view is not None:
            self.round, self.node_id = view.round, view.node_id
        else:
            self.round = 0 if before is None else before + 1
        self.group_rank, self.world_size = rank, world_size
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
        self._waiting.remember(participants)
        self._job.joined(Joined(self.round, before, rank, world_size, participants, self.node_id))

    # --- workers

    def traceparent(self) -> str | None:
        """The span of this node's workers in the round that is coming up, as W3C Trace Context has it."""
        nonce, round_ = self._job.nonce, self.round
        if nonce is None or round_ is None:
            return None
        ids, _ = ids_of(
            self.spec.run_id,
            nonce,
            round_,
            agreed=self._job.nonce_is_agreed,
            backend=self.spec.backend,
            agent_id=self.id,
        )
        return f"00-{ids.trace(RUNNING)}-{ids.span(RUNNING, semconv.SPAN_WORKERS, self.id)}-01"

    def starting(self) -> None:
        """Workers are about to be started."""
        self._enter(Phase.START)

    def started(self, workers: Iterable[Worker]) -> None:
        """Worker processes run."""
        by_rank = {worker.local_rank: worker for worker in workers}
        pids = tuple(f"{w.local_rank}:{w.rank}:{w.pid}" for w in by_rank.values())
        # a process of an earlier start may end late: it is told as what it was
        exits = WorkerExits(self._thread, self._clock, lambda rank, ended: self._exited(start, rank, ended))
        start = _Start(by_rank, exits)
        self._start = start
        self._enter(Phase.RUNNING, {semconv.WORKER_PIDS: pids})
        self._polled = self._phase_began  # nobody can have failed before
        start.exits.watch({local_rank: worker.pid for local_rank, worker in by_rank.items()})
        self.training.started(list(by_rank))
        self._job.up(self._bring_up_began_ns, self._join_began_ns, self._phase_began.wall_ns)
        self._bring_up_began_ns = 0

    def polled(self) -> None:
        """Torch has looked at its workers."""
        self._polled = self._clock()

    def closing(self, codes: Mapping[int, int | None]) -> None:
        """Torch is about to stop the workers that are left, by what it knows of their exit codes.

        It does so where one has failed, inside the poll that saw it (``PContext.close``, torch 2.2 to 2.15), before
        a restart, and at the end.
        """
        start = self._start
        if start is None or start.stopping_since_ns is not None:
            return
        self.training.look()
        ended = {**codes, **{r: e.code for r, e in [*start.exits.seen.items()] if e.code is not None}}
        self._failures(start, {rank: code for rank, code in ended.items() if code})
        if any(ended.get(rank) is None for rank in start.workers):
            self._stopping(start)

    def closed(self, codes: Mapping[int, int | None]) -> None:
        """Torch has stopped its workers and knows how they ended."""
        start = self._start
        if start is None:
            return
        for rank, code in codes.items():
            seen = start.exits.seen.get(rank)
            if code is not None and (seen is None or seen.code is None) and rank in start.workers:
                here = self._clock()
                polled = (here, "poll", max(0, here.monotonic_ns - self._polled.monotonic_ns))
                known = (start.told.get(rank) or polled) if seen is None else (seen.at, "pidfd", 0)
                self._say_exit(start, start.workers[rank], code, *known)

    def stopping(self) -> None:
        """The agent stops its workers."""
        start = self._start
        if start is not None and self._phase in (Phase.RUNNING, Phase.DETECT):
            if start.stopping_since_ns is None:
                # some may have failed since torch last looked, and it will take them for stopped
                self._failures(start, {rank: ended.code for rank, ended in [*start.exits.seen.items()] if ended.code})
            self._stopping(start)

    def result(self, failed: Mapping[int, int | None], hanging: Iterable[int]) -> None:
        """Torch says that its workers failed.

        Args:
            failed: Exit codes by process id.
            hanging: Process ids of workers in uninterruptible sleep, where that is the failure.
        """
        start = self._start
        if start is None:
            return
        by_pid = {worker.pid: worker.local_rank for worker in start.workers.values()}
        if not start.failed and start.stopping_since_ns is None:
            self._failures(start, {by_pid[pid]: code for pid, code in failed.items() if pid in by_pid and code})
        for pid in hanging if not start.failed else ():
            if pid in by_pid:
                self._hangs(start, start.workers[by_pid[pid]])

    def restarting(self, trigger: str, count: int) -> None:
        """The agent begins to restart its workers."""
        self._told(semconv.RESTART_STARTED, {semconv.RESTART_TRIGGER: trigger, semconv.RESTART_COUNT: count})
        self._job.restarting(trigger)

    # --- the end

    def exit_barrier(self) -> None:
        """Own workers are done; the agent waits for the others."""
        self._enter(Phase.EXIT_BARRIER)
        self._job.enter_barrier()

    def leaving(self, signal: str) -> None:
        """The agent was told by a signal to end."""
        self._told(semconv.AGENT_LEAVING, {semconv.WORKER_SIGNAL: signal})
        if self.round is not None:
            moment = self._clock()
            self._job.propose(
                Cause(
                    NODE_LEFT,
                    moment.wall_ns,
                    host=self._job.host,
                    node_id=self.node_id,
                    group_rank=self.group_rank,
                    signal=signal,
                )
            )
        # what the signal did to workers that got it too is no failure of theirs
        if self._start is not None and self._phase in (Phase.RUNNING, Phase.DETECT):
            self._stopping(self._start)

    def ended(self, outcome: str, error_type: str | None) -> None:
        """The agent's ``run`` is over."""
        self._waiting.end()
        self.training.end()
        self._job.finish()
        self._enter(Phase.ENDED, {semconv.AGENT_OUTCOME: outcome, semconv.ERROR_TYPE: error_type})

    # --- inside

    def _told(self, name: str, attributes: Mapping[str, Any], at: Moment | None = None) -> None:
        self._say(Fact(name, {semconv.RUN_ID: self.spec.run_id, **attributes}, at))

    def _enter(self, phase: Phase, attributes: Mapping[str, Any] | None = None, at: Moment | None = None) -> None:
        at = at or self._clock()
        before, began = self._phase, self._phase_began
        self._phase, self._phase_began = phase, at
        if phase in (Phase.DETECT, Phase.STOP) and not self._bring_up_began_ns:
            self._bring_up_began_ns = at.wall_ns
        told = dict(attributes or {})
        told[semconv.PHASE] = phase.value
        if before is not None:
            told[semconv.PHASE_PREVIOUS] = before.value
            told[semconv.PHASE_DURATION] = max(0, at.monotonic_ns - began.monotonic_ns) / 1e9
        self._told(semconv.AGENT_PHASE_ENTERED, told, at)

    def _stopping(self, start: _Start) -> None:
        if start.stopping_since_ns is None:
            start.stopping_since_ns = self._clock().monotonic_ns
            self.training.look()
            if self._phase is not Phase.STOP:
                self._enter(Phase.STOP)

    def _exited(self, start: _Start, local_rank: int, ended: Exit) -> None:
        """On the watch thread: a worker's process has ended."""
        if ended.code is not None:
            self._say_exit(start, start.workers[local_rank], ended.code, ended.at, "pidfd", 0)

    def _trains(self, local_rank: int, at: Moment) -> None:
        """On the watch thread: a worker said that it trains."""
        start = self._start
        if start is not None and local_rank in start.workers:
            worker = start.workers[local_rank]
            told = {semconv.WORKER_RANK: worker.rank, semconv.WORKER_LOCAL_RANK: local_rank}
            self._told(semconv.TRAINING_STARTED, told, at)

    def _say_exit(self, start: _Start, worker: Worker, code: int, at: Moment, known_by: str, error_ns: int) -> None:
        # both threads come here, and torch closes its workers more than once
        mine = object()
        if start.exited.setdefault(worker.local_rank, mine) is mine:
            told = {semconv.FAILURE_TIME_ERROR: error_ns / 1e9, semconv.INFERRED_FROM: known_by}
            self._told(semconv.WORKER_EXITED, {**_ending(worker, code), **told}, at)

    def _failures(self, start: _Start, codes: Mapping[int, int | None]) -> None:
        """Say which workers failed, first the one that failed first; each once."""
        new = [
            (*self._when(start, start.workers[rank]), start.workers[rank], code)
            for rank, code in codes.items()
            if rank in start.workers and rank not in start.told
        ]
        new.sort(key=lambda known: known[0].monotonic_ns)
        for at, error_ns, known_by, worker, code in new:
            role = "victim" if start.failed else "cause"
            doubt = any(
                other is not worker
                and t.monotonic_ns - e <= at.monotonic_ns
                and at.monotonic_ns - error_ns <= t.monotonic_ns
                for t, e, _, other, _ in new
            )
            if not start.failed and self._phase is Phase.RUNNING:
                self._enter(Phase.DETECT, at=_not_before(at, self._phase_began))
            start.failed = True
            start.told[worker.local_rank] = (at, known_by, error_ns)
            text = _error_text(worker.error_file)
            kind = "exception" if text else ("signal" if code is not None and code < 0 else "exit")
            told = {
                **_ending(worker, code),
                semconv.FAILURE_KIND: kind,
                semconv.FAILURE_ROLE: role,
                semconv.FAILURE_TIME_ERROR: error_ns / 1e9,
                semconv.FAILURE_AMBIGUOUS: doubt or None,
                semconv.INFERRED_FROM: known_by,
                semconv.RUN_ID: self.spec.run_id,
            }
            self._say(Fact(semconv.WORKER_FAILED, told, at, text))
            if role == "cause":
                self._propose(worker, code, text, at, error_ns, doubt)

    def _hangs(self, start: _Start, worker: Worker) -> None:
        at = self._clock()
        role = "victim" if start.failed else "cause"
        if not start.failed and self._phase is Phase.RUNNING:
            self._enter(Phase.DETECT, at=at)
        start.failed = True
        start.told[worker.local_rank] = None  # it has failed, and not ended
        told = {
            **_ending(worker, None),
            semconv.ERROR_TYPE: "uninterruptible_sleep",
            semconv.FAILURE_KIND: "uninterruptible_sleep",
            semconv.FAILURE_ROLE: role,
            semconv.INFERRED_FROM: "result",
        }
        self._told(semconv.WORKER_FAILED, told, at)
        if role == "cause":
            self._propose(worker, None, None, at, 0, False, "uninterruptible_sleep")

    def _propose(
        self,
        worker: Worker,
        code: int | None,
        text: str | None,
        at: Moment,
        error_ns: int,
        doubt: bool,
        error_type: str | None = None,
    ) -> None:
        said = from_error_file(text) if text else {}
        signal = signal_name(code) if code is not None else None
        message = said.get(semconv.EXCEPTION_MESSAGE)
        self._job.propose(
            Cause(
                WORKER_FAILURE,
                at.wall_ns,
                error_ns,
                self._job.host,
                self.node_id,
                self.group_rank,
                worker.rank,
                worker.local_rank,
                worker.pid,
                code,
                signal,
                error_type or str(said.get(semconv.ERROR_TYPE) or signal or "exit"),
                str(message)[:_MAX_MESSAGE] if message else None,
                doubt,
            )
        )

    def _when(self, start: _Start, worker: Worker) -> tuple[Moment, int, str]:
        """When a worker failed, by how much it may have been earlier (nanoseconds), and how that is known."""
        seen = start.exits.seen.get(worker.local_rank)
        if seen is not None:
            return seen.at, 0, "pidfd"
        here = self._clock()
        since_poll_ns = max(0, here.monotonic_ns - self._polled.monotonic_ns)
        try:
            age_ns = here.wall_ns - os.stat(worker.error_file or "").st_mtime_ns
        except OSError:
            age_ns = -1
        if 0 <= age_ns <= since_poll_ns:
            return Moment(here.wall_ns - age_ns, here.monotonic_ns - age_ns), 0, "error_file"
        return here, since_poll_ns, "poll"


def _not_before(at: Moment, began: Moment) -> Moment:
    return at if at.monotonic_ns >= began.monotonic_ns else began


def _ending(worker: Worker, code: int | None) -> dict[str, Any]:
    return {
        semconv.WORKER_RANK: worker.rank,
        semconv.WORKER_LOCAL_RANK: worker.local_rank,
        semconv.WORKER_PID: worker.pid,
        semconv.PROCESS_EXIT_CODE: code,
        semconv.WORKER_SIGNAL: signal_name(code) if code is not None else None,
    }


def _error_text(path: str | None) -> str | None:
    """What a worker left in its error file."""
    if not path:
        return None
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_ERROR_FILE) or None
    except OSError:
        return None
