"""``timeline``: the history of a job from the files of its agents, without a backend.

Guarantees: nothing is delivered, written or changed; importing this imports neither torch nor the OpenTelemetry SDK.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, ClassVar, Final

from torchelastic_otel import semconv
from torchelastic_otel.cli.command import PROGRAM, Command
from torchelastic_otel.cli.timeline.render import Page, PageFormat, clean
from torchelastic_otel.errors import CommandError
from torchelastic_otel.history.types import Member, Node, Outcome, Run
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.units import NS_PER_S

if TYPE_CHECKING:
    from torchelastic_otel.cli.timeline.sources import TimelineData


_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGO: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])")


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


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected part of one run.

    Attributes:
        run: The run with the selected rounds and nodes; everything else in it is of the full run.
        full_run: The run with all its rounds and nodes.
    """

    run: Run
    full_run: Run


def parse_since(text: str) -> int:
    """A time, nanoseconds since the epoch: so long ago (``90m``, ``2h``, ``7d``), or a date, or a date and a time.

    Without a zone it is local time.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return time.time_ns() - int(float(ago[1]) * _UNITS[ago[2]] * NS_PER_S)
    try:
        # Python 3.10 does not parse Z
        moment = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip()))
        return int(moment.astimezone(timezone.utc).timestamp()) * NS_PER_S
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; give how long ago (90m, 2h, 7d) or a time (2026-01-31, 2026-01-31T12:00:00Z)"
        ) from None


def parse_round(text: str) -> int:
    """A round's number."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a round's number, from 0")
    return int(text)


def select(
    runs: Sequence[Run], run_id: str | None, round_: int | None, since_ns: int | None, node: str | None
) -> list[Selection]:
    """The selected runs, each with the selected rounds and nodes.

    Args:
        runs: All runs.
        run_id: A run's id, or its nonce.
        round_: A round's number.
        since_ns: Runs that are known to have ended before are excluded.
        node: A host, a node id, or a node's rank in any round.
    """
    selected = []
    for full_run in runs:
        run = full_run
        if run_id is not None and run_id not in (run.run_id, run.nonce):
            continue
        if since_ns is not None and _ended_before(run, since_ns):
            continue
        if round_ is not None:
            run = replace(run, rounds=tuple(each for each in run.rounds if each.round == round_))
            if not run.rounds:
                continue
        if node is not None:
            run = _of_node(run, node)
            if not run.nodes:
                continue
        selected.append(Selection(run, full_run))
    return selected


def _ended_before(run: Run, time_ns: int) -> bool:
    """Whether each agent with events has ended, the last of them before a time.

    An agent may record no event for hours while its workers train, and events without times prove nothing.
    """
    participants = [member for member in run.nodes if member.rounds] or run.nodes
    endless = any(member.has_events and member.outcome in (Outcome.RUNNING, Outcome.UNKNOWN) for member in participants)
    return not endless and run.last_ns is not None and run.last_ns < time_ns


def _of_node(run: Run, node: str) -> Run:
    """The run with one node only; first failures stay, on whatever node they were."""
    # with some backends nodes have no id of their own, and hosts may have several nodes
    names = {(each.host, each.node_id) for round_ in run.rounds for each in round_.nodes if _is(each, node)}
    rounds = [replace(round_, nodes=tuple(each for each in round_.nodes if _is(each, node))) for round_ in run.rounds]
    members = tuple(member for member in run.nodes if _is(member, node) or (member.host, member.node_id) in names)
    names = {(member.host, member.node_id) for member in members}
    agents = tuple(agent for agent in run.agents if (agent.origin.host_name, agent.node_id) in names)
    return replace(run, rounds=tuple(round_ for round_ in rounds if round_.nodes), nodes=members, agents=agents)


def _is(each: Node | Member, node: str) -> bool:
    rank = each.group_rank if isinstance(each, Node) else None
    return node in (each.host, each.node_id) or (rank is not None and node == str(rank))


def events_of(run: Run, round_: int | None) -> list[tuple[str, ElasticEvent]]:
    """The events of a run with their hosts, in the order of their times.

    Args:
        run: The run.
        round_: Only those of this round; ``None`` for all.
    """
    found = [
        (event.time_ns if event.time_ns is not None else event.observed_ns, agent.origin.id, agent.number, i, agent)
        for agent in run.agents
        for i, event in enumerate(agent.events)
        if round_ is None or event.attributes.get(semconv.RENDEZVOUS_ROUND) == round_
    ]
    return [(agent.origin.host_name, agent.events[i]) for *_, i, agent in sorted(found, key=lambda each: each[:4])]
