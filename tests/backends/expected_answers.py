"""What every panel must answer of the job that failed once: the panel's title, and what is true.

Expected values come from the test's actions on the job, from its workers' diary, and from the files that its agents
exported; never from a backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest

from tests.backends.jobs import Job, Written
from tests.support.backends import Stack
from tests.support.dashboard_answers import View

S = 1_000_000_000
SLACK_S = 0.5
"""How far a sum of durations may be from what agents wrote: a failure's time is learned late, and then set right."""
MESSAGE = "the loss is not a number"
"""What the worker raises (a ValueError)."""


@dataclass(frozen=True)
class Seen:
    """The job, as its panels must tell it.

    Attributes:
        job: The job.
        stack: The backends that hold it.
        view: The dashboard, as it is looked at after the job's end.
    """

    job: Job
    stack: Stack
    view: View

    def of(self, event: str) -> list[Written]:
        """What agents wrote of one kind of event, the earliest first."""
        return sorted((each for each in self.job.records() if each.name == event), key=lambda each: each.time_ns)

    @cached_property
    def restart(self) -> Written:
        """The restart as the agent told it that speaks for the job."""
        (told,) = [
            each for each in self.of("torchelastic.restart.completed") if each.attributes["torchelastic.round.writer"]
        ]
        return told

    @cached_property
    def failure(self) -> Written:
        """The failure as the node told it; it is between the deed and the workers' next start."""
        (told,) = [
            each for each in self.of("torchelastic.worker.failed") if "torchelastic.failure.role" in each.attributes
        ]
        assert self.raised_s <= told.time_ns / S <= self.began_s(1)[0]
        return told

    @cached_property
    def raised_s(self) -> float:
        """When the worker raised; on a busy machine it takes seconds to end."""
        assert self.job.truth.failure is not None
        return self.job.truth.failure.at_ns / S

    def began_s(self, start: int) -> list[float]:
        """When the workers wrote themselves down, at their so-manieth start; their processes are a little older."""
        return sorted(each.began_ns / S for each in self.job.truth.workers if each.start == start)

    def spent_s(self, phase: str = "", *, host: str = "") -> float:
        """How long agents were in a phase, or in all, by their own clocks; of one host or of all together."""
        phases = self.of("torchelastic.agent.phase_entered")
        return sum(
            each.attributes["torchelastic.phase.duration"]
            for each in phases
            if phase in ("", each.attributes.get("torchelastic.phase.previous"))
            and "torchelastic.phase.previous" in each.attributes
            and host in ("", each.resource["host.name"])
        )

    @cached_property
    def ran_s(self) -> float:
        """How long the job's workers ran, as the agent saw it that spoke for all in both rounds."""
        ran_s = self.spent_s("running", host=str(self.restart.resource["host.name"]))
        assert ran_s >= (self.raised_s - self.began_s(0)[-1]) + (min(self.ended_s) - self.began_s(1)[-1])
        return ran_s

    @cached_property
    def wall_s(self) -> float:
        """From its first rendezvous to its end."""
        return self.spent_s(host=str(self.restart.resource["host.name"]))

    @cached_property
    def ended_s(self) -> list[float]:
        """When each agent came to its end."""
        phases = self.of("torchelastic.agent.phase_entered")
        return [each.time_ns / S for each in phases if each.attributes["torchelastic.phase"] == "ended"]


Check = Callable[[Any, Seen], None]


def same(expected: Any) -> Check:
    """The answer is this."""

    def check(answer: Any, seen: Seen) -> None:
        assert answer == expected

    return check


def nothing(answer: Any, seen: Seen) -> None:
    """Nothing of the kind has happened."""
    assert not answer


def near(expected: float, slack: float = SLACK_S) -> Any:
    """So much, in seconds."""
    return pytest.approx(expected, abs=slack)


# --- the dashboard of one job


def _silent(answer: Any, seen: Seen) -> None:
    assert answer == {}, "asked four minutes after the end"


def _took(answer: Any, seen: Seen) -> None:
    assert answer == {"": pytest.approx(seen.restart.attributes["torchelastic.restart.duration"])}
    assert 0 < answer[""] <= seen.began_s(1)[-1] - seen.raised_s


def _could_train(answer: Any, seen: Seen) -> None:
    (share,) = answer.values()
    assert share == pytest.approx(seen.ran_s / seen.wall_s, abs=0.03)
    assert 0 < share < 1


def _node_hours(answer: Any, seen: Seen) -> None:
    (hours,) = answer.values()
    assert hours * 3600 == near(seen.spent_s() - seen.spent_s("running"))


def first_failure(answer: Any, seen: Seen) -> None:
    """What is told before another round runs; afterwards nobody has failed in the newest one."""
    (row,) = answer
    truth = seen.job.truth
    assert truth.failure is not None
    assert truth.failure.worker is not None
    assert (row["Round"], row["Host"], row["Rank"]) == ("0", truth.failed_host, str(truth.failed_rank))
    assert row["Local rank"] == str(truth.failure.worker.local_rank)
    assert (row["Exit code"], row["Error"], row["Message"]) == ("1", "ValueError", MESSAGE)
    assert row["Time"] == pytest.approx(seen.failure.time_ns / S)
    assert truth.failed_host in _hosts_of_trace(seen, row["Trace"])


