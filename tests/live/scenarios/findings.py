"""What the checks of one scenario share: what is expected of it, what was measured, and the list of problems.

Guarantees: every check runs, so that all problems of a scenario are reported at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.live.environments import NEWEST
from tests.live.scenarios.actual import Actual
from tests.live.scenarios.cluster import Action, Cluster, Worker
from tests.live.scenarios.expected import Expected
from torchelastic_otel import semconv
from torchelastic_otel.testing.otlp_receiver import ReceivedRecord

S = 1_000_000_000
SLACK_S = 3.0
"""Allowance for a machine of two cores that runs several jobs at once; 0.1 s on an idle machine."""


@dataclass
class Case:
    """One scenario that ran.

    Attributes:
        cluster: Its agents, workers and actions.
        expected: What must be reported of it.
        actual: What was reported of it.
        problems: The differences.
    """

    cluster: Cluster
    expected: Expected
    actual: Actual
    problems: list[str] = field(default_factory=list)

    def check(self, condition: object, what: str) -> None:
        """Record a problem if the condition is not met."""
        if not condition:
            self.problems.append(what)

    def check_equal(self, actual: object, expected: object, what: str) -> None:
        """Record a problem if the two differ."""
        self.check(actual == expected, f"{what}: {actual!r}, expected {expected!r}")

    @property
    def agreed(self) -> bool:
        """Whether agents can agree through the store: not on torch before 2.4, nor on a round under ``static``."""
        return self.cluster.torch.torch != "2.2"

    @property
    def newest(self) -> bool:
        """Whether this is the newest torch, which has the most events of its own."""
        return self.cluster.torch.torch == NEWEST.torch

    def pid(self, agent: str) -> int:
        """An agent's process id."""
        return self.cluster.nodes[agent].pid

    def workers(self, agent: str, round_: int) -> list[Worker]:
        """An agent's workers in a round."""
        start = self.expected.rounds_of(agent).index(round_)
        return [each for each in self.cluster.workers_of(agent) if each.start == start]

    def place(self, agent: str, round_: int) -> tuple[int, int]:
        """An agent's rank in a round, and its world size in nodes."""
        size = len(set(self.expected.rounds[round_].nodes) & set(self.job(agent)))
        return self.workers(agent, round_)[0].group_rank, size

    def job(self, agent: str) -> str:
        """The agents of an agent's job."""
        return next(job for job in self.jobs() if agent in job)

    def worker_actions(self, agent: str | None = None, round_: int | None = None) -> Iterator[tuple[int, Action]]:
        """The actions on workers that ended rounds, by round."""
        for number, each in enumerate(self.expected.rounds):
            for index in (*(() if each.first is None else (each.first,)), *each.victims):
                action = self.cluster.actions[index]
                if action.worker is not None and agent in (None, action.agent) and round_ in (None, number):
                    yield number, action

    def jobs(self) -> tuple[str, ...]:
        """The agents of each job."""
        return self.expected.runs or ("".join(self.cluster.nodes),)


def pid_of(node_id: object) -> int:
    """The agent's process id in torch's ``addr_pid_localid``."""
    return int(str(node_id).rsplit("_", 2)[1])


def moment_ns(text: str) -> int:
    """Nanoseconds since the epoch of a time in the timeline's JSON."""
    seconds, _, below = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(seconds + "+00:00").timestamp()) * S + int(below)


def slack_s(action: Action) -> float:
    """How late an action may be reported; a worker that raises needs time to end."""
    return SLACK_S + (7.0 if action.what == "raise" else 0.0)


def named(records: list[ReceivedRecord], name: str) -> list[ReceivedRecord]:
    """The records of an event."""
    return [record for record in records if record.event_name == name]


def inferred(records: list[ReceivedRecord], name: str) -> list[dict[str, Any]]:
    """The attributes of the inferred events of a name."""
    return [record.attributes for record in named(records, name) if record.attributes.get(semconv.INFERRED) is True]


def changes(case: Case) -> dict[str, Counter[int]]:
    """The nodes that joined, left and were lost between rounds, by their agents' process ids."""
    expected: dict[str, Counter[int]] = {"joined": Counter(), "left": Counter(), "lost": Counter()}
    for before, after in zip(case.expected.rounds, case.expected.rounds[1:], strict=False):
        expected["joined"].update(case.pid(name) for name in after.joined)
        # a node that gets SIGTERM announces it through the store
        expected["left" if case.agreed else "lost"].update(case.pid(name) for name in before.left)
        expected["lost"].update(case.pid(name) for name in before.lost)
    return expected
