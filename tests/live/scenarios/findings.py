"""What the checks of one scenario share: the truth with its blanks filled in, and the list of what is wrong.

What always holds: every check runs, so that a failing scenario tells all that is wrong with it at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.live.environments import NEWEST
from tests.live.scenarios.actual import Seen
from tests.live.scenarios.cluster import Being, Deed, Stage
from tests.live.scenarios.expected import Truth
from torchelastic_otel import semconv
from torchelastic_otel.demo.receiver import Received

S = 1_000_000_000
SLACK_S = 3.0
"""What the machine may be late by, which has two cores and runs several jobs at once; 0.1 s where it is quiet."""


@dataclass
class Case:
    """One scenario that was played.

    Attributes:
        stage: Where.
        truth: What truly happened.
        seen: What arrived.
        wrong: What is wrong.
    """

    stage: Stage
    truth: Truth
    seen: Seen
    wrong: list[str] = field(default_factory=list)

    def expect(self, holds: object, what: str) -> None:
        """Note it where it does not hold."""
        if not holds:
            self.wrong.append(what)

    def same(self, told: object, true: object, what: str) -> None:
        """Note it where they are not the same."""
        self.expect(told == true, f"{what}: told {told!r}, true is {true!r}")

    @property
    def agreed(self) -> bool:
        """Whether agents can agree through the store: not on torch before 2.4, nor on a round under ``static``."""
        return self.stage.torch.torch != "2.2"

    @property
    def newest(self) -> bool:
        """Whether this is the newest torch, which tells most of itself."""
        return self.stage.torch.torch == NEWEST.torch

    def pid(self, agent: str) -> int:
        """An agent's process id."""
        return self.stage.cast[agent].pid

    def workers(self, agent: str, round_: int) -> list[Being]:
        """An agent's workers in a round."""
        start = self.truth.rounds_of(agent).index(round_)
        return [each for each in self.stage.beings(agent) if each.start == start]

    def place(self, agent: str, round_: int) -> tuple[int, int]:
        """An agent's rank in a round, and its world size in nodes."""
        size = len(set(self.truth.rounds[round_].nodes) & set(self.job(agent)))
        return self.workers(agent, round_)[0].group_rank, size

    def job(self, agent: str) -> str:
        """The agents of an agent's job."""
        return next(job for job in self.jobs() if agent in job)

    def struck(self, agent: str | None = None, round_: int | None = None) -> Iterator[tuple[int, Deed]]:
        """The deeds to workers with which rounds ended, by round."""
        for number, each in enumerate(self.truth.rounds):
            for index in (*(() if each.first is None else (each.first,)), *each.victims):
                deed = self.stage.deeds[index]
                if deed.worker is not None and agent in (None, deed.agent) and round_ in (None, number):
                    yield number, deed

    def jobs(self) -> tuple[str, ...]:
        """The agents of each job."""
        return self.truth.runs or ("".join(self.stage.cast),)


def pid_of(node_id: object) -> int:
    """The agent's process id in torch's ``addr_pid_localid``."""
    return int(str(node_id).rsplit("_", 2)[1])


def moment_ns(text: str) -> int:
    """Nanoseconds since the epoch of a moment in the timeline's document."""
    seconds, _, below = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(seconds + "+00:00").timestamp()) * S + int(below)


def slack_s(deed: Deed) -> float:
    """How late a deed may be told; who raises takes its time to end."""
    return SLACK_S + (7.0 if deed.what == "raise" else 0.0)


def named(records: list[Received], name: str) -> list[Received]:
    """The records of an event."""
    return [record for record in records if record.event_name == name]


def ours(records: list[Received], name: str) -> list[dict[str, Any]]:
    """What our own events of a name say."""
    return [record.attributes for record in named(records, name) if record.attributes.get(semconv.INFERRED) is True]


def changes(case: Case) -> dict[str, Counter[int]]:
    """Who joined, left and was lost between rounds, by the agents' process ids."""
    true: dict[str, Counter[int]] = {"joined": Counter(), "left": Counter(), "lost": Counter()}
    for before, after in zip(case.truth.rounds, case.truth.rounds[1:], strict=False):
        true["joined"].update(case.pid(name) for name in after.joined)
        # a node that is told to go says so through the store
        true["left" if case.agreed else "lost"].update(case.pid(name) for name in before.left)
        true["lost"].update(case.pid(name) for name in before.lost)
    return true
