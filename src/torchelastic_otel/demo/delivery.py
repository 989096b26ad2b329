"""What the demonstration's agents stored, compared with what arrived.

Guarantees: the order of arrival has no effect, and a record that arrives twice counts once. An event is missing if the
agent's spool has its sequence number and it did not arrive. Without a spool nothing proves that nothing is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchelastic_otel import semconv
from torchelastic_otel.processing.stored_events import read_events, read_origin
from torchelastic_otel.spool.directory import DELIVERED_SUFFIX, SPOOL_SUFFIX
from torchelastic_otel.spool.reader import read_spool

if TYPE_CHECKING:
    from torchelastic_otel.testing.received import ReceivedRecord

_UID: Final = re.compile(r"(.+)-([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class StoredEvents:
    """The events of one agent in its spool.

    Attributes:
        origin_id: The agent, as in ``log.record.uid``.
        sequences: The sequence numbers of the events that are exported as log records, rising. Heartbeats are metrics
            and not among them; spans have sequence numbers, too.
        pending: Events and spans that an exporter has not read.
        lost: Events and spans that were rejected, quarantined or dropped, of all exporters.
    """

    origin_id: str
    node: str
    sequences: tuple[int, ...]
    pending: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class NodeDelivery:
    """What arrived of one agent's events.

    Attributes:
        arrived: How many different events arrived.
        stored: How many it stored; ``None`` without a spool.
        missing: The sequence numbers of those that did not arrive, rising.
    """

    node: str
    protocols: tuple[str, ...]
    arrived: int
    stored: int | None
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What arrived of all agents' events.

    Attributes:
        duplicates: Records that had arrived before.
        without_uid: Records without a valid ``log.record.uid``.
        silent_nodes: Nodes that ran and sent nothing.
    """

    nodes: tuple[NodeDelivery, ...]
    duplicates: int
    without_uid: int
    silent_nodes: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every event of every node arrived."""
        doubtful = any(node.missing or node.stored is None for node in self.nodes)
        return not (self.silent_nodes or self.without_uid or doubtful)


def spools_of(directory: Path) -> list[Path]:
    """The spools below a spool directory, also delivered ones."""
    return sorted(path for path in directory.rglob("*") if path.suffix in (SPOOL_SUFFIX, DELIVERED_SUFFIX))


def read_stored_events(directories: Mapping[str, Path]) -> list[StoredEvents]:
    """The events in the spools of agents that have ended.

    Args:
        directories: ``TORCHELASTIC_OTEL_SPOOL_DIR`` of each node, by the node's name.

    Raises:
        SpoolError: A spool cannot be read.
    """
    stored = []
    for node, directory in directories.items():
        for path in spools_of(directory):
            contents = read_spool(path)
            origin, cursors = read_origin(contents), contents.cursors.values()
            sequences = [seq for seq, event in read_events(contents) if event.name not in semconv.HEARTBEATS]
            stored.append(
                StoredEvents(
                    origin.id if origin is not None else path.stem,
                    node,
                    tuple(sequences),
                    sum(cursor.pending for cursor in cursors) if cursors else len(sequences),
                    sum(cursor.rejected + cursor.quarantined + cursor.dropped for cursor in cursors),
                )
            )
    return stored


def compare(records: Iterable[ReceivedRecord], stored: Sequence[StoredEvents], nodes: Iterable[str]) -> Delivery:
    """Compare what arrived with what was stored.

    Args:
        records: What arrived, in any order.
        stored: What the agents' spools have.
        nodes: The names of the nodes that ran.
    """
    arrived: dict[str, set[int]] = {each.origin_id: set() for each in stored}
    names = {each.origin_id: each.node for each in stored}
    protocols: dict[str, set[str]] = {}
    duplicates = without_uid = 0
    for record in records:
        uid = _UID.fullmatch(record.uid)
        if uid is None:
            without_uid += 1
            continue
        origin, sequence = uid[1], int(uid[2])
        sequences = arrived.setdefault(origin, set())
        duplicates += sequence in sequences
        sequences.add(sequence)
        names.setdefault(origin, str(record.resource.get(semconv.HOST_NAME, "-")))
        protocols.setdefault(origin, set()).add(record.protocol)
    spools = {each.origin_id: each.sequences for each in stored}
    deliveries = [
        NodeDelivery(
            names[origin],
            tuple(sorted(protocols.get(origin, ()))),
            len(sequences),
            len(spools[origin]) if origin in spools else None,
            tuple(sequence for sequence in spools.get(origin, ()) if sequence not in sequences),
        )
        for origin, sequences in sorted(arrived.items(), key=lambda each: (names[each[0]], each[0]))
    ]
    heard = {delivery.node for delivery in deliveries if delivery.arrived}
    silent = tuple(node for node in nodes if node not in heard)
    return Delivery(tuple(deliveries), duplicates, without_uid, silent)


def describe(delivery: Delivery) -> list[str]:
    """The comparison as lines of text, node by node, with the conclusion at the end."""
    from torchelastic_otel.history.caveats import ranges

    lines = [
        f"{node.node}: {node.arrived} of {'?' if node.stored is None else node.stored} events by"
        f" {' and '.join(node.protocols) or '-'}"
        for node in delivery.nodes
    ]
    if delivery.duplicates:
        lines.append(f"Duplicates: {delivery.duplicates} (delivery is at least once; log.record.uid identifies them)")
    if delivery.is_complete:
        total = sum(node.arrived for node in delivery.nodes)
        return [
            *lines,
            f"Nothing is missing: {total} events of {len(delivery.nodes)} agents, all that their spools have.",
        ]
    lines.append("SOMETHING IS MISSING:")
    lines += [f"  nothing arrived from {node}" for node in delivery.silent_nodes]
    lines += [
        f"  {node.node}: {len(node.missing)} of {node.stored} events, sequences"
        f" {ranges(node.missing, most=len(node.missing))}"
        for node in delivery.nodes
        if node.missing and node.arrived
    ]
    lines += [f"  {node.node}: its spool cannot be read" for node in delivery.nodes if node.stored is None]
    if delivery.without_uid:
        lines.append(f"  without a log.record.uid, so not compared: {delivery.without_uid}")
    return lines


def describe_accepted(
    stored: Sequence[StoredEvents], nodes: Mapping[str, str], endpoint: str
) -> tuple[list[str], bool]:
    """What a real collector accepted, by the agents' spools.

    Args:
        stored: What the agents' spools have.
        nodes: The nodes that ran, and their protocols.
        endpoint: The collector, for the text.

    Returns:
        The lines of text, and whether everything was accepted.
    """
    lines = [f"Accepted by {endpoint}:"]
    for each in stored:
        count = len(each.sequences)
        lines.append(
            f"{each.node:<14} {max(0, count - each.pending - each.lost)} of {count} events by"
            f" {nodes.get(each.node, '-')}, {each.pending} pending, {each.lost} rejected or lost"
        )
    silent = [node for node in nodes if not any(each.node == node and each.sequences for each in stored)]
    lines += [f"{node:<14} stored no event" for node in silent]
    complete = not silent and all(each.pending == 0 and each.lost == 0 for each in stored)
    return [*lines, "Everything was accepted." if complete else "NOT everything was accepted."], complete
