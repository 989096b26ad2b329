"""The story of a run as one screen of text.

What always holds: it is as long for a thousand nodes as for ten, since nodes and ranks come in groups; what failed
first, and what is unknown, is never left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from torchelastic_otel.cli.timeline.labels import Names, how, named, who
from torchelastic_otel.cli.timeline.render import Page, Style, clock, day_and_clock, duration
from torchelastic_otel.cli.timeline.rounds import write_round
from torchelastic_otel.history.ranges import ranges
from torchelastic_otel.history.types import Outcome, Round, Run, State
from torchelastic_otel.model.event import ElasticEvent

STYLES: Final = {
    Outcome.SUCCEEDED: Style.GOOD,
    Outcome.FAILED: Style.BAD,
    Outcome.UNKNOWN: Style.DOUBT,
}
_WHOLE: Final = 4
"""Rounds that are told in full; of more, the first and the last ones are."""
_LAST: Final = 2
_BRIEF: Final = 12
"""Rounds in between that have a line of their own; more are counted."""


def write_run(page: Page, run: Run, whole: Run | None = None) -> None:
    """One run.

    Args:
        page: Where to.
        run: What is shown of it.
        whole: All of it, where that is more.
    """
    utc = page.look.utc
    whole = whole or run
    names = Names(whole)
    head = f"run {whole.run_id or '(no run id)'}  {whole.outcome.value}  {named(len(whole.nodes), 'node')}"
    head += f"  {day_and_clock(whole.started_ns, utc)}"
    if whole.ended_ns is not None:
        head += f" to {day_and_clock(whole.ended_ns, utc)}"
    if whole.wall_ns is not None:
        head += f" ({duration(whole.wall_ns)}{', so far' if whole.ended_ns is None else ''})"
    page.gap()
    page.line(head, STYLES.get(whole.outcome, Style.HEAD))
    page.line(_restarts(whole), indent=2)
    page.line(_times(whole), indent=2)
    of = _part(run, whole)
    if of:
        page.line(f"shown: {of}; what is said of the run is of all of it", indent=2)
    _others(page, run, names)
    told, between = _chosen(run.rounds)
    for round_ in run.rounds:
        if round_ in told:
            page.gap()
            write_round(page, whole, round_, names)
        elif between and round_ == between[0]:
            page.gap()
            _brief(page, between, names)
    of_all = ", in the whole run" if of else ""
    _sentences(page, f"inferred{of_all}", whole.inferred, Style.FAINT)
    _sentences(page, f"unknown{of_all}", whole.unknown, Style.DOUBT)


def _part(run: Run, whole: Run) -> str:
    """How much of a run is shown; empty where that is all of it."""
    parts = []
    for shown, every, what in ((run.rounds, whole.rounds, "round"), (run.nodes, whole.nodes, "node")):
        if len(shown) < len(every):
            parts.append(f"{len(shown)} of {named(len(every), what)}")
    return ", ".join(parts)


def _restarts(run: Run) -> str:
    reasons = Counter(round_.restart.reason for round_ in run.rounds if round_.restart is not None)
    text = f"{named(len(run.rounds), 'round')}, {named(run.restarts, 'restart')}"
    if reasons:
        text += " (" + ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) + ")"
    if run.training_ratio is not None:
        text += f"; effective training time at most {run.training_ratio:.1%}"
    return text


def _times(run: Run) -> str:
    parts = [
        f"{state.value.replace('_', ' ')} {duration(run.time.get(state, 0))}" for state in State if run.time.get(state)
    ]
    untold = (run.wall_ns or 0) - sum(run.time.values())
    if untold > 1_000_000 and parts:
        parts.append(f"not told {duration(untold)}")
    return "time: " + (", ".join(parts) or "not told")


def _others(page: Page, run: Run, names: Names) -> None:
    """Who stood by or waited, and how those ended that came to no round."""
    promoted = [member for member in run.nodes if member.stood_by_ns is not None and member.rounds]
    idle = [member for member in run.nodes if member.stood_by_ns is not None and not member.rounds]
    for member in promoted[:4]:
        page.line(
            f"stood by: {names.member(member)} from {clock(member.stood_by_ns, page.look.utc)},"
            f" promoted in round {member.promoted_round}",
            indent=2,
        )
    if len(promoted) > 4:
        page.line(f"and {len(promoted) - 4} more that stood by and were promoted", indent=2)
    if idle:
        ends = Counter(
            f"{member.outcome.value}{f' ({member.error_type})' if member.error_type else ''}" for member in idle
        )
        shown = ", ".join(names.member(member) for member in idle[:4]) + (" ..." if len(idle) > 4 else "")
        told = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
        page.line(f"stood by, and took part in no round: {shown}: {told}", indent=2)
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
            told = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
            page.line(f"and {len(run.nodes) - 4} more: {told}", indent=2)


def _chosen(rounds: Sequence[Round]) -> tuple[list[Round], list[Round]]:
    if len(rounds) <= _WHOLE:
        return list(rounds), []
    return [rounds[0], *rounds[-_LAST:]], list(rounds[1:-_LAST])


def _brief(page: Page, rounds: Sequence[Round], names: Names) -> None:
    if len(rounds) <= _BRIEF:
        for round_ in rounds:
            why = f", restart {round_.restart.index}: {round_.restart.reason}" if round_.restart is not None else ""
            first = round_.first_failure
            what = f" ({who(first, names)}: {how(first)})" if first is not None else ""
            page.line(
                f"round {round_.round}  {round_.outcome.value}  {named(round_.world_size or 0, 'node')}{why}{what}",
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
        page.line(f"failed first there, by host: {most}", indent=4)
    page.line("--round N tells one of them in full", Style.FAINT, indent=4)


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
        page.line(f"{clock(event.time_ns, page.look.utc)} {host} {name}: {event.body}", style, indent=4)
