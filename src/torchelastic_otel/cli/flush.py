"""``flush``: deliver what dead agents left on this node; with ``--watch`` as a sidecar beside living ones.

What always holds: a living process's spool is never touched; exit status 0 means that nothing is left and nothing
was refused, for every exporter that any spool names.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from torchelastic_otel.cli.command import Command, seconds
from torchelastic_otel.errors import CommandError
from torchelastic_otel.units import NS_PER_S

if TYPE_CHECKING:
    from torchelastic_otel.cli.doctor.masking import Masks
    from torchelastic_otel.cli.spool_inventory import SpoolView
    from torchelastic_otel.export.orphan_adopter import AdoptedSpool
    from torchelastic_otel.export.pipeline import Pipeline

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_LONGEST_PAUSE_S: Final = 60.0
_OF_SPANS: Final = " traces"
_NOT_HERE: Final = "no such exporter is configured here; name it in TORCHELASTIC_OTEL_DESTINATIONS"


class Flush(Command):
    """Deliver what dead agents left in the spool directory.

    Each dead process's spool is taken over under its lock, and its events, spans and last numbers are delivered to the
    exporters that the environment names, with that process's own resource and the same log.record.uid. Spools of
    living agents are theirs: they are waited for until the timeout, and told. With --watch it goes on as a sidecar, and
    delivers a last time on SIGTERM or SIGINT; give it the agents' spool directory (TORCHELASTIC_OTEL_SPOOL_DIR) and
    user.
    """

    exit_codes: ClassVar = {
        0: "everything is delivered, or there was nothing",
        1: "something is left, was refused by a receiver, or could not be read; what and why is told",
        2: "wrong option or setting, nothing to deliver to, or no spool directory",
        130: "interrupted (without --watch)",
    }
    examples = ("torchelastic-otel flush --timeout 60", "torchelastic-otel flush --watch --timeout 20")

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """The options."""
        parser.add_argument(
            "--timeout", type=seconds, default=10.0, metavar="S", help="try for at most S seconds (default: 10)"
        )
        parser.add_argument("--watch", action="store_true", help="go on until SIGTERM or SIGINT, then try a last time")
        parser.add_argument(
            "--interval", type=seconds, default=3.0, metavar="S", help="with --watch: look every S seconds (default: 3)"
        )
        parser.add_argument(
            "--json", action="store_true", help="one JSON object on stdout; with --watch one a line for each change"
        )

    def run(self, arguments: argparse.Namespace) -> int:
        """Deliver, tell, judge."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        if arguments.watch:
            # blocked before the first thread starts, so that only the wait below ever gets one
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return self._run(arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _run(self, arguments: argparse.Namespace) -> int:
        import os

        from torchelastic_otel.cli.delivery import (
            exporters_asked_for,
            make_pipeline,
            settings_in_force,
            try_until,
        )
        from torchelastic_otel.cli.doctor.masking import Masks
        from torchelastic_otel.spool.location import spool_directory

        settings = settings_in_force(self.name)
        exporters = exporters_asked_for(os.environ, settings)
        said: list[str] = []
        if settings.spool_dir and not arguments.watch and not Path(settings.spool_dir).is_dir():
            raise CommandError(f"TORCHELASTIC_OTEL_SPOOL_DIR={settings.spool_dir!r}: there is no such directory")
        directory = spool_directory(settings, said.append)
        if said or directory is None:
            raise CommandError("; ".join(said) or "there is no spool directory; set TORCHELASTIC_OTEL_SPOOL_DIR")
        pipeline = make_pipeline(exporters, settings, directory, adopts=True)
        report = _Report(directory, pipeline, Masks(os.environ), arguments.json)
        try:
            if arguments.watch:
                report.say(f"watching {directory}; SIGTERM or SIGINT ends it")
                pause = arguments.interval
                while signal.sigtimedwait(_SIGNALS, pause) is None:
                    report.take(pipeline.adopt_once(int(arguments.timeout * NS_PER_S)), tell=True)
                    # patience with a collector that is away is ours here: a pass asks it at once
                    in_trouble = any(state.error for state in pipeline.states)
                    pause = min(max(2 * pause, 1.0), _LONGEST_PAUSE_S) if in_trouble else arguments.interval
            try_until(report.attempt, arguments.timeout)
            return report.finish()  # before the stop, which interrupts what hangs and then is its reason
        finally:
            pipeline.stop(NS_PER_S)


class _Report:
    """What was delivered and what is left, as it goes on."""

    def __init__(self, directory: Path, pipeline: Pipeline, masks: Masks, as_json: bool) -> None:
        from torchelastic_otel.cli.spool_inventory import retired

        self._directory = directory
        self._pipeline = pipeline
        self._masks = masks
        self._json = as_json
        self._corrupt_before = set(retired(directory).corrupt)
        self._delivered: dict[Path, dict[str, Any]] = {}
        self._left: list[SpoolView] = []
        self._told: set[Path] = set()

    def say(self, line: str) -> None:
        """A line for a person."""
        if not self._json:
            print(line, flush=True)

    def attempt(self, left_ns: int) -> bool:
        """One pass over the directory; whether nothing is left that waiting could help."""
        from torchelastic_otel.cli.spool_inventory import survey

        self.take(self._pipeline.adopt_once(left_ns))
        # what an exporter is at still when time is over, we hold ourselves
        held = self._pipeline.held_spools
        views = [replace(view, live=view.live and view.path not in held) for view in survey(self._directory)]
        self._left = [view for view in views if view.pending or view.trouble]
        here = {state.name for state in self._pipeline.states}
        return not any(view.live or here & view.pending.keys() for view in self._left)

    def take(self, adopted: Sequence[AdoptedSpool], *, tell: bool = False) -> None:
        """Add what a pass did; with ``tell`` say at once what it delivered."""
        from torchelastic_otel.cli.spool_inventory import run_of

        for each in adopted:
            entry = self._delivered.setdefault(
                each.path,
                {
                    "host": each.origin.host_name,
                    "pid": each.origin.pid,
                    "run": run_of(each.path),
                    "spool": str(each.path),
                    "exporters": {},
                    "numbers": [],
                },
            )
            entry["numbers"] += [name for name in each.metric_exporters if name not in entry["numbers"]]
            news = {}
            for name, after in each.cursors_after.items():
                before = each.cursors_before[name]
                counts = {
                    "delivered": after.delivered - before.delivered,
                    "rejected": after.rejected - before.rejected,
                    "set_aside": after.quarantined - before.quarantined,
                }
                if any(counts.values()):
                    total = entry["exporters"].setdefault(name, dict.fromkeys(counts, 0))
                    total.update({what: total[what] + count for what, count in counts.items()})
                    news[name] = counts
            if tell and (news or each.metric_exporters):
                self._told.add(each.path)
                entry = {**entry, "exporters": news, "numbers": list(each.metric_exporters)}
                print(json.dumps(entry) if self._json else _delivered_line(entry), flush=True)

    def finish(self) -> int:
        """Tell everything; the exit status."""
        from torchelastic_otel.cli.spool_inventory import retired

        delivered = [entry for entry in self._delivered.values() if entry["exporters"] or entry["numbers"]]
        corrupt = [str(path) for path in retired(self._directory).corrupt if path not in self._corrupt_before]
        left = [self._left_entry(view) for view in self._left]
        refused = sum(
            counts["rejected"] + counts["set_aside"] for entry in delivered for counts in entry["exporters"].values()
        )
        complete = not (left or corrupt or refused)
        if self._json:
            result = {
                "directory": str(self._directory),
                "complete": complete,
                "delivered": delivered,
                "left": left,
                "corrupt": corrupt,
            }
            print(json.dumps(result), flush=True)
            return 0 if complete else 1
        for entry in delivered:
            if Path(entry["spool"]) not in self._told:
                print(_delivered_line(entry))
        for entry in left:
            for line in _left_lines(entry):
                print(line)
        for path in corrupt:
            print(f"corrupt, set aside: {path}")
        print(_verdict(delivered, left, refused, self._directory), flush=True)
        sys.stdout.flush()
        return 0 if complete else 1

    def _left_entry(self, view: SpoolView) -> dict[str, Any]:
        troubles = {state.name: self._masks.text(state.error) for state in self._pipeline.states}
        why = {}
        for name in view.pending:
            if view.live:
                why[name] = "a living agent delivers it"
            else:
                why[name] = troubles[name] or "no answer in time" if name in troubles else _NOT_HERE
        return {
            "host": view.host_name,
            "pid": view.pid,
            "run": view.run_id,
            "spool": str(view.path),
            "live": view.live,
            "pending": view.pending,
            "why": why,
            "trouble": view.trouble,
        }


def _whose(entry: dict[str, Any]) -> str:
    if not entry["host"]:
        return Path(entry["spool"]).name
    return f"{entry['host']} pid {entry['pid'] or '?'}" + (f" run {entry['run']}" if entry["run"] else "")


def _delivered_line(entry: dict[str, Any]) -> str:
    parts = []
    for name, counts in entry["exporters"].items():
        refused = counts["rejected"] + counts["set_aside"]
        parts.append(f"{name} {counts['delivered']}" + (f" ({refused} refused by the receiver)" if refused else ""))
    parts += [f"{name} its last numbers" for name in entry["numbers"]]
    return f"delivered: {_whose(entry)}: {', '.join(parts)}"


def _left_lines(entry: dict[str, Any]) -> list[str]:
    if entry["trouble"]:
        return [f"left: {_whose(entry)}: {entry['trouble']}"]
    if entry["live"]:
        return [
            f"left: {_whose(entry)}: live agent, {count} pending for {name}" for name, count in entry["pending"].items()
        ]
    return [
        f"left: {_whose(entry)}: {count} pending for {name}: {entry['why'][name]}"
        for name, count in entry["pending"].items()
    ]


def _verdict(delivered: list[dict[str, Any]], left: list[dict[str, Any]], refused: int, directory: Path) -> str:
    sent: Counter[str] = Counter()
    for entry in delivered:
        for name, counts in entry["exporters"].items():
            sent[name] += counts["delivered"]
    waiting: Counter[str] = Counter()
    for entry in left:
        waiting.update(entry["pending"])
    parts = [
        f"{_rows(sent)} of {_processes(len(delivered))} delivered"
        if delivered
        else f"nothing to deliver in {directory}"
    ]
    if refused:
        parts.append(f"{_count(refused, 'event')} refused")
    parts.append(f"{_rows(waiting)} of {_processes(len(left))} left in {directory}" if left else "nothing is left")
    if not delivered and left:
        parts[0] = "nothing was delivered"
    return "; ".join(parts)


def _rows(counts: Counter[str]) -> str:
    """Events and spans, told apart by the names of the exporters' cursors."""
    spans = sum(count for name, count in counts.items() if name.endswith(_OF_SPANS))
    events = _count(counts.total() - spans, "event")
    return f"{events} and {_count(spans, 'span')}" if spans else events


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _processes(count: int) -> str:
    return f"{count} process" + ("" if count == 1 else "es")
