"""Ids of spans that all agents of a run compute alike, without communication: a pure function of run, round and agent.

Guarantees: two runs never share a trace, though they may share their run id, since the nonce is in every id; equal
input gives equal ids. No random number is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

BRING_UP = "bring-up"
RUNNING = "running"
ROOT = "root"


@dataclass(frozen=True, slots=True)
class RoundIds:
    """The ids of one round's two traces.

    Attributes:
        run: What identifies the run: its id and its nonce; and the agent, if it counts rounds of its own.
        round: The round.
    """

    run: tuple[str, ...]
    round: int

    def trace(self, which: str) -> str:
        """The trace of the round's bring-up, or of its running; 32 hex digits."""
        return _hex(16, *self.run, str(self.round), which)

    def span(self, which: str, name: str, agent: str = "") -> str:
        """A span of one of them; with an agent's id, that agent's own; 16 hex digits."""
        return _hex(8, *self.run, str(self.round), which, name, agent)


def round_ids(
    run_id: str, nonce: str, round_: int, *, agreed: bool, backend: str | None, agent_id: str
) -> tuple[RoundIds, bool]:
    """The ids of a round's spans, and whether all agents of the job compute the same.

    Args:
        run_id: The run's id.
        nonce: What distinguishes the run from others of that id.
        round_: The round.
        agreed: Whether all agents have that nonce.
        backend: The rendezvous backend. Under ``static`` an agent's rounds after the first are its own affair: its
            peers notice nothing (torch 2.2 to 2.15).
        agent_id: The agent's.
    """
    shared = agreed and (backend != "static" or round_ == 0)
    return RoundIds((run_id, nonce) if shared else (run_id, nonce, agent_id), round_), shared


def _hex(size: int, *parts: str) -> str:
    return blake2b("\0".join(parts).encode("utf-8", "backslashreplace"), digest_size=size).hexdigest()