def _restarts(answer: Any, seen: Seen) -> None:
    (row,) = answer
    truth = seen.job.truth
    assert (row["Into round"], row["Reason"]) == ("1", truth.reason)
    assert row["Host"] == truth.failed_host
    assert (row["Rank"], row["Exit code"], row["Error"]) == (str(truth.failed_rank), "1", "ValueError")
    assert row["Message"] == MESSAGE
    assert row["Took"] == pytest.approx(seen.restart.attributes["torchelastic.restart.duration"])
    assert row["Agreed"] == "true"
    assert _hosts_of_trace(seen, row["Trace"]) >= set(truth.hosts), "the bring-up is one trace of all nodes"


def _hosts_of_trace(seen: Seen, trace_id: str) -> set[str]:
    return {str(span.resource["host.name"]) for span in seen.stack.jaeger.trace(trace_id)}


def _nodes_over_time(answer: Any, seen: Seen) -> None:
    """What most nodes do, and when; how many, to the node, is asked of a made-up job, whose exports are in time."""
    running = dict(answer["running"])
    for since, until in ((seen.began_s(0)[-1], seen.raised_s), (seen.began_s(1)[-1], min(seen.ended_s))):
        # a rate over four seconds sees a part of what was before
        moments = [at for at in running if since <= at <= until + 4]
        others = [dict(points) for state, points in answer.items() if state != "running"]
        assert any(running[at] > max(each.get(at, 0) for each in others) for at in moments)
    assert max(value for _, value in answer["rendezvous"]) > 0
    assert set(answer) == {"running", "detecting", "stopping", "rendezvous", "starting", "exit_barrier"}


def _sizes(answer: Any, seen: Seen) -> None:
    assert {value for _, value in answer["in the round"]} == {3}
    assert max(value for _, value in answer["take part"]) == 3
    assert {value for _, value in answer["missing"]} <= {0.0, 1.0, 2.0}
    assert answer["missing"][-1][1] == 0


def _rounds_over_time(answer: Any, seen: Seen) -> None:
    values = [value for _, value in answer["round"]]
    assert sorted(values) == values
    assert set(values) == {0, 1}


def _phases(answer: Any, seen: Seen) -> None:
    (row,) = answer
    assert row.pop("Round") == "1"
    told = seen.restart.attributes
    assert row == {
        phase: pytest.approx(told[f"torchelastic.restart.{phase}.duration"])
        for phase in ("detect", "stop", "rendezvous", "assign_ranks", "start")
    }
    assert sum(row.values()) == pytest.approx(told["torchelastic.restart.duration"], abs=0.2)


def _job_time(answer: Any, seen: Seen) -> None:
    assert answer["running"] == near(seen.ran_s)
    assert sum(answer.values()) == near(seen.wall_s)
    assert answer["rendezvous"] > 0
    assert set(answer) == {"running", "detecting", "stopping", "rendezvous", "starting", "exit_barrier"}


def _ratio_over_time(answer: Any, seen: Seen) -> None:
    values = [value for _, value in answer["could train"]]
    assert max(values) == pytest.approx(1, abs=0.05)
    assert min(values) < 1
    assert all(0 <= value <= 1.001 for value in values)


def _waiting(answer: Any, seen: Seen) -> None:
    told = seen.of("torchelastic.rendezvous.waiting")
    assert len(answer) == min(len(told), 20)
    for row, record in zip(answer, reversed(told), strict=False):
        assert row["Reported by"] == record.resource["host.name"]
        assert row["Waiting for"] == pytest.approx(record.attributes["torchelastic.rendezvous.waited"])


def _beats(answer: Any, seen: Seen) -> None:
    assert set(answer) <= set(seen.job.truth.hosts)
    assert all(0 <= age < 30 for age in answer.values())


def _lossless(agents: str) -> Check:
    """Agents lost nothing; the Collector told its numbers, whatever other tests made it lose."""

    def check(answer: Any, seen: Seen) -> None:
        assert answer.pop(agents) == 0
        assert set(answer) == {"Collectors"}

    return check


def _of_the_collector(answer: Any, seen: Seen) -> None:
    """Nobody knows here what other tests made their Collector lose; test_dashboards_of_collectors.py has its own."""
    assert all(name.startswith(f"{seen.stack.collector.telemetry} to otlp_") for name in answer)


def _log(answer: Any, seen: Seen) -> None:
    told = [each for each in seen.job.records() if "torchelastic.rendezvous.round" in each.attributes]
    bodies = [body for _, body, _ in answer]
    assert any(body.startswith("train-1: ") and MESSAGE in body for body in bodies)
    assert any("Restart 1 completed" in body for body in bodies)
    assert [at for at, _, _ in answer] == sorted((at for at, _, _ in answer), reverse=True)
    assert {labels["severity_text"] for _, _, labels in answer} <= {"INFO", "WARN", "ERROR", "FATAL"}
    assert len(told) > len(bodies) > 0  # without DEBUG
    linked = [labels for _, body, labels in answer if "Restart 1 completed" in body]
    assert linked[0]["trace_id"] == seen.restart.trace_id


