"""What an agent can be at; it is always at exactly one of these, so their durations sum to wall time."""

from __future__ import annotations

import enum
from typing import Final


class Phase(str, enum.Enum):
    """The values of ``torchelastic.phase``.

    ``rendezvous``: waiting for, and agreeing with, the other nodes. ``assign_ranks``: from the rendezvous to the
    start of workers. ``start``: starting worker processes. ``running``: worker processes are alive.
    ``detect``: a worker has failed and the agent has not noticed yet. ``stop``: stopping workers. ``exit_barrier``: own
    workers are done, waiting for other nodes. ``ended``: the agent's ``run`` is over.
    """

    RENDEZVOUS = "rendezvous"
    ASSIGN_RANKS = "assign_ranks"
    START = "start"
    RUNNING = "running"
    DETECT = "detect"
    STOP = "stop"
    EXIT_BARRIER = "exit_barrier"
    ENDED = "ended"


RESTART_PHASES: Final = ("detect", "stop", "rendezvous", "assign_ranks", "start")
"""The phases of a restart, in order; their durations sum to that of the restart."""
