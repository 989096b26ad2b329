"""How long the exit of a process is held up by what it recorded, with a collector that is up, refuses, or hangs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from processes import directory, ended_ns, environment, started, told
from report import Check, Section, median, s, table

from tests.support.collector import HANG, GrpcCollector, refusing_port

NAME = "exit"
EVENTS = 20
UP_S, DEADLINE_S = 0.3, 2.0
SLACK_S = 0.1
_WAYS = ("none", "ours", "sdk")
_LIVES = {"settled": 2.0, "at once": 0.0}


def measure(quick: bool) -> Section:
    """Each collector with each way in turn."""
    rounds = {"up": 2 if quick else 4, "refusing": 1 if quick else 2, "hung": 1 if quick else 2}
    held: dict[tuple[str, str, str], list[int]] = {}
    arrived: dict[tuple[str, str, str], list[int]] = {}
    for collector, times in rounds.items():
        for _ in range(times):
            for life in _LIVES:
                for way in _WAYS:
                    ns, count = _exit(collector, way, 0.0 if way == "none" else _LIVES[life])
                    held.setdefault((collector, life, way), []).append(ns)
                    arrived.setdefault((collector, life, way), []).append(count)
    section = Section(
        NAME,
        "how long an exit is held up",
        f"A process that records {EVENTS} events and then ends, either 2 s after the last one (*settled*: what was"
        " recorded is out, or being tried) or right after it (*at once*: the exporter is not even imported yet). From"
        " the last statement of its program to the end of the process, less the same process without any"
        " telemetry; gRPC, logs only, medians and the longest. `sdk` is OpenTelemetry's logging handler with its batch"
        " processor.",
    )
    rows = []
    for collector in rounds:
        for life in _LIVES:
            bare = median(held[collector, life, "none"])
            ours = [ns - bare for ns in held[collector, life, "ours"]]
            sdk = [ns - bare for ns in held[collector, life, "sdk"]]
            bound = UP_S if collector == "up" else DEADLINE_S
            few = {way: min(arrived[collector, life, way]) for way in ("ours", "sdk")}
            least = [f"{few[way]} of {EVENTS}" for way in ("ours", "sdk")]
            if collector == "up":
                # to give up at once would be quick as well
                target = f"at most {bound:g} s, and everything arrived"
                measured = f"{s(median(ours))}, {least[0]} arrived"
                reached = median(ours) / 1e9 <= bound and few["ours"] == EVENTS
            else:
                target = f"at most the deadline of {bound:g} s (+ {SLACK_S} s)"
                measured = f"{s(median(ours))}, longest {s(max(ours))}"
                reached = max(ours) / 1e9 <= bound + SLACK_S
            section.checks.append(Check(f"collector {collector}, {life}", target, measured, reached))
            cells = (f"{s(median(ours))} ({s(max(ours))})", least[0], f"{s(median(sdk))} ({s(max(sdk))})", least[1])
            rows.append((collector, life, s(bare), *cells))
    head = ("collector", "process", "without", "ours (longest)", "arrived", "sdk (longest)", "arrived")
    section.body = table(head, rows)
    return section


def _exit(collector: str, way: str, settle_s: float) -> tuple[int, int]:
    """Nanoseconds from the end of the program to the end of the process, and how many events arrived."""
    with directory() as place, _collector(collector) as (endpoint, arrived):
        environ = environment(place, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        plan = json.dumps({"burst": EVENTS, "settle_s": settle_s})
        with started("small.py", [way, plan], environ, place) as process:
            at_end = told(process, place, "end")["monotonic_ns"]
            return ended_ns(process) - at_end, arrived()


@contextmanager
def _collector(kind: str) -> Iterator[tuple[str, Callable[[], int]]]:
    if kind == "refusing":
        yield f"http://127.0.0.1:{refusing_port()}", lambda: 0
        return
    with GrpcCollector() as collector:
        if kind == "hung":
            collector.behaviour = HANG
        yield collector.endpoint, lambda: len(collector.records())
