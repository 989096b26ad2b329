"""The start of a round on all nodes, reported once, by the job reporter.

Guarantees: reported when all nodes have reported their part, or two seconds after this node's workers started (later
while the store is being connected to), then with the parts that are known; also if the round is over by then. State
changes on the event loop.
"""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination.agreement import BringUp, JobKeys
from torchelastic_otel.agent.coordination.job_store import MAX_WAIT_S, JobStore
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.units import NS_PER_MS, NS_PER_S

MAX_WAIT_NS: Final = 2 * NS_PER_S
_POLL_INTERVAL_NS: Final = 200 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class JoinedRound:
    """A round that this agent has joined.

    Attributes:
        round: Its number.
        previous: The round that this agent was in before; ``None`` for its first.
        rank: This node's rank in it.
        world_size: Number of nodes in it.
        participants: Node ids in the order of their ranks; empty if the backend does not provide them.
        node_id: This node's.
    """

    round: int
    previous: int | None
    rank: int
    world_size: int
    participants: Sequence[str]
    node_id: str | None


class RoundStart:
    """See the header of this file.

    Args:
        thread: The event loop.
        emit: Takes an event's name and attributes.
        store: The job's store, if there is one and all agents count the same rounds.
    """

    def __init__(
        self,
        thread: EventLoopThread,
        emit: Callable[[str, dict[str, Any]], object],
        store: Callable[[], JobStore | None],
    ) -> None:
        self._thread = thread
        self._emit = emit
        self._store = store
        self._up: tuple[JoinedRound, BringUp] | None = None
        self._reporting: JoinedRound | None = None
        self._reported: deque[JoinedRound] = deque(maxlen=8)  # timers of short rounds fire later

    def on_up(self, joined: JoinedRound, bring_up: BringUp) -> None:
        """This node's workers are running; from any thread."""
        store = self._store()
        if store is not None:
            store.submit(lambda keys: keys.report_up(joined.round, joined.rank, bring_up))
        self._thread.call_soon(lambda: self._on_up(joined, bring_up))

    def finish(self) -> None:
        """The agent ends: report now what is pending; waits for that at most 50 ms."""
        done = _thread.allocate_lock()
        done.acquire()
        self._thread.call_soon(self._report_pending)
        self._thread.call_soon(done.release)
        done.acquire(True, MAX_WAIT_S)

    # --- on the event loop

    def report(self, joined: JoinedRound) -> None:
        """This agent is the job reporter of that round."""
        self._report_pending()
        self._reporting = joined
        self._start()

    def _on_up(self, joined: JoinedRound, bring_up: BringUp) -> None:
        self._report_pending()
        self._up = (joined, bring_up)
        self._start()

    def _start(self) -> None:
        if self._up is not None and self._up[0] is self._reporting and not self._is_reported(self._up[0]):
            joined, bring_up = self._up
            self._thread.call_later(MAX_WAIT_NS, lambda: self._on_timeout(joined, bring_up))
            self._poll(joined)

    def _on_timeout(self, joined: JoinedRound, bring_up: BringUp) -> None:
        store = self._store()
        if store is not None and store.connecting:
            self._thread.call_later(MAX_WAIT_NS, lambda: self._on_timeout(joined, bring_up))
        else:
            self._report(joined, [bring_up])

    def _poll(self, joined: JoinedRound) -> None:
        store = self._store()
        if self._is_reported(joined) or self._up is None or self._up[0] is not joined:
            return
        if store is None or store.given_up or joined.world_size == 1:
            self._report(joined, [self._up[1]])
            return

        def request(keys: JobKeys) -> None:
            parts = keys.all_up(joined.round, joined.world_size)
            if parts is not None:
                self._thread.call_soon(lambda: self._report(joined, parts))
            else:
                self._thread.call_soon(lambda: self._thread.call_later(_POLL_INTERVAL_NS, lambda: self._poll(joined)))

        store.submit(request)

    def _report_pending(self) -> None:
        if self._up is not None and self._up[0] is self._reporting:
            self._report(self._up[0], [self._up[1]])

    def _is_reported(self, joined: JoinedRound) -> bool:
        return any(each is joined for each in self._reported)

    def _report(self, joined: JoinedRound, parts: Sequence[BringUp]) -> None:
        if self._is_reported(joined):
            return
        self._reported.append(joined)
        began, ended = min(part.began_ns for part in parts), max(part.ended_ns for part in parts)
        last = max(parts, key=lambda part: part.joined_ns)
        self._emit(
            semconv.ROUND_STARTED,
            {
                semconv.RENDEZVOUS_ROUND: joined.round,
                semconv.GROUP_WORLD_SIZE: joined.world_size,
                semconv.ROUND_BEGAN: began,
                semconv.ROUND_DURATION: max(0, ended - began) / NS_PER_S,
                semconv.RENDEZVOUS_LAST_JOINER: last.node if len(parts) > 1 else None,
                semconv.WRITER: True,
                semconv.INFERRED_FROM: "store" if len(parts) == joined.world_size else "own_view",
            },
        )
