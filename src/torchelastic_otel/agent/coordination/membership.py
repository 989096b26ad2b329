"""Who belongs to the job no longer, or newly: nodes that are lost or silent, and how one round differs from another.

What always holds:

- A node whose heartbeats stopped is told as lost by every survivor, unless the job's store says that it left or is
  done; one that may well live is told as silent.
- A change of the membership is told by one agent alone: the first of those who know both rounds.
- All that changes here changes on the watch thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination import keys as agreement
from torchelastic_otel.agent.coordination.fallback import LocalFallback, first_of
from torchelastic_otel.agent.coordination.round_start import JoinedRound
from torchelastic_otel.agent.coordination.store import JobStore, Keys
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.failure import NODE_LOST, Cause
from torchelastic_otel.model.node_id import address_of


@dataclass(frozen=True, slots=True)
class SilentNode:
    """A node whose heartbeats have stopped.

    Attributes:
        node_id: Which.
        rank: Its rank in the round; ``None`` where it took no part.
        last_heartbeat_ns: When it last sent one, by its own clock, nanoseconds since the epoch.
        own_beats_failed: Whether this agent's own heartbeats have stopped as well.
        round: The round in which it was seen, for an agent that is in none itself and stands by.
    """

    node_id: str
    rank: int | None
    last_heartbeat_ns: int
    own_heartbeats_failed: bool
    round: int | None = None


class Membership:
    """See the header of this file.

    Args:
        tell: Takes an event's name and attributes.
        thread: The watch thread.
        store: The job's store, where there is one.
        own_views: Where this agent's own view waits for the store's answer.
        shared_rounds: Whether all agents count the same rounds.
    """

    def __init__(
        self,
        emit: Callable[[str, Mapping[str, Any]], None],
        thread: EventLoopThread,
        store: Callable[[], JobStore | None],
        fallback: LocalFallback,
        *,
        shared_rounds: bool,
    ) -> None:
        self._emit = emit
        self._thread = thread
        self._store = store
        self._fallback = fallback
        self._shared = shared_rounds
        self._lost: set[str] = set()

    def report_changes(self, joined: JoinedRound, before: Sequence[str]) -> None:
        """Say how the membership changed, where this agent is the first of those who know both rounds."""
        stayed = [node for node in joined.participants if node in set(before)]
        if not before or not stayed or stayed[0] != joined.node_id or set(before) == set(joined.participants):
            return
        if joined.before != joined.round - 1:
            return  # it stood by in between, and what it knows of is older
        gone = [node for node in before if node not in set(joined.participants)]
        came = tuple(node for node in joined.participants if node not in set(before))

        def tell(lost: set[str]) -> None:
            told = {
                semconv.RENDEZVOUS_ROUND: joined.round,
                semconv.MEMBERSHIP_JOINED: came,
                semconv.MEMBERSHIP_LEFT: tuple(node for node in gone if node not in lost),
                semconv.MEMBERSHIP_LOST: tuple(node for node in gone if node in lost),
            }
            self._emit(semconv.MEMBERSHIP_CHANGED, told)

        first = first_of()

        def ask(keys: Keys) -> None:
            lost = {node for node in gone if agreement.is_lost(keys, joined.round - 1, node)}
            self._thread.call_soon(first(lambda: tell(lost)))

        store = self._store()
        if not gone or store is None or store.given_up:
            tell(self._lost)
        else:
            self._fallback.unless_answered(store, "membership", first(lambda: tell(self._lost)))
            store.submit(ask)

    def on_silent(self, node: SilentNode, joined: JoinedRound | None) -> None:
        """A node's heartbeats have stopped: it is lost, or it may be well."""
        store = self._store()
        if node.own_heartbeats_failed:
            self._emit(semconv.AGENT_SILENT, _peer_attributes(node))
            return
        round_ = node.round if joined is None else joined.round
        if store is None or round_ is None or not self._shared or store.given_up:
            self._report_lost(node)
            return

        first = first_of()
        self._fallback.unless_answered(store, f"node {node.node_id}", first(lambda: self._report_lost(node)))

        def ask(keys: Keys) -> None:
            if agreement.has_left(keys, round_, node.node_id):
                self._thread.call_soon(first(lambda: None))  # it said so itself
                return
            if agreement.is_in_barrier(keys, round_, node.node_id):
                self._thread.call_soon(first(lambda: self._emit(semconv.AGENT_SILENT, _peer_attributes(node))))
                return
            agreement.lose(keys, round_, node.node_id)
            if node.rank is not None:
                lost = Cause(
                    NODE_LOST,
                    node.last_heartbeat_ns,
                    host=address_of(node.node_id),
                    node_id=node.node_id,
                    group_rank=node.rank,
                )
                agreement.propose(keys, round_, lost)
            # who stands by speaks for nobody
            heir = joined is not None and agreement.take_over(keys, round_, node.node_id, joined.node_id or "")
            self._thread.call_soon(first(lambda: self._report_lost(node, joined if heir else None)))

        store.submit(ask)

    def _report_lost(self, node: SilentNode, inherits: JoinedRound | None = None) -> None:
        self._lost.add(node.node_id)
        told = _peer_attributes(node)
        if inherits is not None:
            # from here on this agent speaks for the whole job
            told |= {semconv.WRITER: True, semconv.RENDEZVOUS_ROUND: inherits.round}
        self._emit(semconv.AGENT_LOST, told)


def _peer_attributes(node: SilentNode) -> dict[str, Any]:
    last = datetime.fromtimestamp(node.last_heartbeat_ns / 1e9, timezone.utc)
    return {
        semconv.PEER_NODE_ID: node.node_id,
        semconv.PEER_GROUP_RANK: node.rank,
        semconv.PEER_LAST_HEARTBEAT: last.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        semconv.PEER_HEARTBEAT_AGE: max(0.0, (datetime.now(timezone.utc) - last).total_seconds()),
        semconv.INFERRED_FROM: "rendezvous_state",
    }
