"""``timeline``: the history of a job from the files of its agents, without a backend.

Guarantees: nothing is delivered, written or changed; importing this imports neither torch nor the OpenTelemetry SDK.
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
from torchelastic_otel.cli.timeline.filters import events_of, parse_round, parse_since, select
from torchelastic_otel.cli.timeline.render import Page, PageFormat, clean
from torchelastic_otel.errors import CommandError

if TYPE_CHECKING:
    from torchelastic_otel.cli.timeline.sources import TimelineData
    from torchelastic_otel.history.types import Run


class Timeline(Command):
    """Show the history of a job: rounds, failures, restarts, and where the time went.

    Reads this node's spools if no PATH is given; else any mix of spools (of running processes, too), OTLP JSON lines
    (from the file destination, or from a Collector's file exporter), captures and torch's own JSON lines, plain or
    gzip, or directories of these; "-" is stdin. Files of several nodes are combined into one job. Inferred and unknown
    facts are listed.
    """

    exit_codes: ClassVar = {
        0: "the history is shown",
        1: "there is no run, or no run matches the options",
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
            "paths", nargs="*", metavar="PATH", help="files or directories (default: this node's spool directory)"
        )
        parser.add_argument("--run", metavar="ID", help="only runs with this id or this nonce")
        parser.add_argument("--round", type=parse_round, metavar="N", help="only this round, in full")
        parser.add_argument(
            "--since",
            type=parse_since,
            metavar="WHEN",
            help="without runs that ended before: 90m, 2h, 7d ago, or a time as 2026-01-31T12:00:00Z",
        )
        parser.add_argument("--node", metavar="NODE", help="only this node: its host, torch's node id, or its rank")
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
        parser.add_argument("--all", action="store_true", help="also every event, including heartbeats")
        parser.add_argument("--no-color", action="store_true", help="no colours, also on a terminal (as NO_COLOR=1)")
        parser.add_argument("--utc", action="store_true", help="times in UTC, not local (JSON is always UTC)")

    def run(self, arguments: argparse.Namespace) -> int:
        """Read the input, build the history, print it."""
        from torchelastic_otel.cli.timeline.sources import with_missing_data
        from torchelastic_otel.history.reducer import HistoryState, add, build_runs

        try:
            data, where = _read(arguments.paths)
        except CommandError as error:
            # file names and run ids may contain anything
            raise CommandError(clean(str(error)), exit_code=error.exit_code) from None
        state = add(HistoryState(), data.events)
        found = build_runs(state, alive=data.alive, exited=data.exited)
        all_runs = [with_missing_data(run, data.missing) for run in found]
        selections = select(all_runs, arguments.run, arguments.round, arguments.since, arguments.node)
        runs = [selection.run for selection in selections]
        events = [events_of(run, arguments.round) for run in runs] if arguments.all else None
        if arguments.json:
            from torchelastic_otel.cli.timeline.json_report import json_report

            print(json.dumps(json_report(runs, events), indent=2), flush=True)
        elif runs:
            from torchelastic_otel.cli.timeline.text import write_events, write_run

            page = Page(_page_format(arguments))
            for i, selection in enumerate(selections):
                write_run(page, selection.run, selection.full_run)
                if events is not None:
                    write_events(page, events[i])
            encoding = sys.stdout.encoding or "utf-8"
            print(page.text().encode(encoding, "backslashreplace").decode(encoding), flush=True)
        if not runs:
            raise CommandError(clean(_no_run(all_runs, where)), exit_code=1)
        return 0


def _read(paths: Sequence[str]) -> tuple[TimelineData, str]:
    from torchelastic_otel.cli.timeline.sources import read_node, read_paths

    def report(line: str) -> None:
        print(f"{PROGRAM} timeline: {clean(line)}", file=sys.stderr)

    if paths:
        return read_paths(paths, report), "the files given"
    import tempfile
    from pathlib import Path

    from torchelastic_otel.settings import from_environment
    from torchelastic_otel.spool.directory import user_directory

    settings, warnings = from_environment(os.environ)
    for warning in warnings:
        report(warning)
    directory = user_directory(Path(settings.spool_dir or tempfile.gettempdir()), os.geteuid())
    return read_node(directory, report), f"this node's spool directory, {directory}; name files or directories"


def _page_format(arguments: argparse.Namespace) -> PageFormat:
    terminal = sys.stdout.isatty()
    plain = arguments.no_color or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    width = shutil.get_terminal_size().columns if terminal else None
    return PageFormat(width=width, colour=terminal and not plain, utc=arguments.utc)


def _no_run(all_runs: Sequence[Run], where: str) -> str:
    if not all_runs:
        return f"there is no run in {where}"
    names = list(dict.fromkeys(run.run_id or "(no run id)" for run in all_runs))
    shown = ", ".join(names[-10:]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"no run matches the options; there are {shown}"
