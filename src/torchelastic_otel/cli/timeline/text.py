"""The history of a run as one screen of text.

Guarantees: it is as long for a thousand nodes as for ten, since nodes and ranks are grouped. The first failure and
what is unknown are always shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from torchelastic_otel.cli.timeline.labels import NodeNames, count_of, describe, subject
from torchelastic_otel.cli.timeline.render import Page, Style, clock, day_and_clock, duration
from torchelastic_otel.cli.timeline.rounds import write_round
from torchelastic_otel.history.caveats import ranges
from torchelastic_otel.history.types import Outcome, Round, Run, State
from torchelastic_otel.model.event import ElasticEvent

STYLES: Final = {
    Outcome.SUCCEEDED: Style.GOOD,
    Outcome.FAILED: Style.BAD,
    Outcome.UNKNOWN: Style.DOUBT,
}
_MAX_FULL: Final = 4
"""Rounds that are shown in full; of more, only the first and the last ones are."""
_LAST: Final = 2
_MAX_BRIEF: Final = 12
"""Rounds in between that have a line each; more are counted."""


def write_run(page: Page, run: Run, full_run: Run | None = None) -> None:
    """One run.

    Args:
        page: Receives the text.
        run: The selected part of it.
        full_run: All of it, if that is more.
    """
    utc = page.format.utc
    full_run = full_run or run
    names = NodeNames(full_run)
    head = f"run {full_run.run_id or '(no run id)'}  {full_run.outcome.value}  {count_of(len(full_run.nodes), 'node')}"
    head += f"  {day_and_clock(full_run.started_ns, utc)}"
    if full_run.ended_ns is not None:
        head += f" to {day_and_clock(full_run.ended_ns, utc)}"
    if full_run.wall_ns is not None:
        head += f" ({duration(full_run.wall_ns)}{', so far' if full_run.ended_ns is None else ''})"
    page.gap()
    page.line(head, STYLES.get(full_run.outcome, Style.HEAD))
    page.line(_restarts(full_run), indent=2)
    page.line(_times(full_run), indent=2)
    part = _part(run, full_run)
    if part:
        page.line(f"shown: {part}; everything else is of the whole run", indent=2)
    _others(page, run, names)
    in_full, between = _rounds_in_full(run.rounds)
    for round_ in run.rounds:
        if round_ in in_full:
            page.gap()
            write_round(page, full_run, round_, names)
        elif between and round_ == between[0]:
            page.gap()
            _brief(page, between, names)
    of_all = ", in the whole run" if part else ""
    _sentences(page, f"inferred{of_all}", full_run.inferred, Style.FAINT)
    _sentences(page, f"unknown{of_all}", full_run.unknown, Style.DOUBT)


def _part(run: Run, full_run: Run) -> str:
    """How much of a run is shown; empty for all of it."""
    parts = []
    for shown, every, what in ((run.rounds, full_run.rounds, "round"), (run.nodes, full_run.nodes, "node")):
        if len(shown) < len(every):
            parts.append(f"{len(shown)} of {count_of(len(every), what)}")
    return ", ".join(parts)


def _restarts(run: Run) -> str:
    reasons = Counter(round_.restart.reason for round_ in run.rounds if round_.restart is not None)
    text = f"{count_of(len(run.rounds), 'round')}, {count_of(run.restarts, 'restart')}"
    if reasons:
        text += " (" + ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) + ")"
    if run.training_ratio is not None:
        text += f"; effective training time at most {run.training_ratio:.1%}"
    return text


def _times(run: Run) -> str:
    parts = [
        f"{state.value.replace('_', ' ')} {duration(run.time.get(state, 0))}" for state in State if run.time.get(state)
    ]
    unreported = (run.wall_ns or 0) - sum(run.time.values())
    if unreported > 1_000_000 and parts:
        parts.append(f"not reported {duration(unreported)}")
    return "time: " + (", ".join(parts) or "not reported")


def _others(page: Page, run: Run, names: NodeNames) -> None:
    """Nodes on standby, and how those ended that took part in no round."""
    promoted = [member for member in run.nodes if member.standby_ns is not None and member.rounds]
    idle = [member for member in run.nodes if member.standby_ns is not None and not member.rounds]
    for member in promoted[:4]:
        page.line(
            f"standby: {names.member(member)} from {clock(member.standby_ns, page.format.utc)},"
            f" promoted in round {member.promoted_round}",
            indent=2,
        )
    if len(promoted) > 4:
        page.line(f"and {len(promoted) - 4} more on standby, later promoted", indent=2)
    if idle:
        ends = Counter(
            f"{member.outcome.value}{f' ({member.error_type})' if member.error_type else ''}" for member in idle
        )
        shown = ", ".join(names.member(member) for member in idle[:4]) + (" ..." if len(idle) > 4 else "")
        counts = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
        page.line(f"standby, in no round: {shown}: {counts}", indent=2)
    if not run.rounds:
        for member in run.nodes[:4]:
            error = (
                f": {member.error_type or ''}{f': {member.message}' if member.message else ''}"
                if member.error_type
                else ""
            )
            page.line(f"{names.member(member)} {member.outcome.value}{error}", indent=2)
        if len(run.nodes) > 4:
            ends = Counter(member.outcome.value for member in run.nodes[4:])
            counts = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
            page.line(f"and {len(run.nodes) - 4} more: {counts}", indent=2)


def _rounds_in_full(rounds: Sequence[Round]) -> tuple[list[Round], list[Round]]:
    if len(rounds) <= _MAX_FULL:
        return list(rounds), []
    return [rounds[0], *rounds[-_LAST:]], list(rounds[1:-_LAST])


def _brief(page: Page, rounds: Sequence[Round], names: NodeNames) -> None:
    if len(rounds) <= _MAX_BRIEF:
        for round_ in rounds:
            why = f", restart {round_.restart.index}: {round_.restart.reason}" if round_.restart is not None else ""
            first = round_.first_failure
            what = f" ({subject(first, names)}: {describe(first)})" if first is not None else ""
            page.line(
                f"round {round_.round}  {round_.outcome.value}  {count_of(round_.world_size or 0, 'node')}{why}{what}",
                STYLES.get(round_.outcome, Style.NONE),
                indent=2,
            )
        return
    numbers = ranges(round_.round for round_ in rounds)
    reasons = Counter(round_.restart.reason for round_ in rounds if round_.restart is not None)
    hosts = Counter(round_.first_failure.host or "?" for round_ in rounds if round_.first_failure is not None)
    page.line(
        f"rounds {numbers}: " + ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()), indent=2
    )
    if hosts:
        most = ", ".join(f"{host} {count}" for host, count in hosts.most_common(5))
        page.line(f"first failures there, by host: {most}", indent=4)
    page.line("--round N shows one of them in full", Style.FAINT, indent=4)


def _sentences(page: Page, label: str, sentences: Sequence[str], style: Style) -> None:
    if not sentences:
        return
    page.gap()
    page.line(label, style, indent=2)
    for sentence in sentences:
        page.line(f"- {sentence}", style, indent=4)


def write_events(page: Page, events: Sequence[tuple[str, ElasticEvent]]) -> None:
    """Every event, one a line."""
    page.gap()
    page.line("events", indent=2)
    for host, event in events:
        name = event.name.removeprefix("torchelastic.")
        style = Style.BAD if event.severity >= 17 else Style.DOUBT if event.severity >= 13 else Style.NONE
        page.line(f"{clock(event.time_ns, page.format.utc)} {host} {name}: {event.body}", style, indent=4)
