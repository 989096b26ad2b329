"""A round whose workers run on all nodes, said once, by the agent that speaks for the whole job.

What always holds: said when all nodes have reported, or two seconds after this one's workers ran (later where the store
is still being connected to), then with what is known; also where the round is over by then. All of it happens on the
watch thread and the store's.
"""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.agent.coordination import keys as agreement
from torchelastic_otel.agent.coordination.store import MAX_WAIT_S, JobStore, Keys
from torchelastic_otel.event_loop import EventLoopThread

MAX_WAIT_NS: Final = 2_000_000_000
_POLL_INTERVAL_NS: Final = 200_000_000


@dataclass(frozen=True, slots=True)
class JoinedRound:
    """A round that this agent has joined.

    Attributes:
        round: Its number.
        before: The round that this agent was in before; ``None`` where this is its first.
        rank: This node's rank in it.
        world_size: Nodes in it.
        participants: Node ids in the order of their ranks; empty where the backend does not tell.
        node_id: This node's.
    """

    round: int
    before: int | None
    rank: int
    world_size: int
    participants: Sequence[str]
    node_id: str | None


class RoundStart:
    """See the header of this file.

    Args:
        thread: The watch thread.
        tell: Takes an event's name and attributes.
        store: The job's store, where all agents count the same rounds and there is one.
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
        self._up: tuple[JoinedRound, agreement.BroughtUp] | None = None
        self._reporting: JoinedRound | None = None
        self._reported: deque[JoinedRound] = deque(maxlen=8)  # timers of rounds that were over soon come later

    def on_up(self, joined: JoinedRound, part: agreement.BroughtUp) -> None:
        """This node's workers run; from any thread."""
        store = self._store()
        if store is not None:
            store.submit(lambda keys: agreement.report_up(keys, joined.round, joined.rank, part))
        self._thread.call_soon(lambda: self._on_up(joined, part))

    def finish(self) -> None:
        """The agent ends: what is still to be said is said now; waits for it at most 50 ms."""
        done = _thread.allocate_lock()
        done.acquire()
        self._thread.call_soon(self._report_remaining)
        self._thread.call_soon(done.release)
        done.acquire(True, MAX_WAIT_S)

    # --- on the watch thread

    def report(self, joined: JoinedRound) -> None:
        """This agent speaks for the whole job in that round."""
        self._report_remaining()
        self._reporting = joined
        self._start()

    def _on_up(self, joined: JoinedRound, part: agreement.BroughtUp) -> None:
        self._report_remaining()
        self._up = (joined, part)
        self._start()

    def _start(self) -> None:
        if self._up is not None and self._up[0] is self._reporting and not self._is_reported(self._up[0]):
            joined, part = self._up
            self._thread.call_later(MAX_WAIT_NS, lambda: self._on_timeout(joined, part))
            self._poll(joined)

    def _on_timeout(self, joined: JoinedRound, part: agreement.BroughtUp) -> None:
        store = self._store()
        if store is not None and store.connecting:
            self._thread.call_later(MAX_WAIT_NS, lambda: self._on_timeout(joined, part))
        else:
            self._report(joined, [part], complete=joined.world_size == 1)

    def _poll(self, joined: JoinedRound) -> None:
        store = self._store()
        if self._is_reported(joined) or self._up is None or self._up[0] is not joined:
            return
        if store is None or store.given_up or joined.world_size == 1:
            self._report(joined, [self._up[1]], complete=joined.world_size == 1)
            return

        def ask(keys: Keys) -> None:
            parts = agreement.all_up(keys, joined.round, joined.world_size)
            self._thread.call_soon(lambda: seen(parts))

        def seen(parts: list[agreement.BroughtUp] | None) -> None:
            if parts is not None:
                self._report(joined, parts, complete=True)
            else:
                self._thread.call_later(_POLL_INTERVAL_NS, lambda: self._poll(joined))

        store.submit(ask)

    def _report_remaining(self) -> None:
        if self._up is not None and self._up[0] is self._reporting:
            self._report(self._up[0], [self._up[1]], complete=self._up[0].world_size == 1)

    def _is_reported(self, joined: JoinedRound) -> bool:
        return any(each is joined for each in self._reported)

    def _report(self, joined: JoinedRound, parts: Sequence[agreement.BroughtUp], *, complete: bool) -> None:
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
                semconv.ROUND_DURATION: max(0, ended - began) / 1e9,
                semconv.RENDEZVOUS_LAST_JOINER: last.node if len(parts) > 1 else None,
                semconv.WRITER: True,
                semconv.INFERRED_FROM: "store" if complete else "own_view",
            },
        )
