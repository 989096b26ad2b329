"""``timeline``: what happened to a job, from what its agents left behind, without a backend.

What always holds: nothing is delivered, written or changed; importing this imports neither torch nor the
OpenTelemetry SDK.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torchelastic_otel.cli.command import PROGRAM, Command
from torchelastic_otel.cli.timeline.options import round_number, since
from torchelastic_otel.cli.timeline.render import clean
from torchelastic_otel.errors import CommandError

if TYPE_CHECKING:
    from torchelastic_otel.cli.timeline.render import Look
    from torchelastic_otel.cli.timeline.sources import TimelineData
    from torchelastic_otel.history.types import Run


class Timeline(Command):
    """Tell what happened to a job: rounds, failures, restarts, and where the time went.

    Reads what the agents left: this node's spools where no PATH is given; else any mix of spools (of living processes
    too), OTLP JSON lines (of the file destination, or of a Collector's file exporter), captures and torch's own JSON
    lines, plain or gzip, or directories of these; "-" is stdin. Several nodes' files are told as one job. What is
    inferred, and what nobody can tell from these files, is said.
    """

    exit_codes: ClassVar = {
        0: "the story is told",
        1: "there is no run, or none that was asked for",
        2: "wrong option, or a path that cannot be read",
        130: "interrupted",
    }
    examples = (
        "torchelastic-otel timeline",
        "torchelastic-otel timeline node-*/spool/ --run my-job --round 3",
        "torchelastic-otel timeline collector/logs.jsonl.gz --json | jq '.runs[].rounds[].first_failure'",
    )

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """The options."""
        parser.add_argument(
            "paths", nargs="*", metavar="PATH", help="files or directories; without any, this node's spool directory"
        )
        parser.add_argument("--run", metavar="ID", help="only runs of this id, or with this nonce")
        parser.add_argument("--round", type=round_number, metavar="N", help="only this round, in full")
        parser.add_argument(
            "--since",
            type=since,
            metavar="WHEN",
            help="not the runs that had ended before: 90m, 2h, 7d ago, or a time as 2026-01-31T12:00:00Z",
        )
        parser.add_argument("--node", metavar="NODE", help="only this node: its host, torch's node id, or its rank")
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
        parser.add_argument("--all", action="store_true", help="every event as well, heartbeats too")
        parser.add_argument("--no-color", action="store_true", help="no colours, also on a terminal (as NO_COLOR=1)")
        parser.add_argument("--utc", action="store_true", help="times in UTC, not local (JSON is always UTC)")

    def run(self, arguments: argparse.Namespace) -> int:
        """Read, fold, tell."""
        from torchelastic_otel.cli.timeline.filters import chosen, events_of
        from torchelastic_otel.cli.timeline.spools import with_shortfalls
        from torchelastic_otel.history.reducer import HistoryState, add, build_runs

        try:
            told, where = _read(arguments.paths)
        except CommandError as error:
            # names of files and of runs are anybody's text
            raise CommandError(clean(str(error)), exit_code=error.exit_code) from None
        story = add(HistoryState(), told.deliveries)
        found = build_runs(story, living=told.living, gone=told.gone)
        everything = [with_shortfalls(run, told.short) for run in found]
        choices = chosen(everything, arguments.run, arguments.round, arguments.since, arguments.node)
        runs = [choice.run for choice in choices]
        events = [events_of(run, arguments.round) for run in runs] if arguments.all else None
        if arguments.json:
            from torchelastic_otel.cli.timeline.json_report import json_report

            print(json.dumps(json_report(runs, events), indent=2), flush=True)
        elif runs:
            from torchelastic_otel.cli.timeline.render import Page
            from torchelastic_otel.cli.timeline.text import write_events, write_run

            page = Page(_look(arguments))
            for i, choice in enumerate(choices):
                write_run(page, choice.run, choice.whole)
                if events is not None:
                    write_events(page, events[i])
            encoding = sys.stdout.encoding or "utf-8"
            print(page.text().encode(encoding, "backslashreplace").decode(encoding), flush=True)
        if not runs:
            raise CommandError(clean(_nothing(everything, where)), exit_code=1)
        return 0


def _read(paths: Sequence[str]) -> tuple[TimelineData, str]:
    from torchelastic_otel.cli.timeline.sources import read_node, read_paths

    def say(what: str) -> None:
        print(f"{PROGRAM} timeline: {clean(what)}", file=sys.stderr)

    if paths:
        return read_paths(paths, say), "the files given"
    import tempfile
    from pathlib import Path

    from torchelastic_otel.settings import from_environment
    from torchelastic_otel.spool.directory import user_directory

    settings, complaints = from_environment(os.environ)
    for complaint in complaints:
        say(complaint)
    directory = user_directory(Path(settings.spool_dir or tempfile.gettempdir()), os.geteuid())
    return read_node(directory, say), f"this node's spool directory, {directory}; name files or directories"


def _look(arguments: argparse.Namespace) -> Look:
    from torchelastic_otel.cli.timeline.render import Look

    terminal = sys.stdout.isatty()
    plain = arguments.no_color or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    width = shutil.get_terminal_size().columns if terminal else None
    return Look(width=width, colour=terminal and not plain, utc=arguments.utc)


def _nothing(everything: Sequence[Run], where: str) -> str:
    if not everything:
        return f"there is no run in {where}"
    names = list(dict.fromkeys(run.run_id or "(no run id)" for run in everything))
    shown = ", ".join(names[-10:]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"no run is as asked for; there are {shown}"
