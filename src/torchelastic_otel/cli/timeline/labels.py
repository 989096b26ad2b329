"""Nodes and failures as text: one by one, or many in groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from torchelastic_otel.history.caveats import ranges
from torchelastic_otel.history.types import Failure, Member, Node, Run
from torchelastic_otel.model.failure import HANG, OUT_OF_MEMORY

_KINDS: Final = {
    "uninterruptible_sleep": "hangs in uninterruptible sleep",
    "node_lost": "the node was lost",
}


class NodeNames:
    """The names of a run's nodes: the host if that is unique, else torch's node id."""

    def __init__(self, run: Run) -> None:
        counted = Counter(member.host for member in run.nodes)
        self._shared = {host for host, count in counted.items() if count > 1}

    def of(self, host: str | None, node_id: str | None) -> str:
        """A node's name."""
        if node_id is not None and (host is None or host in self._shared):
            return node_id
        return host or "an unknown host"

    def member(self, member: Member) -> str:
        """An agent's name."""
        return self.of(member.host, member.node_id)

    def node(self, node: Node) -> str:
        """A node with its rank."""
        name = self.of(node.host, node.node_id)
        return name if node.group_rank is None else f"node {node.group_rank} ({name})"


def count_of(count: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def node_group(nodes: Sequence[Node], names: NodeNames) -> str:
    """Several nodes: one by its name, more by their ranks."""
    if len(nodes) == 1:
        return names.node(nodes[0])
    ranked = [node.group_rank for node in nodes if node.group_rank is not None]
    unranked = len(nodes) - len(ranked)
    text = f"nodes {ranges(ranked)}" if ranked else ""
    if unranked:
        text += (" and " if text else "") + count_of(unranked, "node") + " without a rank"
    return text


def describe(failure: Failure) -> str:
    """How something failed, without its name."""
    if failure.kind == HANG:
        return "hung" + (f" in {failure.place}" if failure.place else "") + ": others waited for it"
    if failure.kind in _KINDS:
        return _KINDS[failure.kind]
    if failure.kind == OUT_OF_MEMORY:
        return f"out of memory ({failure.signal or f'exit code {failure.exit_code}'})"
    if failure.signal and failure.kind != "exception":
        return failure.signal
    if failure.exit_code is not None and (failure.kind == "exit" or not failure.error_type):
        return f"exit code {failure.exit_code}"
    text = failure.error_type or "an unknown error"
    ended = failure.signal or (f"exit code {failure.exit_code}" if failure.exit_code not in (None, 1) else "")
    return text + (f" ({ended})" if ended and ended != text else "")


def subject(failure: Failure, names: NodeNames) -> str:
    """What failed: a node, or a worker on it."""
    name = names.of(failure.host, failure.node_id)
    node = name if failure.group_rank is None else f"node {failure.group_rank} ({name})"
    if failure.rank is None and failure.local_rank is None:
        return node
    rank = "?" if failure.rank is None else failure.rank
    details = [f"local rank {failure.local_rank}"] if failure.local_rank is not None else []
    details += [f"pid {failure.pid}"] if failure.pid is not None else []
    return f"{node}, rank {rank}" + (f" ({', '.join(details)})" if details else "")


def victim_groups(victims: Sequence[Failure], names: NodeNames) -> list[str]:
    """Victims, grouped by how they failed."""
    groups: dict[str, list[Failure]] = {}
    for victim in victims:
        groups.setdefault(describe(victim), []).append(victim)
    lines = []
    for text, group in sorted(groups.items(), key=lambda each: -len(each[1])):
        if len(group) == 1:
            message = f": {_short(group[0].message)}" if group[0].message else ""
            lines.append(f"{subject(group[0], names)}: {text}{message}")
            continue
        ranks = [victim.rank for victim in group if victim.rank is not None]
        nodes = sorted({victim.group_rank for victim in group if victim.group_rank is not None})
        where = f" on nodes {ranges(nodes)}" if len(nodes) > 1 else f" on node {nodes[0]}" if nodes else ""
        members = f"ranks {ranges(ranks)}" if ranks else count_of(len(group), "node")
        lines.append(f"{members}{where}: {text}")
    return lines


def _short(message: str, limit: int = 200) -> str:
    line = message.strip().splitlines()[0] if message.strip() else ""
    return line if len(line) <= limit else line[: limit - 3] + "..."


def message_of(failure: Failure) -> str:
    """A failure's message in one line."""
    return _short(failure.message or "")


def traceback_end(failure: Failure, count: int = 4) -> list[str]:
    """The last lines of a failure's traceback."""
    return [line for line in (failure.traceback or "").rstrip().splitlines() if line.strip()][-count:]
