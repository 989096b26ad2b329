"""What the whole job agrees on: the identity of the run, the cause of each restart, the job reporter of each round.

Guarantees:

- Each answer is reported once: the agreed one, or this agent's local view, marked as such, if there is no store or it
  has not answered within three seconds (longer while the connection is being opened).
- Torch's threads wait here at most 50 ms, once before each join, until this agent's proposal is stored.
- All state changes on the event loop; torch's threads and the store's thread only pass tasks to it.

Rounds are shared only with the dynamic rendezvous (c10d). With ``static`` each agent counts its own, so that only the
identity of the run is agreed (torch 2.2 to 2.15).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination.agreement import IN_BARRIER, LEFT, BringUp, JobKeys
from torchelastic_otel.agent.coordination.fallback import LocalFallback
from torchelastic_otel.agent.coordination.job_store import MAX_WAIT_S, JobStore
from torchelastic_otel.agent.coordination.membership import Membership, SilentNode
from torchelastic_otel.agent.coordination.round_start import JoinedRound, RoundStart
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.cause import (
    MEMBERSHIP_CHANGE,
    NODE_LEFT,
    UNKNOWN,
    WORKER_FAILURE,
    Cause,
    earlier,
    with_culprits,
)
from torchelastic_otel.model.inferred_event import InferredEvent
from torchelastic_otel.units import NS_PER_MS

_POLL_INTERVAL_NS: Final = 100 * NS_PER_MS
_HOST_PRIORITY_NS: Final = 1_500 * NS_PER_MS
"""How long rank 0 waits for the node that hosts the store, which joins up to a second later (torch's poll)."""


class JobCoordinator:
    """See the header of this file.

    Args:
        run_id: The run's id.
        agent_id: This agent's id.
        host: This host's name.
        emit: Takes the events.
        thread: The event loop.
        shared_rounds: Whether all agents count the same rounds.
    """

    def __init__(
        self,
        run_id: str,
        agent_id: Callable[[], str],
        host: str,
        emit: Callable[[InferredEvent], object],
        thread: EventLoopThread,
        *,
        shared_rounds: bool,
    ) -> None:
        self.host = host
        self._run_id = run_id
        self._agent_id = agent_id
        self._emit_event = emit
        self._thread = thread
        self._shared_rounds = shared_rounds
        self._store: JobStore | None = None
        self._hosts_store = False
        self._identified = False
        self.nonce: str | None = None
        self.nonce_is_agreed = False
        self._round: JoinedRound | None = None
        self._own_cause: Cause | None = None
        self._own_culprits: Sequence[Cause] = ()
        self.on_agreed: Callable[[Cause, JoinedRound], object] = lambda cause, joined: None
        """Called on the event loop with the cause of the end of the previous round."""
        self._own_trigger: str | None = None
        self._proposed = False
        self._previous: Sequence[str] = ()
        self._resolved: JoinedRound | None = None
        self._deferred: list[tuple[str, Mapping[str, Any]]] = []
        self._finished = False
        self._fallback = LocalFallback(thread)
        self._membership = Membership(self._emit, lambda: self._store, self._fallback, shared_rounds=shared_rounds)
        self._start = RoundStart(thread, self._emit_in_order, lambda: self._store if shared_rounds else None)

    # --- from torch's threads

    def set_store(self, store: JobStore | None, *, hosts_store: bool) -> None:
        """The job's store is known, or it is known that there is none to use."""
        if self._store is not None or self._identified:
            return
        self._store, self._hosts_store = store, hosts_store
        own = os.urandom(16).hex()
        local = lambda: self._identify(own, "own_view")  # noqa: E731
        if store is None:
            self._thread.call_soon(local)
            return
        self._thread.call_soon(lambda: self._fallback.unless_answered(store, "run", local))

        def request(keys: JobKeys) -> None:
            agreed = keys.nonce(own)
            self._thread.call_soon(lambda: self._identify(agreed, "store"))

        store.submit(request)

    @property
    def round(self) -> JoinedRound | None:
        """The round that this agent is in."""
        return self._round

    def propose(self, cause: Cause, joined: JoinedRound | None = None) -> None:
        """In this agent's view, this ended a round; from any thread.

        Args:
            cause: The cause.
            joined: The round; ``None`` for the one that this agent is in.
        """
        joined = joined or self._round
        if joined is self._round:
            self._own_cause = cause if self._own_cause is None else earlier(self._own_cause, cause)
        if joined is not None and self._store is not None and self._shared_rounds:

            def request(keys: JobKeys) -> None:
                if cause.kind == NODE_LEFT and joined.node_id is not None:
                    keys.mark(joined.round, LEFT, joined.node_id)
                keys.propose_cause(joined.round, cause)

            self._store.submit(request)
            self._proposed = True

    def propose_culprits(self, culprits: Sequence[Cause], joined: JoinedRound | None) -> None:
        """Workers that were outside a collective when they were stopped; from any thread."""
        joined = joined or self._round
        if joined is self._round:
            self._own_culprits = culprits
        if joined is not None and self._store is not None and self._shared_rounds:
            self._store.submit(lambda keys: keys.propose_culprits(joined.round, culprits))
            self._proposed = True

    def on_restart(self, trigger: str) -> None:
        """This agent begins to restart its workers, for this reason as far as it can see."""
        self._own_trigger = trigger

    def before_join(self, wait_s: float = MAX_WAIT_S) -> None:
        """Wait, briefly, until the proposal is stored.

        Args:
            wait_s: The longest wait, seconds.
        """
        if self._proposed and self._store is not None:
            self._store.submit(lambda keys: None, wait_s=max(0.0, wait_s))
        self._proposed = False

    def on_joined(self, joined: JoinedRound) -> None:
        """This agent has joined a round."""
        own, trigger = with_culprits(self._own_cause, self._own_culprits), self._own_trigger
        self._own_cause = self._own_trigger = None
        self._own_culprits = ()
        self._round = joined
        if self._store is not None:
            self._store.retry()
        self._thread.call_soon(lambda: self._query_round(joined, own, trigger))

    def on_workers_up(self, began_ns: int, joined_ns: int, ended_ns: int) -> None:
        """This node's workers are running."""
        joined = self._round
        if joined is not None:
            self._start.on_up(joined, BringUp(began_ns, joined_ns, ended_ns, joined.node_id or self.host))

    def finish(self) -> None:
        """The agent ends: emit what is deferred; waits for that at most 50 ms."""
        self._thread.call_soon(self._emit_deferred)
        self._start.finish()
        if self._store is not None:
            self._store.close()

    def on_silent(self, nodes: Sequence[SilentNode]) -> None:
        """Nodes' heartbeats have stopped."""
        joined = self._round
        for node in nodes:
            self._thread.call_soon(lambda node=node: self._membership.on_silent(node, joined))  # type: ignore[misc]

    def on_exit_barrier(self) -> None:
        """This node is done and waits for the others."""
        joined = self._round
        if joined is not None and joined.node_id is not None and self._store is not None and self._shared_rounds:
            node_id, round_ = joined.node_id, joined.round
            self._store.submit(lambda keys: keys.mark(round_, IN_BARRIER, node_id))

    # --- on the event loop

    def _emit(self, name: str, attributes: Mapping[str, Any]) -> None:
        self._emit_event(InferredEvent(name, {semconv.RUN_ID: self._run_id, **attributes}))

    def _emit_in_order(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Emit what belongs to a trace, not before the run is identified: with ``static`` that takes a while."""
        if self._identified or self._finished:
            self._emit(name, attributes)
        else:
            self._deferred.append((name, attributes))

    def _emit_deferred(self) -> None:
        self._finished = True
        if self._store is not None and not self._identified:
            # the store never answered, so that no other agent can have agreed with this one
            self._fallback.run_all()
        self._flush_deferred()

    def _flush_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for name, attributes in deferred:
            self._emit(name, attributes)

    def _identify(self, nonce: str, source: str) -> None:
        if not self._identified:
            self._identified = True
            self._fallback.on_answered()
            self.nonce, self.nonce_is_agreed = nonce, source == "store"
            self._emit(
                semconv.RUN_IDENTIFIED,
                {semconv.RUN_NONCE: nonce, semconv.INFERRED_FROM: source, semconv.HOSTS_STORE: self._hosts_store},
            )
            self._flush_deferred()

    def _query_round(self, joined: JoinedRound, own: Cause | None, trigger: str | None) -> None:
        """Read the cause of the previous round's end and elect the job reporter of this one."""
        store = self._store
        first = joined.rank == 0

        def resolve(cause: Cause | None, *, reporter: bool, agreed: bool) -> None:
            self._resolve(joined, own, trigger, cause, reporter=reporter, agreed=agreed)

        if store is None or not self._shared_rounds or store.given_up:
            # a single agent agrees with itself, unless the previous round had others
            resolve(None, reporter=first, agreed=joined.world_size == 1 and len(self._previous) <= 1)
            return
        node = joined.node_id or self._agent_id()
        self._fallback.unless_answered(store, "round", lambda: resolve(None, reporter=first, agreed=False))

        def request(keys: JobKeys) -> None:
            cause = keys.cause(joined.round - 1) if joined.round else None
            if self._hosts_store or not first:
                reporter = self._hosts_store and keys.elect_reporter(joined.round, node) == node
                self._thread.call_soon(lambda: resolve(cause, reporter=reporter, agreed=True))
            else:
                self._thread.call_soon(lambda: wait_for_host(cause, 0))

        def wait_for_host(cause: Cause | None, waited_ns: int) -> None:
            # the store's host is the job reporter if it takes part: the job cannot outlive it
            def request(keys: JobKeys) -> None:
                reporter = keys.reporter(joined.round)
                if reporter is None and waited_ns >= _HOST_PRIORITY_NS:
                    reporter = keys.elect_reporter(joined.round, node)
                if reporter is None:
                    again = lambda: wait_for_host(cause, waited_ns + _POLL_INTERVAL_NS)  # noqa: E731
                    self._thread.call_soon(lambda: self._thread.call_later(_POLL_INTERVAL_NS, again))
                else:
                    self._thread.call_soon(lambda: resolve(cause, reporter=reporter == node, agreed=True))

            store.submit(request)

        store.submit(request)

    def _resolve(
        self,
        joined: JoinedRound,
        own: Cause | None,
        trigger: str | None,
        agreed_cause: Cause | None,
        *,
        reporter: bool,
        agreed: bool,
    ) -> None:
        if self._resolved is joined or self._round is not joined:
            return  # another answer was faster, or the job has gone on
        self._resolved = joined
        previous, self._previous = self._previous, joined.participants
        if joined.round > 0 and (joined.previous is not None or self._shared_rounds):
            cause = agreed_cause or (None if agreed and joined.world_size > 1 else own)
            from_store = agreed_cause is not None or (agreed and self._store)
            attributes: dict[str, Any] = {
                semconv.RENDEZVOUS_ROUND: joined.round,
                semconv.RESTART_INDEX: joined.round,
                semconv.RESTART_AGREED: agreed,
                semconv.WRITER: reporter,
                semconv.INFERRED_FROM: "store" if from_store else "own_view",
            }
            if cause is not None:
                self.on_agreed(cause, joined)
                attributes.update(cause.attributes())
            else:
                attributes[semconv.RESTART_REASON] = _reason(trigger, joined, previous, agreed)
            self._emit(semconv.RESTART_CAUSE_AGREED, attributes)
        self._membership.report_changes(joined, previous)
        if reporter:
            self._start.report(joined)


def _reason(trigger: str | None, joined: JoinedRound, previous: Sequence[str], agreed: bool) -> str:
    """The reason of a restart for which no agent proposed a cause."""
    if trigger == WORKER_FAILURE:
        return WORKER_FAILURE
    stood_by = joined.previous != joined.round - 1
    changed = bool(previous) and set(previous) != set(joined.participants)
    return MEMBERSHIP_CHANGE if trigger == MEMBERSHIP_CHANGE or (agreed and (stood_by or changed)) else UNKNOWN
