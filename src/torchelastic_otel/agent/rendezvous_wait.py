"""A rendezvous that is held up: who is there, how many are missing, and who, said ever more rarely.

What always holds: it looks only on the watch thread, at a copy of what torch last synced; it says nothing of a
rendezvous that goes on, and nothing of a node that stands by while others train.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from torchelastic_otel import semconv
from torchelastic_otel.event_loop import EventLoopThread
from torchelastic_otel.model.inferred_event import ClockReading
from torchelastic_otel.model.node_id import address_of

FIRST_REPORT_NS: Final = 5_000_000_000
MAX_INTERVAL_NS: Final = 600_000_000_000
_MAX_NODES: Final = 64


@dataclass(frozen=True, slots=True)
class RendezvousView:
    """The rendezvous as an agent last synced it.

    Attributes:
        round: The round that is open, or complete.
        complete: Whether it is.
        participants: Node ids, in the order of their ranks where it is complete.
        waiting: Node ids on the wait list or standing by.
        node_id: This agent's own.
    """

    round: int
    complete: bool
    participants: tuple[str, ...]
    waiting: tuple[str, ...]
    node_id: str


class RendezvousWaitMonitor:
    """See the header of this file.

    Args:
        thread: The watch thread.
        say: Takes an event's name and attributes.
        view: The rendezvous as it stands.
        nodes_min: Nodes that a round needs.
        clock: Both clocks.
    """

    def __init__(
        self,
        thread: EventLoopThread,
        emit: Callable[[str, Mapping[str, Any]], object],
        view: Callable[[], RendezvousView | None],
        nodes_min: int | None,
        clock: Callable[[], ClockReading],
    ) -> None:
        self._thread = thread
        self._emit = emit
        self._view = view
        self._nodes_min = nodes_min
        self._clock = clock
        self._attempt = 0
        self._waiting = False
        self._previous: dict[str, int] = {}

    def begin(self) -> None:
        """The agent begins to wait."""
        self._attempt += 1
        self._waiting = True
        attempt, since_ns = self._attempt, self._clock().monotonic_ns
        self._thread.call_soon(
            lambda: self._thread.call_later(FIRST_REPORT_NS, lambda: self._report(attempt, since_ns))
        )

    def end(self) -> None:
        """It waits no longer."""
        self._waiting = False

    def set_previous(self, participants: Sequence[str]) -> None:
        """Who took part in the round that was joined, in the order of their ranks."""
        self._previous = {node: rank for rank, node in enumerate(participants)}

    def _report(self, attempt: int, since_ns: int) -> None:
        if not self._waiting or attempt != self._attempt:
            return
        waited_ns = self._clock().monotonic_ns - since_ns
        self._thread.call_later(
            min(max(waited_ns, FIRST_REPORT_NS), MAX_INTERVAL_NS), lambda: self._report(attempt, since_ns)
        )
        told: dict[str, Any] = {semconv.RENDEZVOUS_WAITED: waited_ns / 1e9, semconv.NODES_MIN: self._nodes_min}
        view = self._view()
        if view is not None:
            if view.complete and view.node_id not in view.participants:
                return  # it stands by
            there = {*view.participants, *view.waiting}
            told[semconv.RENDEZVOUS_PRESENT] = len(there)
            told[semconv.RENDEZVOUS_PARTICIPANTS] = tuple(sorted(there))[:_MAX_NODES]
            if self._nodes_min is not None:
                told[semconv.RENDEZVOUS_MISSING] = max(0, self._nodes_min - len(there))
            missing = self._missing(there)[:_MAX_NODES]
            told[semconv.RENDEZVOUS_MISSING_NODES] = tuple(
                f"{address_of(node)}, last rank {rank} ({node})" for node, rank in missing
            )
            told[semconv.RENDEZVOUS_MISSING_NODE_IDS] = tuple(f"{rank}:{node}" for node, rank in missing)
        self._emit(semconv.RENDEZVOUS_WAITING, told)

    def _missing(self, there: Set[str]) -> list[tuple[str, int]]:
        """Who of the round before is not there, with their ranks.

        An agent that was started again has another process id: who is new is taken for the one that is missing from its
        host, and where several are, for the one of the lowest rank.
        """
        back = Counter(address_of(node) for node in there if node not in self._previous)
        missing = []
        for node, rank in self._previous.items():
            if node in there:
                continue
            if back[address_of(node)] > 0:
                back[address_of(node)] -= 1
            else:
                missing.append((node, rank))
        return missing
