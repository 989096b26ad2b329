"""What agents agree on through the job's store, as errands on its thread: which run, whose fault, who speaks for all.

What always holds: only these keys are used, under ``torchelastic_otel/<run id>/``: ``nonce`` (the first one holds),
``<round>/cause`` (the earliest holds), ``<round>/writer`` (the first one holds, or who takes its place),
``<round>/up/<rank>``, ``<round>/barrier/<node id>`` and ``<round>/left/<node id>`` (each agent its own),
``<round>/lost/<node id>``. The rendezvous is the barrier: what is proposed for a round before its agent joins the next
one is read by all after they have joined.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from torchelastic_otel.agent.coordination.store import Keys
from torchelastic_otel.model.failure import Cause, earlier


def prefix(run_id: str) -> str:
    """Of all keys of a run."""
    return f"torchelastic_otel/{run_id}/"


def nonce(keys: Keys, mine: str) -> str:
    """The one that all agents of the run use."""
    return keys.put_first("nonce", mine)


def propose(keys: Keys, round_: int, cause: Cause) -> None:
    """Say what one agent holds to be the cause of a round's end."""
    key = f"{round_}/cause"
    held = keys.put_first(key, cause.to_json())
    while (agreed := earlier(Cause.from_json(held), cause).to_json()) != held:
        held = keys.replace(key, held, agreed)


def cause(keys: Keys, round_: int) -> Cause | None:
    """The cause of a round's end that all agents hold; ``None`` where nobody proposed one."""
    held = keys.read(f"{round_}/cause")
    return None if held is None else Cause.from_json(held)


def claim(keys: Keys, round_: int, node: str) -> bool:
    """Ask to speak for the whole job in a round; whether this node does."""
    return keys.put_first(f"{round_}/writer", node) == node


def writer(keys: Keys, round_: int) -> str | None:
    """The node that speaks for the whole job in a round."""
    return keys.read(f"{round_}/writer")


def take_over(keys: Keys, round_: int, lost: str, node: str) -> bool:
    """Speak for the whole job in the place of a node that is lost; whether this node does."""
    if writer(keys, round_) != lost:
        return False
    return keys.replace(f"{round_}/writer", lost, node) == node


def lose(keys: Keys, round_: int, node_id: str) -> None:
    """Say that a node is lost."""
    keys.put_first(f"{round_}/lost/{node_id}", "1")


def leave(keys: Keys, round_: int, node_id: str) -> None:
    """Say that this node was told to go: its heartbeats will stop, and it is not lost."""
    keys.put_first(f"{round_}/left/{node_id}", "1")


def has_left(keys: Keys, round_: int, node_id: str) -> bool:
    """Whether a node said so."""
    return keys.all_there([f"{round_}/left/{node_id}"])


def is_lost(keys: Keys, round_: int, node_id: str) -> bool:
    """Whether somebody said that a node is lost."""
    return keys.all_there([f"{round_}/lost/{node_id}"])


@dataclass(frozen=True, slots=True)
class BroughtUp:
    """One node's part in the bring-up of a round.

    Attributes:
        began_ns: When its part began, nanoseconds since the epoch.
        joined_ns: When it began to join, nanoseconds since the epoch.
        ended_ns: When its workers ran, nanoseconds since the epoch.
        node: Who it is, for a person.
    """

    began_ns: int
    joined_ns: int
    ended_ns: int
    node: str


def report_up(keys: Keys, round_: int, rank: int, part: BroughtUp) -> None:
    """Say that this node's workers run."""
    keys.put_first(f"{round_}/up/{rank}", json.dumps([part.began_ns, part.joined_ns, part.ended_ns, part.node]))


def all_up(keys: Keys, round_: int, world_size: int) -> list[BroughtUp] | None:
    """All nodes' parts; ``None`` where one is still missing."""
    names = [f"{round_}/up/{rank}" for rank in range(world_size)]
    if not keys.all_there(names):
        return None
    return [BroughtUp(*json.loads(keys.read(name) or "[0, 0, 0, null]")) for name in names]


def enter_barrier(keys: Keys, round_: int, node_id: str) -> None:
    """Say that this node is done and waits for the others: it may send no heartbeats, and is well."""
    keys.put_first(f"{round_}/barrier/{node_id}", "1")


def is_in_barrier(keys: Keys, round_: int, node_id: str) -> bool:
    """Whether a node said so."""
    return keys.all_there([f"{round_}/barrier/{node_id}"])
