"""What truly happened in a scenario, as data: written by hand, held against what every signal told.

What always holds: nothing here comes from our side. Ranks, process ids and times are filled in from what the workers
wrote down and from what the test did; agents are told by letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.live.scenarios.cluster import Deed


@dataclass(frozen=True, slots=True)
class Round:
    """One round that was formed, or that agents tried to form.

    Attributes:
        nodes: The agents whose workers ran in it, by letter; of a round that was never formed, none.
        outcome: How it ended: succeeded, failed, interrupted, terminated.
        first: What ended it, as the number of the deed; ``None`` where nothing failed.
        victims: What else failed in it, as numbers of deeds.
        restart: Why the next round came; ``None`` where none did.
        joined: Agents that were not in the round before.
        left: Agents that were told to go and went.
        lost: Agents that were gone without a word.
        raised: Whether an agent raised, and no worker failed.
        last: The agent that came last, where the play sees to who does.
    """

    nodes: str
    outcome: str
    first: int | None = None
    victims: tuple[int, ...] = ()
    restart: str | None = None
    joined: str = ""
    left: str = ""
    lost: str = ""
    raised: bool = False
    last: str = ""


@dataclass(frozen=True, slots=True)
class Truth:
    """What truly happened.

    Attributes:
        outcome: How the run ended.
        rounds: Its rounds, in order.
        exits: The agents' exit statuses, by letter.
        ends: How the agents ended: succeeded, failed, terminated, error, left; ``None`` for one that was killed.
        waiting: How many nodes a rendezvous lacked that was held up for more than 5 s; 0 for none.
        host: The agent that hosts the job's store.
        run_id: The run's id.
        backend: The rendezvous backend.
        runs: The agents of each run, where there are several.
        told_own_view: On a torch whose store agents cannot use (2.2): why each restart came in the eyes of the node
            with rank 0 in the round that followed; the same reasons as agreed where it is empty.
        made: The agents that came to be made; torch makes one when it has a rendezvous.
        beats_failed: The agents of which a heartbeat failed.
    """

    outcome: str
    rounds: tuple[Round, ...]
    exits: Mapping[str, int]
    ends: Mapping[str, str | None]
    waiting: int = 0
    host: str = "a"
    run_id: str = "play"
    backend: str = "c10d"
    runs: tuple[str, ...] = ()
    told_own_view: tuple[str, ...] = ()
    made: str = "abc"
    beats_failed: str = ""

    @property
    def reasons(self) -> list[str]:
        """Why the job restarted, restart by restart."""
        return [each.restart for each in self.rounds if each.restart is not None]

    def rounds_of(self, agent: str) -> list[int]:
        """The rounds in which an agent's workers ran."""
        return [number for number, each in enumerate(self.rounds) if agent in each.nodes]


@dataclass(frozen=True, slots=True)
class Failing:
    """What a deed does to a worker, as our signals are to tell it."""

    kind: str
    exit_code: int
    signal: str | None
    error_type: str
    message: str | None = None


FAILINGS: Mapping[str, Failing] = {
    "raise": Failing("exception", 1, None, "ValueError", "the loss is not a number"),
    "exit 3": Failing("exit", 3, None, "exit"),
    "abort": Failing("signal", -6, "SIGABRT", "SIGABRT"),
    "SIGKILL": Failing("signal", -9, "SIGKILL", "SIGKILL"),
}


def failing(deed: Deed) -> Failing:
    """What a deed to a worker is to be told as."""
    assert deed.worker is not None, f"{deed} was done to an agent"
    return FAILINGS[deed.what]
