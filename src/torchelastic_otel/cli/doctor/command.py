"""``doctor``: what is active and why, and whether events arrive; for a ticket."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from torchelastic_otel.cli.command import Command, add_timeout, counted, process_label

_LABELS: Final = {"set_aside": "quarantined"}
"""Keys of the JSON that are shown as another word."""


class Doctor(Command):
    """Check everything that events need to arrive, and report problems.

    Shows what is active and why, settings and versions, which hooks fit the installed torch, the spool directory and
    its pending events, and the response of the endpoint to an empty export of each signal. Nothing is delivered or
    changed. Run it where the agents run: same user, environment and node. Secrets in headers, URLs and variables are
    masked, so that the report can be pasted into a ticket.
    """

    exit_codes: ClassVar = {
        0: "healthy, or disabled on purpose",
        1: "there are problems, shown in the last lines",
        2: "a wrong option",
        130: "interrupted",
    }
    examples = ("torchelastic-otel doctor", "torchelastic-otel doctor --json | jq .problems")

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """The options."""
        add_timeout(parser, 5.0, "wait S seconds for each endpoint")
        parser.add_argument("--json", action="store_true", help="the report as one JSON object on stdout")

    def run(self, arguments: argparse.Namespace) -> int:
        """Check and report."""
        from torchelastic_otel.cli.doctor.diagnosis import diagnose

        report = diagnose(dict(os.environ), arguments.timeout)
        report["healthy"] = not report["problems"]
        print(json.dumps(report, indent=2) if arguments.json else render(report), flush=True)
        return 0 if report["healthy"] else 1


def render(report: Mapping[str, Any]) -> str:
    """The report as plain text."""
    return "\n".join(_lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield "torchelastic-otel doctor"
    yield from _table("versions", {name: version or "not installed" for name, version in report["versions"].items()})
    activation = report["activation"]
    yield from _table(
        "activation",
        {
            "active": "yes" if activation["active"] else "no",
            "why": activation["why"],
            **{f"exporters of {signal}": _exporters(report, signal) for signal in ("logs", "traces", "metrics")},
        },
    )
    yield from _table("settings", report["settings"])
    yield from _table("environment", report["environment"])
    yield from _table(
        "entry points", {group: "found" if found else "missing" for group, found in report["ways_in"].items()}
    )
    yield from _table(
        "hooks (torch versions they are known to fit)",
        {hook["name"]: hook["trouble"] or f"fits ({hook['fits']})" for hook in report["hooks"]},
    )
    yield from _spool(report["spool"])
    yield from _table(
        "endpoints (the response to an empty export)",
        {f"{each['signal']}: {each['name']}": _answer(each) for each in report["exporters"]} | report["unused_signals"],
    )
    for note in report["notes"]:
        yield f"\nnote: {note}"
    yield ""
    if report["healthy"]:
        yield "healthy"
        return
    yield f"problems ({len(report['problems'])}):"
    for problem in report["problems"]:
        yield f"  - {problem}"


def _exporters(report: Mapping[str, Any], signal: str) -> str:
    named = [each["name"] for each in report["exporters"] if each["signal"] == signal]
    return ", ".join(named) or "none"


def _spool(spool: Mapping[str, Any]) -> Iterator[str]:
    if not spool.get("directory"):
        yield from _table("spool", {"directory": "none; events are kept in memory"})
        return
    delivered = spool.get("delivered", {"spools": 0, "bytes": 0})
    yield from _table(
        "spool",
        {
            "directory": spool["directory"],
            "free": f"{spool['free_bytes'] >> 20} MiB",
            "delivered": f"{delivered['spools']} spools, {delivered['bytes'] >> 10} KiB",
            "corrupt, quarantined": ", ".join(spool.get("corrupt", ())) or "none",
            "spools": str(len(spool["spools"])),
        },
    )
    for each in spool["spools"]:
        label = process_label(each["host"], each["pid"], each["run"], "unknown process")
        state, events = "running" if each["live"] else "orphaned", counted(each["events"], "event")
        yield f"    {each['file']}: {state}, {label}, {events}"
        if each["trouble"]:
            yield f"      {each['trouble']}"
        for name, counts in each["cursors"].items():
            yield f"      {name}: " + ", ".join(f"{_LABELS.get(key, key)} {count}" for key, count in counts.items())


def _answer(exporter: Mapping[str, Any]) -> str:
    if exporter.get("endpoint"):
        return f"{exporter['endpoint']} ({exporter['protocol']}): {exporter['answer']}"
    return str(exporter["answer"])


def _table(title: str, rows: Mapping[str, object]) -> Iterator[str]:
    yield f"\n{title}"
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        yield f"  {name:<{width}}  {shown}"
    if not rows:
        yield "  none"
