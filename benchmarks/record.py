"""What it costs torch to record one rendezvous event, in a real agent, at the depth where it records.

Two kinds of agents run in turn. In each, torch with its events off, torch with its ``console`` handler, and one way
to OpenTelemetry are put in place one after the other, call by call; the ways to OpenTelemetry do not share a process,
so that the threads of one do not disturb the other.
"""

from __future__ import annotations

import json
from typing import Any

from processes import PROGRAMS, directory, environment, started, told, torchrun_arguments
from report import Check, Section, percentile, table, us

from tests.support.collector import GrpcCollector

NAME = "record"
_LABELS = {
    "off": "torch as it is, events off",
    "console": "torch, its `console` handler (to `/dev/null`)",
    "ours": "**torchelastic-otel**",
    "afternoon": "OpenTelemetry's logging handler, batch processor, OTLP",
}


def measure(quick: bool) -> Section:
    """Run the agents in turn; the times of all rounds together."""
    rounds = 1 if quick else 3
    counts = {"spaced": 40 if quick else 160, "blocks": 2 if quick else 15, "profiled": 100 if quick else 500}
    times: dict[tuple[str, str], dict[str, list[int]]] = {}
    depths: dict[str, int] = {}
    for _ in range(rounds):
        for kind in ("ours", "afternoon"):
            said = _agent(kind, counts)
            depths.update(said["depths"])
            for mode, of_variant in said["times"].items():
                for variant, samples in of_variant.items():
                    times.setdefault((kind, mode), {}).setdefault(variant, []).extend(samples)
    parts, redacting = _agent("parts", counts), _agent("redacting", counts)
    for mode, of_variant in redacting["times"].items():
        parts["times"][mode]["redacting"] = of_variant["ours"]
    section = Section(
        NAME,
        "one rendezvous event, as torch's own `_record` records it, in a real agent",
        "Real torchrun agents (c10d on loopback, one node), the collector up and taking everything. Torch's `_record`"
        " is called on the main thread by methods of torch's own name; depth of the stack at the call: "
        + ", ".join(f"`{site}` {depth}" for site, depth in depths.items())
        + ". The variants are put in place call by call, 5 ms apart (*spaced*), and in blocks of 20 calls"
        " (*back to back*); *loading* is the first tenth of a second of an agent, while exporters load. Each"
        " ratio is to torch with events off in the same process.",
    )
    for mode in ("spaced", "back to back"):
        off, ours = times["ours", mode]["off"], times["ours", mode]["ours"]
        p50, p99, bound = percentile(ours, 0.5), percentile(ours, 0.99), percentile(off, 0.5)
        section.checks += [
            Check(
                f"{mode}: p50", f"at most 1/20 of torch off ({us(bound / 20)})", _share(p50, bound), p50 <= bound / 20
            ),
            Check(f"{mode}: p99", f"below torch off's p50 ({us(bound)})", us(p99), p99 < bound),
        ]
    for mode in ("spaced", "back to back", "loading"):
        section.body += ["", f"*{mode}*", "", *_rows(mode, times)]
    section.body += ["", *_parts(parts["times"])]
    section.profile = "\n\n".join(f"{name}: {text}" for name, text in redacting["profiles"].items())
    return section


def _share(value: float, of: float) -> str:
    return f"{us(value)} (1/{of / value:.1f})"


def _rows(mode: str, times: dict[tuple[str, str], dict[str, list[int]]]) -> list[str]:
    rows = []
    for kind in ("ours", "afternoon"):
        off = percentile(times[kind, mode]["off"], 0.5)
        for variant, samples in times[kind, mode].items():
            p50 = percentile(samples, 0.5)
            told_as = _LABELS[variant] + (" (second kind of agent)" if kind == "afternoon" and variant != kind else "")
            rest = (us(percentile(samples, share)) for share in (0.9, 0.99, 1.0))
            rows.append((told_as, us(p50), *rest, f"{p50 / off:.3f}", str(len(samples))))
    return table(("variant", "p50", "p90", "p99", "most", "p50 / off", "calls"), rows)


def _parts(times: dict[str, dict[str, list[int]]]) -> list[str]:
    """What parts of the work cost by themselves."""
    labels = {
        "made": "the event made, serialised and logged, to a handler that does nothing",
        "handed over": "the same, and handed to a thread that only says it has it",
        "committed": "the same as the first, and committed to SQLite on the caller's thread",
        "ours": "**torchelastic-otel**",
        "redacting": "**torchelastic-otel** with a redaction hook: the event is read before it is kept",
    }
    rows = [
        (
            label,
            *(us(percentile(times[mode][part], share)) for mode in ("spaced", "back to back") for share in (0.5, 0.99)),
        )
        for part, label in labels.items()
    ]
    return [
        "By parts, in an agent of its own, with ours in place and the handler alone exchanged. What a part costs above"
        " the first row is the least that this way to do it can cost here; after a pause every part costs more, since"
        " the processor's caches are cold and its cores asleep.",
        "",
        *table(("part", "spaced p50", "p99", "back to back p50", "p99"), rows),
        "",
        "The profiles are of calls back to back with that hook, and slower for being profiled.",
    ]


def _agent(kind: str, counts: dict[str, int]) -> dict[str, Any]:
    with directory() as place, GrpcCollector() as collector:
        environ = environment(place, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        environ |= {} if kind != "afternoon" else {"TORCHELASTIC_OTEL": "off"}
        arguments = [kind, json.dumps(counts), *torchrun_arguments(PROGRAMS / "rest.py")]
        with started("record_agent.py", arguments, environ, place) as process:
            return told(process, place, "samples")
