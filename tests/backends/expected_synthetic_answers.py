"""What every panel must answer of a job that was made up (tests/support/synthetic_jobs.py): the panel's title, and what
is true.

Expected values are computed from what was sent, never from a backend. For a job of several nodes none of them is empty,
so that a query with a wrong name is found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import synthetic_jobs as made
from tests.support.synthetic_jobs import PHASES, STATES, SyntheticJob

Answers = dict[str, Any]
ALONE = {
    ("job", "Has it ended, and how?", "A"),
    ("job", "Which hosts fail most?", "B"),
    ("fleet", "Which nodes fail most?", "B"),
}
"""Queries about others than the node that failed: of a job of one node they answer nothing."""
CLUSTER = "cluster-of-the-tests"
BY_COLLECTORS = {
    ("fleet", "Does telemetry lose anything?", "B"),
    ("fleet", "What do Collectors throw away?", "A"),
    ("job", "Is anything missing from this?", "B"),
}
"""Queries that no job answers: tests/backends/test_dashboards_of_collectors.py loses something, and asks them."""


def told_of(job: SyntheticJob) -> dict[str, Answers]:
    """What the panels of both dashboards say of it, by title."""
    return {"job": _one_job(job), "fleet": _all_jobs(job)}


def in_short(title: str, answer: Any) -> Any:
    """An answer as :func:`told_of` has it: of a graph each line's last value, or the bars' sum; of a log the texts."""
    if title == "When did jobs restart?":
        return {name: sum(value for _, value in points) for name, points in answer.items()}
    if isinstance(answer, dict):
        return {name: value[-1][1] if isinstance(value, list) else value for name, value in answer.items()}
    if answer and isinstance(answer[0], tuple):
        return [body for _, body, _ in answer]
    return answer


def the_last(job: SyntheticJob, most: int, but: int | None = None) -> list[int]:
    """The nodes with the largest numbers, the largest first."""
    return [node for node in reversed(range(job.nodes)) if node != but][:most]


def _by_host(job: SyntheticJob, value: Callable[[int], float]) -> Any:
    return pytest.approx({f"node-{node}": value(node) for node in the_last(job, 10)})


def _failures(job: SyntheticJob, most: int) -> list[tuple[int, int, int]]:
    """Nodes with their causes and victims, in the order of the table."""
    return [(job.first, 2, 0), *((node, 0, node + 1) for node in the_last(job, most - 1, but=job.first))]


def _node_states(job: SyntheticJob) -> Any:
    return pytest.approx({state: job.nodes * seconds / 600 for state, seconds in STATES.items()})


def _rows(expected: list[Answers], *, any_order: bool = False) -> Any:
    return Rows(expected, any_order=any_order)


class Rows:
    """Rows of a table that have at least these columns, with these values."""

    def __init__(self, expected: list[Answers], *, any_order: bool) -> None:
        self.expected, self.any_order = expected, any_order

    def __eq__(self, rows: object) -> bool:
        assert isinstance(rows, list)
        if len(rows) != len(self.expected):
            return False
        if self.any_order:
            (key,) = {next(iter(row)) for row in self.expected}
            places = [row[key] for row in self.expected]
            rows = sorted(rows, key=lambda row: places.index(row[key]) if row[key] in places else -1)
        pairs = zip(rows, self.expected, strict=True)
        return all(row.get(name) == pytest.approx(value) for row, wanted in pairs for name, value in wanted.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"rows with {self.expected}"


def _one_job(job: SyntheticJob) -> Answers:
    told_by = [f"node-{(job.first + late) % job.nodes}" for late in reversed(range(job.nodes))]  # the newest first
    cause = {"Host": f"node-{job.first}", "Rank": str(8 * job.first), "Error": "DistBackendError", "Agreed": "true"}
    lost = made.DROPPED + made.SET_ASIDE + made.REFUSED
    return {
        "Is it running now?": pytest.approx({"running": job.nodes * 0.9}),
        "Has it ended, and how?": {"not succeeded": 1, **({"succeeded": job.nodes - 1} if job.nodes > 1 else {})},
        "Is anybody missing?": {"in": job.nodes, "missing": made.MISSING},
        "How many restarts?": {"": 2},
        "How long was the last?": {"": 48},
        "How much could it train?": {"": pytest.approx(0.9)},
        "How much is lost?": {"": pytest.approx(job.nodes / 60)},
        "Who failed first in the newest round?": _rows(
            [{"Round": "2", "Host": f"node-{job.first}", "Rank": str(8 * job.first), "Exit code": "1"}]
        ),
        "Why did it restart, who failed first, and how long did it take?": _rows(
            [
                {"Into round": "2", "Reason": "node_lost", "Took": 48, **cause},
                {"Into round": "1", "Reason": "worker_failure", "Took": 30, **cause},
            ]
        ),
        "What do the nodes do, over time?": _node_states(job),
        "How large is the job, over time?": {
            "in the round": job.nodes,
            "take part": job.nodes,
            "missing": made.MISSING,
        },
        "Which round is it in?": {"round": 2},
        "Which part of a restart takes long?": [
            {"Round": str(round_), **phases} for round_, phases in sorted(PHASES.items())
        ],
        "Where did the job's time go?": pytest.approx(STATES),
        "Why did it restart?": {"worker_failure": 1, "node_lost": 1},
        "Does it get better or worse?": {"could train": pytest.approx(0.9)},
        "Who is missing?": _rows([{"Reported by": host, "Waiting for": 10, "Missing": 1} for host in told_by[:20]]),
        "Which hosts fail most?": _rows(
            [{"Host": f"node-{n}", "Causes": causes, "Victims": victims} for n, causes, victims in _failures(job, 10)],
            any_order=True,
        ),
        "Whose heartbeats are late?": _by_host(job, lambda node: node + 1),
        "Which nodes came, went or were lost?": {"lost": made.LOST, "joined": made.JOINED},
        "Which hosts fail to send heartbeats?": _by_host(job, lambda node: node + 1),
        "Is anything missing from this?": {"its agents": lost},
        "Who refused what was sent?": {"quarantined: otlp": made.SET_ASIDE, "refused: backup": made.REFUSED},
        "What happened, step by step?": _log(job),
    }


def _log(job: SyntheticJob) -> Any:
    """The newest of all records but heartbeats; agents end last."""
    texts = [f"node-{node}: torchelastic.agent.phase_entered told by a stand-in" for node in range(job.nodes)]
    ends = [texts[(job.first + late) % job.nodes] for late in reversed(range(job.nodes))]
    return Lines(ends, min(job.records, 500))


class Lines:
    """So many lines, and these are the newest."""

    def __init__(self, newest: list[str], count: int) -> None:
        self.newest, self.count = newest[:count], count

    def __eq__(self, lines: object) -> bool:
        assert isinstance(lines, list)
        return len(lines) == self.count and lines[: len(self.newest)] == self.newest

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.count} lines, first {self.newest[:3]} ..."


def _all_jobs(job: SyntheticJob) -> Answers:
    run = {"Cluster": CLUSTER, "Job": "torchrun", "Run id": job.run_id}
    failures = 3
    """Two workers that were a cause; three nodes that were lost at once."""
    return {
        "How many jobs run now?": {"": 1},
        "How much could jobs train?": {"": pytest.approx(0.9)},
        "How many node-hours are lost?": {"": pytest.approx(job.nodes / 60)},
        "How often did jobs restart?": {"": 2},
        "What is mean time to failure?": pytest.approx(
            {"a job": 540 / failures, "a node": 540 * job.nodes / failures}
        ),
        "Does telemetry lose anything?": {"agents": made.DROPPED + made.SET_ASIDE + made.REFUSED},
        "Which jobs lose the most?": _rows(
            [{**run, "Node-hours lost": job.nodes / 60, "Could train": 0.9, "Restarts": 2, "Nodes at most": job.nodes}]
        ),
        "Which nodes fail most?": _rows(
            [
                {"Node": f"node-{n}", "Cluster": CLUSTER, "Causes": causes, "Victims": victims,
                 **({"Runs hurt": 1} if causes else {})}
                for n, causes, victims in _failures(job, 20)
            ],
            any_order=True,
        ),
        "What do all nodes do, over time?": _node_states(job),
        "Why did jobs restart?": {"worker_failure": 1, "node_lost": 1},
        "Where did the nodes' time go?": pytest.approx(
            {state: job.nodes * seconds for state, seconds in STATES.items()}
        ),
        "When did jobs restart?": {"worker_failure": 1, "node_lost": 1},
        "Which jobs wait for nodes?": {job.run_id: made.MISSING},
        "In which jobs do nodes collide?": {job.run_id: pytest.approx(3 * job.nodes)},
        "How many conflicts per heartbeat?": {job.run_id: pytest.approx(3 / 120)},
        "Which hosts fail to send heartbeats?": _by_host(job, lambda node: node + 1),
        "What did agents lose?": {
            "dropped": made.DROPPED, "not deliverable": made.SET_ASIDE, "refused": made.REFUSED,
        },
        "Which destination refuses?": {"otlp": made.SET_ASIDE, "backup": made.REFUSED},
        "What do Collectors throw away?": {},
        "Whose spool is the largest?": _by_host(job, lambda node: 100_000 + node),
        "Who is behind with delivering?": _by_host(job, lambda node: node + 2),
    }  # fmt: skip
