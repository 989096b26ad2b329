"""``doctor``: what is active and why, and whether events would arrive; for a ticket."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torchelastic_otel.cli.command import Command, seconds


class Doctor(Command):
    """Look at everything that decides whether events arrive, and say what is wrong.

    Shows what is active and why, settings and versions, which hooks fit the installed torch, the spool directory and
    what waits in it, and what the endpoint answers to an empty export of each signal. Nothing is delivered or
    changed. Run it where the agents run: same user, environment and node. Secrets in headers, URLs and variables are
    hidden, so that the report can be pasted into a ticket.
    """

    exit_codes: ClassVar = {
        0: "healthy, or switched off on purpose",
        1: "something is wrong; the last lines say what",
        2: "wrong option",
        130: "interrupted",
    }
    examples = ("torchelastic-otel doctor", "torchelastic-otel doctor --json | jq .problems")

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """The options."""
        parser.add_argument(
            "--timeout", type=seconds, default=5.0, metavar="S", help="wait S seconds for each endpoint (default: 5)"
        )
        parser.add_argument("--json", action="store_true", help="the report as one JSON object on stdout")

    def run(self, arguments: argparse.Namespace) -> int:
        """Look, tell, judge."""
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
            **{f"{signal} go to": _leads_to(report, signal) for signal in ("logs", "traces", "metrics")},
        },
    )
    yield from _table("settings in force", report["settings"])
    yield from _table("environment", report["environment"])
    yield from _table("ways in", {group: "found" if ours else "missing" for group, ours in report["ways_in"].items()})
    yield from _table(
        "hooks (torch versions they are known to fit)",
        {hook["name"]: hook["trouble"] or f"fits ({hook['fits']})" for hook in report["hooks"]},
    )
    yield from _spool(report["spool"])
    yield from _table(
        "exporters (an empty export, and the answer)",
        {f"{each['signal']}: {each['name']}": _answer(each) for each in report["exporters"]} | report["unused_signals"],
    )
    for note in report["notes"]:
        yield f"\nnote: {note}"
    yield ""
    if report["healthy"]:
        yield "healthy"
        return
    yield f"wrong ({len(report['problems'])}):"
    for problem in report["problems"]:
        yield f"  - {problem}"


def _leads_to(report: Mapping[str, Any], signal: str) -> str:
    named = [each["name"] for each in report["exporters"] if each["signal"] == signal]
    return ", ".join(named) or "nowhere"


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
            "delivered, as history": f"{delivered['spools']} spools, {delivered['bytes'] >> 10} KiB",
            "corrupt, set aside": ", ".join(spool.get("corrupt", ())) or "none",
            "spools": str(len(spool["spools"])),
        },
    )
    for each in spool["spools"]:
        whose = f"{each['host']} pid {each['pid'] or '?'} run {each['run'] or '?'}" if each["host"] else "nobody said"
        yield f"    {each['file']}: {'live' if each['live'] else 'dead'}, {whose}, {each['events']} events"
        if each["trouble"]:
            yield f"      {each['trouble']}"
        for name, counts in each["cursors"].items():
            yield f"      {name}: " + ", ".join(f"{what.replace('_', ' ')} {count}" for what, count in counts.items())


def _answer(told: Mapping[str, Any]) -> str:
    if told.get("endpoint"):
        return f"{told['endpoint']} ({told['protocol']}): {told['answer']}"
    return str(told["answer"])


def _table(title: str, rows: Mapping[str, object]) -> Iterator[str]:
    yield f"\n{title}"
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        yield f"  {name:<{width}}  {shown}"
    if not rows:
        yield "  none"
