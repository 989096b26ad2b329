"""The keys through which agents agree, in the job's store: the run, the cause of a round's end, the job reporter.

Guarantees: only these keys are used, below ``torchelastic_otel/<run id>/``; none is ever deleted.

- ``nonce``: the first value wins.
- ``<round>/cause``: the earliest cause of the lowest weight wins.
- ``<round>/culprits``: workers that were outside a collective when they were stopped, all of them; written only if the
  stored cause waited for another, so that a thousand nodes that a newcomer stops write nothing.
- ``<round>/writer``: the job reporter; the first value wins, or the node that replaces a lost one.
- ``<round>/up/<rank>``, ``<round>/barrier/<node id>``, ``<round>/left/<node id>``: each agent writes its own.
- ``<round>/lost/<node id>``: any survivor writes it.

The rendezvous is the barrier: every agent reads, after it has joined a round, what any agent proposed for the previous
round before it joined.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final, Protocol

from torchelastic_otel.model.cause import Cause, add_culprits, earlier, with_culprits
from torchelastic_otel.model.failure import Weight

_NEVER: Final = "\x01"
"""No key ever has this value: comparing with it reads the key."""
LEFT: Final = "left"
"""The node got a signal to end: its heartbeats stop, and it is not lost."""
LOST: Final = "lost"
IN_BARRIER: Final = "barrier"
"""The node is done and waits for the others: it may send no heartbeats."""


class Client(Protocol):
    """The used part of ``torch.distributed.TCPStore``."""

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        """Set a key if it has the expected value (empty: if it does not exist); returns its value then."""
        ...

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys exist."""
        ...


@dataclass(frozen=True, slots=True)
class BringUp:
    """One node's part in the bring-up of a round.

    Attributes:
        began_ns: When its part began, nanoseconds since the epoch.
        joined_ns: When it began to join, nanoseconds since the epoch.
        ended_ns: When its workers were running, nanoseconds since the epoch.
        node: The node, for a person.
    """

    began_ns: int
    joined_ns: int
    ended_ns: int
    node: str


def _culprits(value: str | None) -> tuple[Cause, ...]:
    try:
        return tuple(Cause.from_json(line) for line in json.loads(value)) if value else ()
    except (ValueError, TypeError):
        return ()  # of a newer version


class JobKeys:
    """The keys of one run; used on the store's thread only.

    Args:
        client: A connection to the job's store.
        prefix: Prefix of all keys.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def read(self, key: str) -> str | None:
        """The value of a key; ``None`` if it does not exist."""
        return self.replace(key, _NEVER, _NEVER) if self.exist([key]) else None

    def exist(self, keys: Sequence[str]) -> bool:
        """Whether all keys exist."""
        return self._client.check([self._prefix + key for key in keys])

    def put_first(self, key: str, value: str) -> str:
        """Set a key unless it exists; returns its value then."""
        return self.replace(key, "", value)

    def replace(self, key: str, expected: str, value: str) -> str:
        """Set a key if it has the expected value; returns its value then."""
        return self._client.compare_set(self._prefix + key, expected, value).decode()

    def nonce(self, own: str) -> str:
        """The nonce that all agents of the run use."""
        return self.put_first("nonce", own)

    def propose_cause(self, round_: int, cause: Cause) -> None:
        """Propose a cause of the end of a round."""
        key = f"{round_}/cause"
        current = self.put_first(key, cause.to_json())
        while (agreed := earlier(Cause.from_json(current), cause).to_json()) != current:
            current = self.replace(key, current, agreed)

    def propose_culprits(self, round_: int, culprits: Sequence[Cause]) -> None:
        """Add workers that were outside a collective when they were stopped, unless something failed by itself."""
        cause = self._cause(round_)
        if not culprits or cause is None or cause.weight != Weight.WAITED:
            return
        key, current = f"{round_}/culprits", ""
        stored = self.read(key)
        while True:
            current = stored or ""
            merged = json.dumps([each.to_json() for each in add_culprits(_culprits(stored), culprits)])
            if merged == current:
                return
            stored = self.replace(key, current, merged)
            if stored == merged:
                return

    def cause(self, round_: int) -> Cause | None:
        """The agreed cause of the end of a round; ``None`` if no agent proposed one."""
        cause = self._cause(round_)
        if cause is None or cause.weight != Weight.WAITED:
            return cause
        return with_culprits(cause, _culprits(self.read(f"{round_}/culprits")))

    def _cause(self, round_: int) -> Cause | None:
        value = self.read(f"{round_}/cause")
        return None if value is None else Cause.from_json(value)

    def elect_reporter(self, round_: int, node: str) -> str:
        """Propose a job reporter for a round; returns the elected one."""
        return self.put_first(f"{round_}/writer", node)

    def reporter(self, round_: int) -> str | None:
        """The job reporter of a round."""
        return self.read(f"{round_}/writer")

    def replace_reporter(self, round_: int, lost: str, node: str) -> bool:
        """Take the place of a lost job reporter; returns whether this node is the reporter now."""
        return self.reporter(round_) == lost and self.replace(f"{round_}/writer", lost, node) == node

    def mark(self, round_: int, state: str, node_id: str) -> None:
        """Record that a node is :data:`LEFT`, :data:`LOST` or :data:`IN_BARRIER`."""
        self.put_first(f"{round_}/{state}/{node_id}", "1")

    def is_marked(self, round_: int, state: str, node_id: str) -> bool:
        """Whether some agent recorded that state of a node."""
        return self.exist([f"{round_}/{state}/{node_id}"])

    def report_up(self, round_: int, rank: int, bring_up: BringUp) -> None:
        """Record that this node's workers are running."""
        self.put_first(f"{round_}/up/{rank}", json.dumps(astuple(bring_up)))

    def all_up(self, round_: int, world_size: int) -> list[BringUp] | None:
        """All nodes' parts; ``None`` while one is missing."""
        keys = [f"{round_}/up/{rank}" for rank in range(world_size)]
        if not self.exist(keys):
            return None
        return [BringUp(*json.loads(self.read(key) or "[0, 0, 0, null]")) for key in keys]
