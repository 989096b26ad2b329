"""Torch's rendezvous: its state, the nodes that are silent, and the job's store.

Guarantees:

- Torch's state is read and never changed; torch's client of the store is never used, since one mutex covers all of it,
  and waiting for it stops torch's heartbeats.
- A node whose heartbeats stopped is reported once, and again if it was back in between.

Facts (torch 2.2 to 2.15): only the dynamic rendezvous has a state. Each sync deletes nodes whose heartbeats stopped
from this node's copy of it, before other code can read it, until one node writes the deletion to the store.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final

from torchelastic_otel.agent.coordination.coordinator import JobCoordinator
from torchelastic_otel.agent.coordination.job_store import JobStore
from torchelastic_otel.agent.coordination.membership import SilentNode
from torchelastic_otel.agent.rendezvous_wait import RendezvousView
from torchelastic_otel.guard import guard

_BACKENDS_WITH_A_STORE_OF_THEIR_OWN: Final = frozenset({"static"})


@dataclass(frozen=True, slots=True)
class StateBeforeSync:
    """The state before a sync deleted nodes.

    Attributes:
        beats: Last heartbeats, by node.
        participants: Ranks, by node.
        round: The round; ``None`` if the state could not be read.
    """

    beats: Mapping[Any, datetime] = field(default_factory=dict)
    participants: Mapping[Any, int] = field(default_factory=dict)
    round: int | None = None


class TorchRendezvous:
    """One agent's rendezvous; see the header of this file.

    Args:
        handler: Torch's, or another of its shape.
    """

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._silent: set[str] = set()
        self.backend = str(handler.get_backend())
        self.run_id = str(handler.get_run_id())

    @property
    def holder(self) -> Any:
        """The holder of the state that all agents share; ``None`` if there is none."""
        return getattr(self._handler, "_state_holder", None)

    def nodes(self) -> tuple[int | None, int | None]:
        """How many nodes a round needs and accepts; ``None`` if unknown."""
        settings = getattr(self._handler, "_settings", None)
        nodes = getattr(self._handler, "world_size", None)
        return getattr(settings, "min_nodes", nodes), getattr(settings, "max_nodes", nodes)

    def view(self) -> RendezvousView | None:
        """The dynamic rendezvous as this agent last synced it."""
        holder = self.holder
        if holder is None:
            return None
        state = holder.state
        ranked = dict(state.participants)
        waiting = [*state.wait_list, *getattr(state, "redundancy_list", ())]
        return RendezvousView(
            int(state.round),
            bool(state.complete),
            tuple(str(node) for node in sorted(ranked, key=lambda node: (ranked[node], str(node)))),
            tuple(sorted(str(node) for node in waiting)),
            str(self._handler._this_node),
        )

    def connect_store(self, job: JobCoordinator, *, is_safe: bool, hosts_store: Callable[[], bool]) -> None:
        """Give the coordinator the job's store, as soon as there is one.

        Args:
            job: The coordinator.
            is_safe: Whether this torch's store can be used beside other threads.
            hosts_store: Whether this process hosts the store of the dynamic rendezvous.
        """
        store = getattr(self._handler, "_store", None)
        store = getattr(store, "underlying_store", store)
        host, port = getattr(store, "host", None), getattr(store, "port", None)
        static = self.backend in _BACKENDS_WITH_A_STORE_OF_THEIR_OWN
        if store is None and static:
            return  # it exists from the first rendezvous on
        if not is_safe or not isinstance(host, str) or not isinstance(port, int) or not hasattr(store, "check"):
            job.set_store(None, hosts_store=False)
            return
        hosts = getattr(self._handler, "rank", None) == 0 if static else hosts_store()
        job.set_store(JobStore(_connector(host, port), f"torchelastic_otel/{self.run_id}/"), hosts_store=hosts)

    def silent_nodes(self, holder: Any, before: StateBeforeSync) -> list[SilentNode]:
        """The nodes that this sync deleted, except for this agent's own and those reported before."""
        left = holder._state.last_heartbeats
        # a thousand nodes are compared only if one of them is gone, or may be back
        if len(left) >= len(before.beats) and not self._silent:
            return []
        gone = [node for node in before.beats if node not in left]
        new = [node for node in gone if str(node) not in self._silent]
        if self._silent:
            self._silent &= {str(node) for node in gone}  # the others are back, and may be silent once more
        self._silent.update(str(node) for node in new)
        if not new:
            return []
        own = str(self._handler._this_node)
        interval_s = holder._settings.keep_alive_interval.total_seconds()
        own_beat = next((_epoch_s(beat) for node, beat in before.beats.items() if str(node) == own), None)
        now_s = datetime.now(timezone.utc).timestamp()
        failed = own_beat is not None and now_s - own_beat > 2 * interval_s
        return [
            SilentNode(
                str(node),
                before.participants.get(node),
                int(_epoch_s(before.beats[node]) * 1_000_000) * 1_000,
                failed,
                before.round,
            )
            for node in new
            if str(node) != own
        ]


def wrap_sanitize(
    original: Callable[[Any], Any], on_sanitized: Callable[[Any, StateBeforeSync], object]
) -> Callable[[Any], Any]:
    """The state holder's ``_sanitize``, followed by a call with the state before it."""

    def _sanitize(self: Any) -> Any:
        before = StateBeforeSync()
        with guard:
            state = self._state
            before = StateBeforeSync(dict(state.last_heartbeats), dict(state.participants), int(state.round))
        result = original(self)
        with guard:
            on_sanitized(self, before)
        return result

    return _sanitize


def _connector(host: str, port: int) -> Callable[[], Any]:
    def connect() -> Any:
        from datetime import timedelta

        store = sys.modules["torch.distributed"].TCPStore
        # long: torch resolves each address (2.8 to 2.15), and only this thread waits
        return store(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))

    return connect


def _epoch_s(beat: datetime) -> float:
    # before torch 2.5 the time is UTC without a time zone
    return (beat if beat.tzinfo is not None else beat.replace(tzinfo=timezone.utc)).timestamp()
