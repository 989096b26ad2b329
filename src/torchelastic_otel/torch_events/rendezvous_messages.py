"""Torch's rendezvous messages: which event each one is, and the facts in its words.

Torch tells the kind of a rendezvous event only in free text and in the last part of the event's name
(``dynamic_rendezvous.py`` and ``c10d_rendezvous_backend.py``, 1.13 to 2.15). The kind is taken from that
part, and only where the words agree; run ids and node addresses are free text too, so the words are held
against the event's own run id. What does not fit is ``rendezvous.message``: exported, never guessed at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from torchelastic_otel import semconv

_PENDING: Final = ". Pending sync."
_NODE: Final = r"The node '(?P<node>.*)'"


@dataclass(frozen=True, slots=True)
class MessagePattern:
    r"""One message of torch's: the name's last part it goes with, its words, the event it is.

    Attributes:
        where: How the event's name ends.
        words: Matches the whole message, with the run id replaced by ``\\x00``.
        event: The event's name.
    """

    where: str
    words: re.Pattern[str]
    event: str


def _pattern(where: str, words: str, event: str) -> MessagePattern:
    return MessagePattern(where, re.compile(words, re.DOTALL), event)


PATTERNS: Final = (
    _pattern(
        "_create_tcp_store",
        r"Process \d+ hosts the TCP store for the C10d rendezvous backend\.",
        semconv.RENDEZVOUS_STORE_HOSTED,
    ),
    _pattern(
        "next_rendezvous",
        _NODE + r" attempts to join the next round of the rendezvous '\x00'\.",
        semconv.RENDEZVOUS_JOIN_ATTEMPTED,
    ),
    _pattern(
        "next_rendezvous",
        _NODE + r" has joined round (?P<round>\d+) of the rendezvous '\x00' as rank (?P<rank>\d+)"
        r" in a world of size (?P<world_size>\d+)\.",
        semconv.RENDEZVOUS_JOINED,
    ),
    _pattern(
        "_add_to_participants",
        _NODE + r" added itself to the participants of round (?P<round>\d+) of the rendezvous '\x00'",
        semconv.RENDEZVOUS_PARTICIPANT_ADDED,
    ),
    _pattern(
        "_add_to_wait_list",
        _NODE + r" added itself to the wait list of round (?P<round>\d+) of the rendezvous '\x00'",
        semconv.RENDEZVOUS_WAIT_LIST_ADDED,
    ),
    # torch 2.6 and 2.7 say "redunant" of a node that leaves the list
    _pattern(
        "_add_to_redundancy_list",
        _NODE + r" added itself to the redun\w+ list of round (?P<round>\d+) of the rendezvous '\x00'",
        semconv.RENDEZVOUS_REDUNDANCY_LIST_ADDED,
    ),
    _pattern(
        "_remove_from_participants",
        _NODE + r" removed itself from the participants of round (?P<round>\d+) of the rendezvous '\x00'",
        semconv.RENDEZVOUS_PARTICIPANT_REMOVED,
    ),
    _pattern(
        "_remove_from_wait_list",
        _NODE + r" removed itself from the wait list of round (?P<round>\d+) of the rendezvous '\x00'",
        semconv.RENDEZVOUS_WAIT_LIST_REMOVED,
    ),
    _pattern(
        "_remove_from_redundancy_list",
        _NODE + r" removed itself from the redun\w+ list of round (?P<round>\d+) of the rendezvous '\x00'",
        semconv.RENDEZVOUS_REDUNDANCY_LIST_REMOVED,
    ),
    _pattern(
        "_mark_rendezvous_complete",
        _NODE + r" marked round (?P<round>\d+) of the rendezvous '\x00' as complete",
        semconv.RENDEZVOUS_COMPLETED,
    ),
    _pattern(
        "_mark_rendezvous_closed",
        _NODE + r" marked the rendezvous '\x00' as closed",
        semconv.RENDEZVOUS_MARKED_CLOSED,
    ),
    _pattern(
        "_keep_alive",
        _NODE + r" updated its keep-alive heartbeat time for the rendezvous '\x00'",
        semconv.RENDEZVOUS_KEEP_ALIVE_UPDATED,
    ),
    _pattern(
        "run",
        _NODE + r" has successfully synced its local changes with other nodes in the rendezvous '\x00'\.",
        semconv.RENDEZVOUS_STATE_SYNCED,
    ),
    _pattern(
        "run",
        _NODE + r" has a stale state and failed to sync its local changes with other nodes in the"
        r" rendezvous '\x00'\.",
        semconv.RENDEZVOUS_STATE_STALE,
    ),
    _pattern(
        "_keep_alive",
        _NODE + r" has sent a keep-alive heartbeat to the rendezvous '\x00'\.",
        semconv.RENDEZVOUS_KEEP_ALIVE_SENT,
    ),
    _pattern(
        "_keep_alive",
        _NODE + r" has failed to send a keep-alive heartbeat to the rendezvous '\x00' due to an error of"
        r" type (?P<error>[\w.]+)\.",
        semconv.RENDEZVOUS_KEEP_ALIVE_FAILED,
    ),
    _pattern("_close", _NODE + r" has closed the rendezvous '\x00'\.", semconv.RENDEZVOUS_CLOSED),
    _pattern(
        "shutdown",
        _NODE + r" has failed to shutdown the rendezvous '\x00' due to an error of type (?P<error>[\w.]+)\.",
        semconv.RENDEZVOUS_SHUTDOWN_FAILED,
    ),
    _pattern(
        "sync",
        r"As part of the sync operation the node\(s\) (?P<removed>'.*') have been removed from the"
        r" rendezvous '\x00' since they had no heartbeat\.",
        semconv.RENDEZVOUS_NODES_REMOVED,
    ),
)

FAILING_CALLS: Final = frozenset(
    {"next_rendezvous", "is_closed", "set_closed", "num_nodes_waiting", "shutdown", "create_handler", "create_backend"}
)
"""Functions that record ``Type: text`` when they raise."""


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """What a message said.

    Attributes:
        event: The event's name.
        facts: Named parts of the message: node, round, rank, world_size, error, removed.
        intent: Whether it ends in "Pending sync.": not yet true for the other nodes.
    """

    event: str
    facts: dict[str, str]
    intent: bool


def parse_message(name: str, run_id: str, message: str, failed: bool) -> ParsedMessage:
    """What one rendezvous message tells.

    Args:
        name: The event's name, ``<file>:<Class.method>``.
        run_id: The event's run id, exactly as torch gave it.
        message: The message.
        failed: Whether the event's node state is FAILED.

    Returns:
        The reading; ``rendezvous.message`` for words that no known torch writes.
    """
    where = name.rpartition(":")[2]
    # The run id stands last in every sentence that has it; a node's address may hold the same letters.
    head, quoted, tail = message.rpartition(f"'{run_id}'")
    words = f"{head}'\0'{tail}" if quoted else message
    intent = words.endswith(_PENDING)
    if intent:
        words = words[: -len(_PENDING)]
    for wording in PATTERNS:
        if where.endswith(wording.where):
            found = wording.words.fullmatch(words)
            if found is not None:
                return ParsedMessage(wording.event, found.groupdict(), intent)
    if failed and where.rpartition(".")[2] in FAILING_CALLS:
        return ParsedMessage(semconv.RENDEZVOUS_FAILED, {}, False)
    return ParsedMessage(semconv.RENDEZVOUS_MESSAGE, {}, intent)
