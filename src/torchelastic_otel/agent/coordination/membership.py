"""Changes of the job's membership: nodes that are lost or silent, and the difference between two rounds.

Guarantees:

- A node whose heartbeats stopped is reported as lost by every survivor, unless the job's store records that it left or
  is done; as silent if it may be alive.
- A change of the membership is reported by one agent: the first of those that know both rounds.
- All state changes on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination.agreement import IN_BARRIER, LEFT, LOST, JobKeys
from torchelastic_otel.agent.coordination.fallback import LocalFallback
from torchelastic_otel.agent.coordination.job_store import JobStore
from torchelastic_otel.agent.coordination.round_start import JoinedRound
from torchelastic_otel.event_loop import Task
from torchelastic_otel.model.cause import NODE_LOST, Cause
from torchelastic_otel.model.node_id import address_of
from torchelastic_otel.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class SilentNode:
    """A node whose heartbeats have stopped.

    Attributes:
        node_id: The node.
        rank: Its rank in the round; ``None`` if it took no part.
        last_heartbeat_ns: When it last sent one, by its own clock, nanoseconds since the epoch.
        own_heartbeats_failed: Whether this agent's own heartbeats have stopped as well.
        round: The round in which it was seen; for an agent that is in no round itself and stands by.
    """

    node_id: str
    rank: int | None
    last_heartbeat_ns: int
    own_heartbeats_failed: bool
    round: int | None = None


class Membership:
    """See the header of this file.

    Args:
        emit: Takes an event's name and attributes.
        store: The job's store; ``None`` if there is none.
        fallback: Waits for the store's answers.
        shared_rounds: Whether all agents count the same rounds.
    """

    def __init__(
        self,
        emit: Callable[[str, Mapping[str, Any]], None],
        store: Callable[[], JobStore | None],
        fallback: LocalFallback,
        *,
        shared_rounds: bool,
    ) -> None:
        self._emit = emit
        self._store = store
        self._fallback = fallback
        self._shared_rounds = shared_rounds
        self._lost: set[str] = set()

    def report_changes(self, joined: JoinedRound, previous: Sequence[str]) -> None:
        """Report the change between two rounds, if this agent is the first that knows both."""
        before, now = set(previous), set(joined.participants)
        stayed = [node for node in joined.participants if node in before]
        if not stayed or stayed[0] != joined.node_id or before == now:
            return
        if joined.previous != joined.round - 1:
            return  # it stood by in between, and knows an older round
        gone = [node for node in previous if node not in now]
        came = tuple(node for node in joined.participants if node not in before)

        def emit(lost: set[str]) -> None:
            self._emit(
                semconv.MEMBERSHIP_CHANGED,
                {
                    semconv.RENDEZVOUS_ROUND: joined.round,
                    semconv.MEMBERSHIP_JOINED: came,
                    semconv.MEMBERSHIP_LEFT: tuple(node for node in gone if node not in lost),
                    semconv.MEMBERSHIP_LOST: tuple(node for node in gone if node in lost),
                },
            )

        def query(keys: JobKeys) -> Task:
            lost = {node for node in gone if keys.is_marked(joined.round - 1, LOST, node)}
            return lambda: emit(lost)

        store = self._store()
        if not gone or store is None or store.given_up:
            emit(self._lost)
        else:
            self._fallback.query(store, "membership", query, lambda: emit(self._lost))

    def on_silent(self, node: SilentNode, joined: JoinedRound | None) -> None:
        """A node's heartbeats have stopped: it is lost, or may be alive."""
        store = self._store()
        if node.own_heartbeats_failed:
            self._emit(semconv.AGENT_SILENT, _peer_attributes(node))
            return
        round_ = node.round if joined is None else joined.round
        if store is None or round_ is None or not self._shared_rounds or store.given_up:
            self._report_lost(node)
            return

        def query(keys: JobKeys) -> Task:
            if keys.is_marked(round_, LEFT, node.node_id):
                return lambda: None  # it reported that itself
            if keys.is_marked(round_, IN_BARRIER, node.node_id):
                return lambda: self._emit(semconv.AGENT_SILENT, _peer_attributes(node))
            keys.mark(round_, LOST, node.node_id)
            if node.rank is not None:
                host = address_of(node.node_id)
                cause = Cause(NODE_LOST, node.last_heartbeat_ns, host=host, node_id=node.node_id, group_rank=node.rank)
                keys.propose_cause(round_, cause)
            # an agent that stands by is never the job reporter
            replaces = joined is not None and keys.replace_reporter(round_, node.node_id, joined.node_id or "")
            return lambda: self._report_lost(node, joined if replaces else None)

        self._fallback.query(store, f"node {node.node_id}", query, lambda: self._report_lost(node))

    def _report_lost(self, node: SilentNode, reporter_of: JoinedRound | None = None) -> None:
        self._lost.add(node.node_id)
        attributes = _peer_attributes(node)
        if reporter_of is not None:
            attributes |= {semconv.WRITER: True, semconv.RENDEZVOUS_ROUND: reporter_of.round}
        self._emit(semconv.AGENT_LOST, attributes)


def _peer_attributes(node: SilentNode) -> dict[str, Any]:
    last = datetime.fromtimestamp(node.last_heartbeat_ns / NS_PER_S, timezone.utc)
    return {
        semconv.PEER_NODE_ID: node.node_id,
        semconv.PEER_GROUP_RANK: node.rank,
        semconv.PEER_LAST_HEARTBEAT: last.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        semconv.PEER_HEARTBEAT_AGE: max(0.0, (datetime.now(timezone.utc) - last).total_seconds()),
        semconv.INFERRED_FROM: "rendezvous_state",
    }
