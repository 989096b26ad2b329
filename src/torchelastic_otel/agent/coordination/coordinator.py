"""What the whole job agrees on, asked of its store and said by each agent: which run, why it restarted, who speaks.

What always holds:

- Each thing that is asked is said once: as agreed, or, where there is no store or it has not answered in three seconds
  (and no connection was being made to it), as this agent's own view, which says so.
- Torch's threads wait here at most 50 ms, once before each join, for what this agent proposed.
- All that changes here changes on the watch thread; torch's threads and the store's hand over.

A round is job-wide only with the dynamic rendezvous (c10d). Under ``static`` each agent counts its own, so that there
only the run is agreed on (torch 2.2 to 2.15).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination import keys as agreement
from torchelastic_otel.agent.coordination.fallback import LocalFallback
from torchelastic_otel.agent.coordination.membership import Membership, SilentNode
from torchelastic_otel.agent.coordination.round_start import JoinedRound, RoundStart
from torchelastic_otel.agent.coordination.store import MAX_WAIT_S, JobStore, Keys
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.failure import MEMBERSHIP_CHANGE, NODE_LEFT, UNKNOWN, WORKER_FAILURE, Cause
from torchelastic_otel.model.inferred_event import InferredEvent

_POLL_INTERVAL_NS: Final = 100_000_000
_YIELD_NS: Final = 1_500_000_000
"""What the first node waits for the one that hosts the store, which joins up to a second later (torch's poll)."""


class JobCoordinator:
    """See the header of this file.

    Args:
        run_id: The run's id.
        agent_id: This agent's.
        host: This host's name.
        say: Takes what there is to say.
        thread: The watch thread.
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
        self._shared = shared_rounds
        self._store: JobStore | None = None
        self._hosts_store = False
        self._identified = False
        self.nonce: str | None = None
        self.nonce_is_agreed = False
        self._round: JoinedRound | None = None
        self._own_cause: Cause | None = None
        self._own_trigger: str | None = None
        self._proposed = False
        self._previous: Sequence[str] = ()
        self._resolved: JoinedRound | None = None
        self._deferred: list[tuple[str, Mapping[str, Any]]] = []
        self._finished = False
        self._fallback = LocalFallback(thread)
        self._membership = Membership(
            self._emit, thread, lambda: self._store, self._fallback, shared_rounds=shared_rounds
        )
        self._start = RoundStart(thread, self._emit_in_order, lambda: self._store if shared_rounds else None)

    # --- from torch's threads

    def set_store(self, store: JobStore | None, *, hosts_store: bool) -> None:
        """The job's store is known, or it is known that there is none for us."""
        if self._store is not None or self._identified:
            return
        self._store, self._hosts_store = store, hosts_store
        mine = os.urandom(16).hex()
        if store is None:
            self._thread.call_soon(lambda: self._identify(mine, "own_view"))
            return
        self._thread.call_soon(
            lambda: self._fallback.unless_answered(store, "run", lambda: self._identify(mine, "own_view"))
        )

        def ask(keys: Keys) -> None:
            agreed = agreement.nonce(keys, mine)
            self._thread.call_soon(lambda: self._identify(agreed, "store"))

        store.submit(ask)

    def propose(self, cause: Cause) -> None:
        """This agent holds that this ended the round it is in."""
        joined = self._round
        if self._own_cause is None:
            self._own_cause = cause
        if joined is not None and self._store is not None and self._shared:

            def ask(keys: Keys) -> None:
                if cause.kind == NODE_LEFT and joined.node_id is not None:
                    agreement.leave(keys, joined.round, joined.node_id)
                agreement.propose(keys, joined.round, cause)

            self._store.submit(ask)
            self._proposed = True

    def on_restart(self, trigger: str) -> None:
        """This agent begins to restart its workers, for this reason as far as it can see."""
        self._own_trigger = trigger

    def before_join(self) -> None:
        """Wait, briefly, until what was proposed is with the store."""
        if self._proposed and self._store is not None:
            self._store.submit(lambda keys: None, wait_s=MAX_WAIT_S)
        self._proposed = False

    def on_joined(self, joined: JoinedRound) -> None:
        """This agent has joined a round."""
        own, trigger = self._own_cause, self._own_trigger
        self._own_cause = self._own_trigger = None
        self._round = joined
        if self._store is not None:
            self._store.retry()
        self._thread.call_soon(lambda: self._ask(joined, own, trigger))

    def on_workers_up(self, began_ns: int, joined_ns: int, ended_ns: int) -> None:
        """This node's workers run."""
        joined = self._round
        if joined is not None:
            self._start.on_up(joined, agreement.BroughtUp(began_ns, joined_ns, ended_ns, joined.node_id or self.host))

    def finish(self) -> None:
        """The agent ends: say what is still to be said; waits for it at most 50 ms."""
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
        if joined is not None and joined.node_id is not None and self._store is not None and self._shared:
            node_id, round_ = joined.node_id, joined.round
            self._store.submit(lambda keys: agreement.enter_barrier(keys, round_, node_id))

    # --- on the watch thread

    def _emit(self, name: str, attributes: Mapping[str, Any]) -> None:
        self._emit_event(InferredEvent(name, {semconv.RUN_ID: self._run_id, **attributes}))

    def _emit_in_order(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Tell what has its place in a trace, not before the run is identified: under ``static`` that takes a while."""
        if self._identified or self._finished:
            self._emit(name, attributes)
        else:
            self._deferred.append((name, attributes))

    def _emit_deferred(self) -> None:
        self._finished = True
        if self._store is not None and not self._identified:
            # the store never answered anything, so that no other agent can have agreed with this one
            self._fallback.run_all()
        later, self._deferred = self._deferred, []
        for name, attributes in later:
            self._emit(name, attributes)

    def _identify(self, nonce: str, source: str) -> None:
        if not self._identified:
            self._identified = True
            self._fallback.answered()
            self.nonce, self.nonce_is_agreed = nonce, source == "store"
            told = {semconv.RUN_NONCE: nonce, semconv.INFERRED_FROM: source, semconv.HOSTS_STORE: self._hosts_store}
            self._emit(semconv.RUN_IDENTIFIED, told)
            later, self._deferred = self._deferred, []
            for name, attributes in later:
                self._emit(name, attributes)

    def _ask(self, joined: JoinedRound, own: Cause | None, trigger: str | None) -> None:
        store = self._store
        if store is None or not self._shared or store.given_up:
            # who is alone agrees with itself, but not on a round that others were in
            alone = joined.world_size == 1 and len(self._previous) <= 1
            self._resolve(joined, own, trigger, None, writer=joined.rank == 0, agreed=alone)
            return
        me = joined.node_id or self._agent_id()
        give_up = lambda: self._resolve(joined, own, trigger, None, writer=joined.rank == 0, agreed=False)  # noqa: E731
        self._fallback.unless_answered(store, "round", give_up)

        def ask(keys: Keys) -> None:
            cause = agreement.cause(keys, joined.round - 1) if joined.round else None
            if self._hosts_store:
                writer = agreement.claim(keys, joined.round, me)
                self._thread.call_soon(lambda: self._resolve(joined, own, trigger, cause, writer=writer, agreed=True))
            elif joined.rank == 0:
                self._thread.call_soon(lambda: yield_(cause, 0))
            else:
                self._thread.call_soon(lambda: self._resolve(joined, own, trigger, cause, writer=False, agreed=True))

        def yield_(cause: Cause | None, waited_ns: int) -> None:
            # the store's host speaks for all where it takes part: it is the one that the job cannot outlive
            def look(keys: Keys) -> None:
                known = agreement.writer(keys, joined.round)
                if known is None and waited_ns >= _YIELD_NS:
                    agreement.claim(keys, joined.round, me)
                    known = agreement.writer(keys, joined.round)
                if known is None:
                    self._thread.call_soon(again)
                else:
                    writer = known == me
                    self._thread.call_soon(
                        lambda: self._resolve(joined, own, trigger, cause, writer=writer, agreed=True)
                    )

            def again() -> None:
                self._thread.call_later(_POLL_INTERVAL_NS, lambda: yield_(cause, waited_ns + _POLL_INTERVAL_NS))

            store.submit(look)

        store.submit(ask)

    def _resolve(
        self,
        joined: JoinedRound,
        own: Cause | None,
        trigger: str | None,
        agreed_cause: Cause | None,
        *,
        writer: bool,
        agreed: bool,
    ) -> None:
        if self._resolved is joined or self._round is not joined:
            return  # the other answer was faster, or the job has gone on
        self._resolved = joined
        before, self._previous = self._previous, joined.participants
        if joined.round > 0 and (joined.before is not None or self._shared):
            cause = agreed_cause or (None if agreed and joined.world_size > 1 else own)
            told: dict[str, Any] = {
                semconv.RENDEZVOUS_ROUND: joined.round,
                semconv.RESTART_INDEX: joined.round,
                semconv.RESTART_AGREED: agreed,
                semconv.WRITER: writer,
                semconv.INFERRED_FROM: "store" if agreed_cause is not None or (agreed and self._store) else "own_view",
            }
            if cause is not None:
                told.update(cause.attributes())
            else:
                told[semconv.RESTART_REASON] = _reason(trigger, joined, before, agreed)
            self._emit(semconv.RESTART_CAUSE_AGREED, told)
        self._membership.report_changes(joined, before)
        if writer:
            self._start.report(joined)


def _reason(trigger: str | None, joined: JoinedRound, before: Sequence[str], agreed: bool) -> str:
    """Why the job restarted where nobody proposed a cause."""
    if trigger == WORKER_FAILURE:
        return WORKER_FAILURE
    came = joined.before != joined.round - 1
    if trigger == MEMBERSHIP_CHANGE or (agreed and (came or (before and set(before) != set(joined.participants)))):
        return MEMBERSHIP_CHANGE
    return UNKNOWN
