"""``flush``: deliver the orphaned spools of this node; with ``--watch`` as a sidecar of running agents.

Guarantees: the spool of a running process is not changed; exit status 0 means that nothing is pending and nothing was
rejected, for every exporter of any spool.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from torchelastic_otel.cli.command import Command, add_timeout, counted, process_label, seconds
from torchelastic_otel.errors import CommandError
from torchelastic_otel.units import NS_PER_S

if TYPE_CHECKING:
    from torchelastic_otel.cli.doctor.masking import Masks
    from torchelastic_otel.cli.spool_inventory import SpoolEntry
    from torchelastic_otel.export.orphan_adopter import AdoptedSpool
    from torchelastic_otel.export.pipeline import Pipeline
    from torchelastic_otel.spool.records import CursorState

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_MAX_PAUSE_S: Final = 60.0
_TRACES_SUFFIX: Final = " traces"
_NOT_CONFIGURED: Final = "this exporter is not configured here; add it to TORCHELASTIC_OTEL_DESTINATIONS"


class Flush(Command):
    """Deliver the orphaned spools of this node.

    Each spool of a process that has ended is adopted under its lock, and its events, spans and last metrics are sent to
    the configured exporters, with the resource of that process and the same log.record.uid. Spools of running agents
    are reported if they are not delivered before the timeout. With --watch it continues as a sidecar, and makes a last
    attempt on SIGTERM or SIGINT; it needs the agents' spool directory (TORCHELASTIC_OTEL_SPOOL_DIR) and user.
    """

    exit_codes: ClassVar = {
        0: "everything is delivered, or there was nothing to deliver",
        1: "something is pending, was rejected by a receiver, or cannot be read; the reason is printed",
        2: "a wrong option or setting, no exporter, or no spool directory",
        130: "interrupted (without --watch)",
    }
    examples = ("torchelastic-otel flush --timeout 60", "torchelastic-otel flush --watch --timeout 20")

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """The options."""
        add_timeout(parser, 10.0, "try for at most S seconds")
        parser.add_argument("--watch", action="store_true", help="continue until SIGTERM or SIGINT")
        parser.add_argument(
            "--interval", type=seconds, default=3.0, metavar="S", help="with --watch: scan every S seconds (default: 3)"
        )
        parser.add_argument(
            "--json", action="store_true", help="one JSON object on stdout; with --watch one line for each change"
        )

    def run(self, arguments: argparse.Namespace) -> int:
        """Deliver and report."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        if arguments.watch:
            # blocked before the first thread starts, so that only sigtimedwait() receives one
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return self._run(arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _run(self, arguments: argparse.Namespace) -> int:
        from torchelastic_otel.cli.delivery import load_settings, resolve_exporters, retry_until, start_pipeline
        from torchelastic_otel.cli.doctor.masking import Masks
        from torchelastic_otel.spool.location import spool_directory

        settings = load_settings(self)
        exporters = resolve_exporters(os.environ, settings)
        warnings: list[str] = []
        if settings.spool_dir and not arguments.watch and not Path(settings.spool_dir).is_dir():
            raise CommandError(f"TORCHELASTIC_OTEL_SPOOL_DIR={settings.spool_dir!r}: there is no such directory")
        directory = spool_directory(settings, warnings.append)
        if warnings or directory is None:
            raise CommandError("; ".join(warnings) or "there is no spool directory; set TORCHELASTIC_OTEL_SPOOL_DIR")
        pipeline = start_pipeline(self, exporters, settings, directory, adopts=True)
        report = _Report(directory, pipeline, Masks(os.environ), arguments.json)
        try:
            if arguments.watch:
                report.print(f"watching {directory}; SIGTERM or SIGINT ends it")
                pause = arguments.interval
                while signal.sigtimedwait(_SIGNALS, pause) is None:
                    report.add(pipeline.adopt_once(int(arguments.timeout * NS_PER_S)), print_changes=True)
                    # each pass tries at once, so the backoff during an outage is the pause here
                    failing = any(state.error for state in pipeline.states)
                    pause = min(max(2 * pause, 1.0), _MAX_PAUSE_S) if failing else arguments.interval
            retry_until(report.attempt, arguments.timeout)
            return report.finish()  # before stop(), which cancels a hanging send and so replaces its error
        finally:
            pipeline.stop(NS_PER_S)


class _Report:
    """What was delivered and what is pending."""

    def __init__(self, directory: Path, pipeline: Pipeline, masks: Masks, as_json: bool) -> None:
        from torchelastic_otel.cli import spool_inventory

        self._inventory = spool_inventory
        self._directory = directory
        self._pipeline = pipeline
        self._masks = masks
        self._json = as_json
        self._corrupt_before = spool_inventory.corrupt_files(directory)
        self._delivered: dict[Path, dict[str, Any]] = {}
        self._left: list[SpoolEntry] = []
        self._printed: set[Path] = set()

    def print(self, line: str) -> None:
        """Print a line, unless the output is JSON."""
        if not self._json:
            print(line, flush=True)

    def attempt(self, left_ns: int) -> bool:
        """One pass over the directory; whether nothing is left that a wait could help."""
        self.add(self._pipeline.adopt_once(left_ns))
        # a spool that a worker still uses at the end of the time is owned by this process
        held = self._pipeline.held_spools
        entries = [
            replace(entry, live=entry.live and entry.path not in held)
            for entry in self._inventory.list_spools(self._directory)
        ]
        self._left = [entry for entry in entries if entry.pending or entry.error]
        here = {state.name for state in self._pipeline.states}
        return not any(entry.live or here & entry.pending.keys() for entry in self._left)

    def add(self, adopted: Sequence[AdoptedSpool], *, print_changes: bool = False) -> None:
        """Add the result of a pass."""
        for each in adopted:
            entry = self._delivered.setdefault(
                each.path,
                {
                    "host": each.origin.host_name,
                    "pid": each.origin.pid,
                    "run": self._inventory.read_run_id(each.path),
                    "spool": str(each.path),
                    "exporters": {},
                    "numbers": [],
                },
            )
            entry["numbers"] += [name for name in each.metric_exporters if name not in entry["numbers"]]
            changes = {}
            for name, after in each.cursors_after.items():
                before = _counts(each.cursors_before[name])
                counts = {key: count - before[key] for key, count in _counts(after).items()}
                if any(counts.values()):
                    total = entry["exporters"].setdefault(name, dict.fromkeys(counts, 0))
                    total.update({key: total[key] + count for key, count in counts.items()})
                    changes[name] = counts
            if print_changes and (changes or each.metric_exporters):
                self._printed.add(each.path)
                entry = {**entry, "exporters": changes, "numbers": list(each.metric_exporters)}
                print(json.dumps(entry) if self._json else _delivered_line(entry), flush=True)

    def finish(self) -> int:
        """Print the report; the exit status."""
        delivered = [entry for entry in self._delivered.values() if entry["exporters"] or entry["numbers"]]
        corrupt = [
            str(path) for path in self._inventory.corrupt_files(self._directory) if path not in self._corrupt_before
        ]
        left = [self._left_entry(entry) for entry in self._left]
        rejected = sum(
            counts["rejected"] + counts["set_aside"] for entry in delivered for counts in entry["exporters"].values()
        )
        complete = not (left or corrupt or rejected)
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
        lines = [_delivered_line(entry) for entry in delivered if Path(entry["spool"]) not in self._printed]
        for entry in left:
            lines += _left_lines(entry)
        lines += [f"corrupt, quarantined: {path}" for path in corrupt]
        lines.append(_summary(delivered, left, rejected, self._directory))
        print("\n".join(lines), flush=True)
        return 0 if complete else 1

    def _left_entry(self, entry: SpoolEntry) -> dict[str, Any]:
        errors = {state.name: self._masks.text(state.error) for state in self._pipeline.states}
        reasons = {
            name: "a running agent delivers it"
            if entry.live
            else (errors[name] or "no response in time")
            if name in errors
            else _NOT_CONFIGURED
            for name in entry.pending
        }
        return {
            "host": entry.host_name,
            "pid": entry.pid,
            "run": entry.run_id,
            "spool": str(entry.path),
            "live": entry.live,
            "pending": entry.pending,
            "why": reasons,
            "trouble": entry.error,
        }


def _counts(cursor: CursorState) -> dict[str, int]:
    return {"delivered": cursor.delivered, "rejected": cursor.rejected, "set_aside": cursor.quarantined}


def _label(entry: dict[str, Any]) -> str:
    return process_label(entry["host"], entry["pid"], entry["run"], Path(entry["spool"]).name)


def _delivered_line(entry: dict[str, Any]) -> str:
    parts = []
    for name, counts in entry["exporters"].items():
        rejected = counts["rejected"] + counts["set_aside"]
        parts.append(f"{name} {counts['delivered']}" + (f" ({rejected} rejected by the receiver)" if rejected else ""))
    parts += [f"{name} its last metrics" for name in entry["numbers"]]
    return f"delivered: {_label(entry)}: {', '.join(parts)}"


def _left_lines(entry: dict[str, Any]) -> list[str]:
    label = _label(entry)
    if entry["trouble"]:
        return [f"left: {label}: {entry['trouble']}"]
    if entry["live"]:
        return [f"left: {label}: running agent, {count} pending for {name}" for name, count in entry["pending"].items()]
    return [
        f"left: {label}: {count} pending for {name}: {entry['why'][name]}" for name, count in entry["pending"].items()
    ]


def _summary(delivered: list[dict[str, Any]], left: list[dict[str, Any]], rejected: int, directory: Path) -> str:
    sent: Counter[str] = Counter()
    for entry in delivered:
        sent.update({name: counts["delivered"] for name, counts in entry["exporters"].items()})
    pending: Counter[str] = Counter()
    for entry in left:
        pending.update(entry["pending"])
    if delivered:
        parts = [f"{_rows(sent)} of {counted(len(delivered), 'process', 'processes')} delivered"]
    else:
        parts = ["nothing was delivered" if left else f"nothing to deliver in {directory}"]
    if rejected:
        parts.append(f"{counted(rejected, 'event')} rejected")
    parts.append(
        f"{_rows(pending)} of {counted(len(left), 'process', 'processes')} left in {directory}"
        if left
        else "nothing is left"
    )
    return "; ".join(parts)


def _rows(counts: Counter[str]) -> str:
    """Events and spans, by the names of the exporters' cursors."""
    spans = sum(count for name, count in counts.items() if name.endswith(_TRACES_SUFFIX))
    events = counted(counts.total() - spans, "event")
    return f"{events} and {counted(spans, 'span')}" if spans else events
