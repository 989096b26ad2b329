"""Torch's rendezvous messages: the event of each one, and the values in its text.

Torch gives the kind of a rendezvous event only in free text and in the last part of the event's name
(``dynamic_rendezvous.py`` and ``c10d_rendezvous_backend.py``, 1.13 to 2.15). The kind is taken from that part, and only
if the text matches; run ids and node addresses are free text too, so the text is compared with the event's own run id.
What does not match is ``rendezvous.message``: exported, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.torch_events import catalogue

_PENDING: Final = ". Pending sync."

FAILING_CALLS: Final = frozenset(
    {"next_rendezvous", "is_closed", "set_closed", "num_nodes_waiting", "shutdown", "create_handler", "create_backend"}
)
"""Functions that record ``Type: text`` when they raise."""


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """A parsed message.

    Attributes:
        event: The event's name.
        facts: Named parts of the message: node, round, rank, world_size, error, removed.
        intent: Whether it ends in "Pending sync.": not yet true for the other nodes.
    """

    event: str
    facts: dict[str, str]
    intent: bool


def parse_message(name: str, run_id: str, message: str, failed: bool) -> ParsedMessage:
    """Parse one rendezvous message.

    Args:
        name: The event's name, ``<file>:<Class.method>``.
        run_id: The event's run id, exactly as torch gave it.
        message: The message.
        failed: Whether the event's node state is FAILED.

    Returns:
        The event and its values; ``rendezvous.message`` for text that no known torch writes.
    """
    where = name.rpartition(":")[2]
    # The run id is last in every sentence that has it; a node's address may contain the same letters.
    head, quoted, tail = message.rpartition(f"'{run_id}'")
    words = f"{head}'\0'{tail}" if quoted else message
    intent = words.endswith(_PENDING)
    if intent:
        words = words[: -len(_PENDING)]
    for known in catalogue.RENDEZVOUS:
        if where.endswith(known.function) and known.pattern is not None:
            found = known.pattern.fullmatch(words)
            if found is not None:
                return ParsedMessage(known.name, found.groupdict(), intent)
    if failed and where.rpartition(".")[2] in FAILING_CALLS:
        return ParsedMessage(semconv.RENDEZVOUS_FAILED, {}, False)
    return ParsedMessage(semconv.RENDEZVOUS_MESSAGE, {}, intent)