JOB: dict[str, Check] = {
    "Is it running now?": _silent,
    "Has it ended, and how?": same({"succeeded": 3}),
    "Is anybody missing?": same({"in": 3, "missing": 0}),
    "How many restarts?": same({"": 1}),
    "How long was the last?": _took,
    "How much could it train?": _could_train,
    "How much is lost?": _node_hours,
    "Who failed first in the newest round?": nothing,
    "Why did it restart, who failed first, and how long did it take?": _restarts,
    "What do the nodes do, over time?": _nodes_over_time,
    "How large is the job, over time?": _sizes,
    "Which round is it in?": _rounds_over_time,
    "Which part of a restart takes long?": _phases,
    "Where did the job's time go?": _job_time,
    "Why did it restart?": same({"worker_failure": 1}),
    "Does it get better or worse?": _ratio_over_time,
    "Who is missing?": _waiting,
    "Which hosts fail most?": same([{"Host": "train-1", "Causes": 1, "Victims": 0}]),
    "Whose heartbeats are late?": _beats,
    "Which nodes came, went or were lost?": nothing,
    "Which hosts fail to send heartbeats?": nothing,
    "Is anything missing from this?": _lossless("its agents"),
    "Who refused what was sent?": nothing,
    "What happened, step by step?": _log,
}

# --- the dashboard of all jobs, on which this one run is chosen


def _mean_time_to_failure(answer: Any, seen: Seen) -> None:
    assert answer == {"a job": near(seen.ran_s), "a node": near(seen.spent_s("running"))}


def _jobs(answer: Any, seen: Seen) -> None:
    (row,) = answer
    assert (row["Cluster"], row["Job"], row["Run id"]) == ("cluster-of-the-tests", "torchrun", seen.job.run_id)
    assert (row["Restarts"], row["Nodes at most"]) == (1, 3)
    _node_hours({"": row["Node-hours lost"]}, seen)
    _could_train({"": row["Could train"]}, seen)


def _node_time(answer: Any, seen: Seen) -> None:
    assert answer["running"] == near(seen.spent_s("running"))
    assert sum(answer.values()) == near(seen.spent_s())


def _restarts_over_time(answer: Any, seen: Seen) -> None:
    assert set(answer) == {"worker_failure"}
    ((at, value),) = answer["worker_failure"]
    assert value == 1, "one restart, in one step"
    assert 0 <= at - seen.restart.time_ns / S <= 15  # a step is five export intervals, and is named by its end


def _conflicts(answer: Any, seen: Seen) -> None:
    stale = _stale(seen)
    assert answer == ({seen.job.run_id: stale} if stale else {})


def _conflicts_each(answer: Any, seen: Seen) -> None:
    sent = _counted(seen, "torchelastic_keep_alive_sent_total")
    assert answer == ({seen.job.run_id: pytest.approx(_stale(seen) / sent)} if sent else {})


def _stale(seen: Seen) -> float:
    """Conflicts are no log records; what the agents' own counters say, read plainly."""
    return _counted(seen, "torchelastic_state_stale_total")


def _counted(seen: Seen, metric: str) -> float:
    selector = f'{metric}{{torchelastic_run_id="{seen.job.run_id}"}}'
    return sum(value for _, value in seen.stack.prometheus.query(f"last_over_time({selector}[1h])", seen.view.end_s))


def _spools(answer: Any, seen: Seen) -> None:
    assert set(answer) == set(seen.job.truth.hosts)
    assert all(4096 <= size < 64 << 20 for size in answer.values())


def _behind(answer: Any, seen: Seen) -> None:
    assert set(answer) <= set(seen.job.truth.hosts)
    assert all(0 <= age < 30 for age in answer.values())


FLEET: dict[str, Check] = {
    "How many jobs run now?": same({"": 0}),
    "How much could jobs train?": _could_train,
    "How many node-hours are lost?": _node_hours,
    "How often did jobs restart?": same({"": 1}),
    "What is mean time to failure?": _mean_time_to_failure,
    "Does telemetry lose anything?": _lossless("agents"),
    "Which jobs lose the most?": _jobs,
    "Which nodes fail most?": same(
        [{"Cluster": "cluster-of-the-tests", "Node": "train-1", "Causes": 1, "Victims": 0, "Runs hurt": 1}]
    ),
    "What do all nodes do, over time?": _nodes_over_time,
    "Why did jobs restart?": same({"worker_failure": 1}),
    "Where did the nodes' time go?": _node_time,
    "When did jobs restart?": _restarts_over_time,
    "Which jobs wait for nodes?": nothing,
    "In which jobs do nodes collide?": _conflicts,
    "How many conflicts per heartbeat?": _conflicts_each,
    "Which hosts fail to send heartbeats?": nothing,
    "What did agents lose?": same({"dropped": 0, "not deliverable": 0, "refused": 0}),
    "Which destination refuses?": nothing,
    "What do Collectors throw away?": _of_the_collector,
    "Whose spool is the largest?": _spools,
    "Who is behind with delivering?": _behind,
}
