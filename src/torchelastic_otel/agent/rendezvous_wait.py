"""Reports of a rendezvous that does not complete: who is present and who is missing, at growing intervals.

Guarantees: it reads a copy of what torch last synced, on the event loop only; it reports nothing for a rendezvous that
completes in time, and nothing for a node that stands by while others train.
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
from torchelastic_otel.units import NS_PER_S

FIRST_REPORT_NS: Final = 5 * NS_PER_S
MAX_INTERVAL_NS: Final = 600 * NS_PER_S
_MAX_NODES: Final = 64


@dataclass(frozen=True, slots=True)
class RendezvousView:
    """The rendezvous as an agent last synced it.

    Attributes:
        round: The round that is open, or complete.
        complete: Whether it is complete.
        participants: Node ids, in the order of their ranks if it is complete.
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
        thread: The event loop.
        emit: Takes an event's name and attributes.
        view: The current state of the rendezvous.
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
        report = lambda: self._report(attempt, since_ns)  # noqa: E731
        self._thread.call_soon(lambda: self._thread.call_later(FIRST_REPORT_NS, report))

    def end(self) -> None:
        """The agent waits no longer."""
        self._waiting = False

    def set_previous(self, participants: Sequence[str]) -> None:
        """The participants of the round that was joined, in the order of their ranks."""
        self._previous = {node: rank for rank, node in enumerate(participants)}

    def _report(self, attempt: int, since_ns: int) -> None:
        if not self._waiting or attempt != self._attempt:
            return
        waited_ns = self._clock().monotonic_ns - since_ns
        interval_ns = min(max(waited_ns, FIRST_REPORT_NS), MAX_INTERVAL_NS)
        self._thread.call_later(interval_ns, lambda: self._report(attempt, since_ns))
        attributes: dict[str, Any] = {
            semconv.RENDEZVOUS_WAITED: waited_ns / NS_PER_S,
            semconv.NODES_MIN: self._nodes_min,
        }
        view = self._view()
        if view is not None:
            if view.complete and view.node_id not in view.participants:
                return  # it stands by
            present = {*view.participants, *view.waiting}
            attributes[semconv.RENDEZVOUS_PRESENT] = len(present)
            attributes[semconv.RENDEZVOUS_PARTICIPANTS] = tuple(sorted(present))[:_MAX_NODES]
            if self._nodes_min is not None:
                attributes[semconv.RENDEZVOUS_MISSING] = max(0, self._nodes_min - len(present))
            missing = self._missing(present)[:_MAX_NODES]
            attributes[semconv.RENDEZVOUS_MISSING_NODES] = tuple(
                f"{address_of(node)}, last rank {rank} ({node})" for node, rank in missing
            )
            attributes[semconv.RENDEZVOUS_MISSING_NODE_IDS] = tuple(f"{rank}:{node}" for node, rank in missing)
        self._emit(semconv.RENDEZVOUS_WAITING, attributes)

    def _missing(self, present: Set[str]) -> list[tuple[str, int]]:
        """The nodes of the previous round that are not present, with their ranks.

        An agent that was started again has another process id: a new node replaces the missing one of its host, and if
        several are missing, the one of the lowest rank.
        """
        new = Counter(address_of(node) for node in present if node not in self._previous)
        missing = []
        for node, rank in self._previous.items():
            if node in present:
                continue
            if new[address_of(node)] > 0:
                new[address_of(node)] -= 1
            else:
                missing.append((node, rank))
        return missing
