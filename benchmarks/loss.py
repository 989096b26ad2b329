"""What is lost in an outage of the collector, and by SIGKILL."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from processes import BenchmarkError, directory, ended_ns, environment, errors_of, started, told
from report import Check, Section, table

from tests.support.collector import GrpcCollector

NAME = "loss"
PER_S = 5
KILLED_AFTER = 1_000
PATIENCE_S = 20.0
_WAYS = ("ours", "sdk")
_NUMBER = re.compile(r"event (\d+) of the benchmark")


def measure(quick: bool) -> Section:
    """The outage for both ways at the same time, then the kill of each."""
    outage_s = 8 if quick else 60
    section = Section(
        NAME,
        "what an outage and a SIGKILL lose",
        f"*Outage*: both processes record {PER_S} events/s; after 3 s their collectors' connections are cut and their"
        f" ports closed, {outage_s} s later they listen again, and the processes record for 3 s more. What has not"
        f" arrived {PATIENCE_S:g} s after that is *late*; then both processes end, and what has not arrived by then"
        f" is *lost*. *SIGKILL*: a process kills itself right after it recorded {KILLED_AFTER} events, its collector"
        f" up; a second process on the same node starts and lives until they have arrived, at most {PATIENCE_S:g} s."
        " Different events are counted; `sdk` is OpenTelemetry's logging handler with its batch processor, over"
        " gRPC.",
    )
    rows = []
    outage = _outage(outage_s)
    killed = {way: _killed(way) for way in _WAYS}
    for what, results in ((f"{outage_s} s outage", outage), (f"SIGKILL after {KILLED_AFTER}", killed)):
        ours = results["ours"]
        section.checks.append(Check(f"{what}: lost", "0", f"{ours.lost} of {ours.recorded}", ours.lost == 0))
        rows += [(what, way, *results[way].cells()) for way in _WAYS]
    head = ("what", "way", "recorded", "late", "lost", "share", "arrived twice", "all there after")
    section.body = table(head, rows)
    return section


class Result:
    """What became of the events of one process.

    Args:
        recorded: How many it recorded.
        collector: Where they went.
        took_s: How long it took until all were there, seconds; ``None`` where they were not in time.
        late: How many were not there in time.
    """

    def __init__(self, recorded: int, collector: GrpcCollector, took_s: float | None, late: int) -> None:
        numbers = _numbers(collector)
        self.recorded = recorded
        self.lost = len(set(range(1, recorded + 1)) - set(numbers))
        self.twice = len(numbers) - len(set(numbers))
        self.took_s = took_s
        self.late = late

    def cells(self) -> tuple[str, ...]:
        """The cells of its row."""
        took = "not in time" if self.took_s is None else f"{self.took_s:.1f} s"
        share = f"{100 * self.lost / self.recorded:.0f} %"
        return str(self.recorded), str(self.late), str(self.lost), share, str(self.twice), took


def _outage(outage_s: float) -> dict[str, Result]:
    with ExitStack() as stack:
        places = {way: stack.enter_context(directory()) for way in _WAYS}
        collectors = {way: stack.enter_context(GrpcCollector()) for way in _WAYS}
        processes = {
            way: stack.enter_context(_small(way, places[way], collectors[way], {"burst": 0, "obey": True}))
            for way in _WAYS
        }
        for way in _WAYS:
            told(processes[way], places[way], "recorded")  # they are up, and have recorded nothing yet
        _record_for(3, processes, places)
        for collector in collectors.values():
            collector.stop()
        _record_for(outage_s, processes, places)
        for collector in collectors.values():
            collector.start()
        back = time.monotonic()
        recorded = _record_for(3, processes, places)
        until = back + 3 + PATIENCE_S
        took = {
            way: _wait_for_all(collectors[way], recorded, back, max(0.0, until - time.monotonic())) for way in _WAYS
        }
        late = {way: recorded - len(set(_numbers(collectors[way]))) for way in _WAYS}
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
        for process in processes.values():
            ended_ns(process)
        return {way: Result(recorded, collectors[way], took[way], late[way]) for way in _WAYS}


def _wait_for_all(collector: GrpcCollector, recorded: int, since: float, patience_s: float) -> float | None:
    """Seconds until so many different events had arrived; ``None`` where they did not in time."""
    whole = collector.wait_until(lambda: len(set(_numbers(collector))) >= recorded, patience_s)
    return time.monotonic() - since if whole else None


def _record_for(seconds: float, processes: Mapping[str, subprocess.Popen[str]], places: Mapping[str, Path]) -> int:
    """Have both record at the same time; how many each has by then."""
    for process in processes.values():
        assert process.stdin is not None
        process.stdin.write(f"{round(seconds * PER_S)}\n")
        process.stdin.flush()
    last = {told_by: told(processes[told_by], places[told_by], "recorded")["last"] for told_by in processes}
    if len(set(last.values())) != 1:
        raise BenchmarkError(f"the processes did not record as many events each: {last}")
    return int(next(iter(last.values())))


def _killed(way: str) -> Result:
    with directory() as place, GrpcCollector() as collector:
        with _small(way, place, collector, {"burst": KILLED_AFTER, "die": True}) as process:
            ended_ns(process)
        if process.returncode != -signal.SIGKILL:
            raise BenchmarkError(f"it ended with {process.returncode} before it was killed:\n{errors_of(place)}")
        died = time.monotonic()
        with _small(way, place, collector, {"burst": 0, "obey": True}) as process:
            took = _wait_for_all(collector, KILLED_AFTER, died, PATIENCE_S)
            return Result(KILLED_AFTER, collector, took, KILLED_AFTER - len(set(_numbers(collector))))


def _small(way: str, place: Path, collector: GrpcCollector, plan: dict[str, Any]) -> Any:
    environ = environment(place, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    return started("small.py", [way, json.dumps(plan)], environ, place)


def _numbers(collector: GrpcCollector) -> list[int]:
    bodies = (record.body.string_value for _, record in collector.records())
    return [int(found[1]) for body in bodies if (found := _NUMBER.search(body))]
