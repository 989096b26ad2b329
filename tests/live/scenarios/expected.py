"""What must be reported of a scenario, as data, written by hand.

Guarantees: nothing here comes from this package. Ranks, process ids and times are filled in from what the workers wrote
down and from the test's actions; agents are named by letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.live.scenarios.cluster import Action


@dataclass(frozen=True, slots=True)
class Round:
    """One round that was formed, or that agents tried to form.

    Attributes:
        nodes: The agents whose workers ran in it, by letter; none for a round that was never formed.
        outcome: How it ended: succeeded, failed, interrupted, terminated.
        first: What ended it, as the number of the action; ``None`` if nothing failed.
        victims: What else failed in it, as numbers of actions.
        restart: Why the next round followed; ``None`` if there was none.
        joined: Agents that were not in the round before.
        left: Agents that were asked to end and did.
        lost: Agents that disappeared without reporting an end.
        raised: Whether an agent raised, and no worker failed.
        last: The agent that joined last, if the script determines it.
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
class Expected:
    """What must be reported of a scenario.

    Attributes:
        outcome: How the run ended.
        rounds: Its rounds, in order.
        exits: The agents' exit statuses, by letter.
        ends: How the agents ended: succeeded, failed, terminated, error, left; ``None`` for one that was killed.
        waiting: How many nodes were missing in a rendezvous that lasted more than 5 s; 0 for none.
        host: The agent that hosts the job's store.
        run_id: The run's id.
        backend: The rendezvous backend.
        runs: The agents of each run, if there are several.
        local_restart_reasons: On a torch whose store agents cannot use (2.2): the reason of each restart in the local
            view of the node with rank 0 in the round that followed; the agreed reasons if it is empty.
        created: The agents that torch created; it creates one when it has a rendezvous.
        failed_heartbeats: The agents whose heartbeats failed.
    """

    outcome: str
    rounds: tuple[Round, ...]
    exits: Mapping[str, int]
    ends: Mapping[str, str | None]
    waiting: int = 0
    host: str = "a"
    run_id: str = "scenario"
    backend: str = "c10d"
    runs: tuple[str, ...] = ()
    local_restart_reasons: tuple[str, ...] = ()
    created: str = "abc"
    failed_heartbeats: str = ""

    @property
    def reasons(self) -> list[str]:
        """Why the job restarted, restart by restart."""
        return [each.restart for each in self.rounds if each.restart is not None]

    def rounds_of(self, agent: str) -> list[int]:
        """The rounds in which an agent's workers ran."""
        return [number for number, each in enumerate(self.rounds) if agent in each.nodes]


@dataclass(frozen=True, slots=True)
class ExpectedFailure:
    """How the telemetry must describe what an action does to a worker."""

    kind: str
    exit_code: int
    signal: str | None
    error_type: str
    message: str | None = None


EXPECTED_FAILURES: Mapping[str, ExpectedFailure] = {
    "raise": ExpectedFailure("exception", 1, None, "ValueError", "the loss is not a number"),
    "exit 3": ExpectedFailure("exit", 3, None, "exit"),
    "abort": ExpectedFailure("signal", -6, "SIGABRT", "SIGABRT"),
    "SIGKILL": ExpectedFailure("signal", -9, "SIGKILL", "SIGKILL"),
}


def expected_failure(action: Action) -> ExpectedFailure:
    """How the telemetry must describe an action on a worker."""
    assert action.worker is not None, f"{action} was done to an agent"
    return EXPECTED_FAILURES[action.what]
