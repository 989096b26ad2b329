"""What is added to the start of an agent: time on its main thread, and resident memory."""

from __future__ import annotations

import time
from pathlib import Path

from processes import PROGRAMS, directory, environment, started, told, torchrun_arguments
from report import Check, Section, median, ms, table

from tests.support.collector import GrpcCollector

NAME = "start"
REST_S = 3.0
TARGET_MS, TARGET_MIB = 30, 20
_WAYS = ("without", "ours")


def measure(quick: bool) -> Section:
    """Agents with and without, in turn."""
    rounds = 2 if quick else 5
    arming: dict[str, list[tuple[int, int]]] = {way: [] for way in _WAYS}
    until: dict[str, list[tuple[int, int]]] = {way: [] for way in _WAYS}
    memory: dict[str, list[int]] = {way: [] for way in _WAYS}
    for turn in range(rounds):
        for way in _WAYS if turn % 2 else reversed(_WAYS):
            moments, kib, _ = _agent(way)
            asked, armed, rendezvous = (moments[name] for name in ("asked for a handler", "armed", "rendezvous"))
            arming[way].append((armed[0] - asked[0], armed[1] - asked[1]))
            until[way].append((rendezvous[0] - asked[0], rendezvous[1] - asked[1]))
            memory[way].append(kib)
    section = Section(
        NAME,
        "what the start of an agent costs",
        "Real torchrun agents (c10d on loopback), torch imported already. *Arming* is everything that happens between"
        " torch's call of `create_handler` and its own creator's; *to the rendezvous* is from there to"
        " `next_rendezvous`, with exporters loading on other threads meanwhile. CPU is of the main thread alone, wall"
        f" has the wait for the interpreter's lock in it. Memory is VmRSS {REST_S:g} s after the rendezvous began, by"
        " gRPC.",
    )
    wall, cpu = (median([sample[at] for sample in arming["ours"]]) for at in (0, 1))
    added_wall, added_cpu = (
        median([sample[at] for sample in until["ours"]]) - median([sample[at] for sample in until["without"]])
        for at in (0, 1)
    )
    added = (median(memory["ours"]) - median(memory["without"])) / 1024
    section.checks = [
        Check("arming, main thread's CPU", f"at most {TARGET_MS} ms", ms(cpu), cpu <= TARGET_MS * 1e6),
        Check("arming, wall", f"at most {TARGET_MS} ms", ms(wall), wall <= TARGET_MS * 1e6),
        Check("to the rendezvous, CPU added", f"at most {TARGET_MS} ms", ms(added_cpu), added_cpu <= TARGET_MS * 1e6),
        Check("resident memory added", f"at most {TARGET_MIB} MiB", f"{added:.1f} MiB", added <= TARGET_MIB),
    ]
    rows = [
        (
            way,
            *(f"{ms(median([x[at] for x in arming[way]]))} ({ms(max(x[at] for x in arming[way]))})" for at in (0, 1)),
            *(f"{ms(median([x[at] for x in until[way]]))} ({ms(max(x[at] for x in until[way]))})" for at in (0, 1)),
            f"{median(memory[way]) / 1024:.1f} MiB",
        )
        for way in _WAYS
    ]
    head = ("agent", "arming, wall (longest)", "CPU (longest)", "to the rendezvous, wall", "CPU", "VmRSS")
    section.body = [
        *table(head, rows),
        "",
        f"{rounds} agents of each. Added to the rendezvous, wall: {ms(added_wall)}.",
    ]
    section.body += ["", "Where the memory goes, in a process that has imported `torch.distributed.run`:", ""]
    section.body += table(("step", "VmRSS added"), [(step, f"{kib / 1024:.1f} MiB") for step, kib in _memory().items()])
    section.profile = _agent("ours", profile=True)[2]
    return section


def _agent(way: str, *, profile: bool = False) -> tuple[dict[str, list[int]], int, str]:
    """The moments of one agent, its VmRSS in KiB when it has run for a while, and the profile of its arming."""
    with directory() as place, GrpcCollector() as collector:
        environ = environment(place, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, BENCH_REST_S="600")
        environ |= {} if way == "ours" else {"TORCHELASTIC_OTEL": "off"}
        environ |= {"BENCH_PROFILE": "1"} if profile else {}
        with started("start_agent.py", torchrun_arguments(PROGRAMS / "rest.py"), environ, place) as process:
            said = told(process, place, "moments")
            if profile:
                return said["moments"], 0, said["profile"]
            time.sleep(REST_S)
            return said["moments"], _resident_kib(process.pid), ""


def _memory() -> dict[str, int]:
    """KiB that each part adds, one after the other."""
    with directory() as place, GrpcCollector() as collector:
        environ = environment(place, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        with started("memory.py", [], environ, place) as process:
            added: dict[str, int] = told(process, place, "memory")["added"]
            return added


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise OSError(f"process {pid} has no VmRSS")
