"""One round of a run as text: its nodes, the last joiner, the first failure, its victims, and durations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from torchelastic_otel.cli.timeline.labels import (
    NodeNames,
    count_of,
    describe,
    message_of,
    node_group,
    subject,
    traceback_end,
    victim_groups,
)
from torchelastic_otel.cli.timeline.render import Page, Style, clock, duration
from torchelastic_otel.history.caveats import ranges
from torchelastic_otel.history.types import LeftReason, Node, Outcome, Round, Run
from torchelastic_otel.model.failure import HANG, Evidence
from torchelastic_otel.model.phases import Phase

_STYLES: Final = {Outcome.SUCCEEDED: Style.GOOD, Outcome.FAILED: Style.BAD, Outcome.INTERRUPTED: Style.DOUBT}
_MAX_SINGLE: Final = 4
"""Nodes that are listed one by one; more are listed in groups."""
_MAX_GROUPS: Final = 6
_DOUBTS: Final = {
    Evidence.ALL_WAITED.value: " [all that failed waited for another: the network, or a cause that left no trace]"
}
"""Groups in one row."""


def write_round(page: Page, run: Run, round_: Round, names: NodeNames) -> None:
    """One round."""
    utc = page.format.utc
    size = "never formed" if round_.world_size is None and not _formed(round_) else count_of(_size(round_), "node")
    head = f"round {round_.round}  {round_.outcome.value}  {size}  {clock(round_.started_ns, utc)}"
    if round_.ended_ns is not None:
        head += f" to {clock(round_.ended_ns, utc)}"
        if round_.started_ns is not None:
            head += f" ({duration(round_.ended_ns - round_.started_ns)})"
    page.line(head, _STYLES.get(round_.outcome, Style.HEAD), indent=2)
    _joined(page, run, round_, names)
    if round_.missing_count:
        known = ", ".join(_missing(round_)) or "which ones is not known"
        more = round_.missing_count - len(round_.missing)
        text = f"{count_of(round_.missing_count, 'node')}: {known}"
        page.row("missing", text + (f" and {more} more" if more and round_.missing else ""))
    _took(page, round_)
    _failed(page, round_, names)
    _left(page, round_, names)
    if round_.restart is not None:
        steps = ", ".join(f"{phase} {duration(took)}" for phase, took in round_.restart.phases.items())
        source = "" if round_.restart.agreed else " (inferred)"
        took = f" in {duration(round_.restart.duration_ns)}" if round_.restart.duration_ns is not None else ""
        page.row("restart", f"{round_.restart.index}: {round_.restart.reason}{source}{took}: {steps}")
    if round_.trace_id is not None:
        page.row("trace", round_.trace_id, Style.FAINT)


def _formed(round_: Round) -> bool:
    return any(node.group_rank is not None for node in round_.nodes)


def _size(round_: Round) -> int:
    return round_.world_size if round_.world_size is not None else len(round_.nodes)


def _missing(round_: Round) -> Iterable[str]:
    for each in round_.missing[:_MAX_SINGLE]:
        rank = "" if each.group_rank is None else f", last rank {each.group_rank}"
        yield f"{each.node_id or each.host}{rank}"
    if len(round_.missing) > _MAX_SINGLE:
        yield f"nodes {ranges(m.group_rank for m in round_.missing[_MAX_SINGLE:] if m.group_rank is not None)}"


def _joined(page: Page, run: Run, round_: Round, names: NodeNames) -> None:
    utc = page.format.utc
    joined = sorted((node for node in round_.nodes if node.joined_ns is not None), key=lambda node: node.joined_ns or 0)
    if not joined:
        return
    last = next(
        (node for node in round_.nodes if node.node_id is not None and node.node_id == round_.last_joiner), None
    )
    if len(joined) <= _MAX_SINGLE:
        text = ", ".join(f"{names.node(node)} {clock(node.joined_ns, utc)}" for node in joined)
    else:
        spread = (joined[-1].joined_ns or 0) - (joined[0].joined_ns or 0)
        text = f"{node_group(joined, names)} from {clock(joined[0].joined_ns, utc)} on, within {duration(spread)}"
    if last is not None and len(round_.nodes) > 1:
        text += f"; last {names.node(last)}"
        text += f" {clock(last.joined_ns, utc)}" if len(joined) > _MAX_SINGLE and last.joined_ns is not None else ""
    elif round_.last_joiner is not None and len(round_.nodes) > 1:
        text += f"; last {round_.last_joiner}"
    page.row("joined", text)
    new = [node for node in round_.nodes if node.node_id in round_.joined]
    if new and round_.round != run.rounds[0].round:
        page.row("new", _nodes(new, names))


def _nodes(nodes: Sequence[Node], names: NodeNames) -> str:
    if len(nodes) <= _MAX_SINGLE:
        return ", ".join(names.node(node) for node in nodes)
    return node_group(nodes, names)


def _took(page: Page, round_: Round) -> None:
    """The duration of each phase on the fastest and on the slowest node."""
    parts = []
    for phase in Phase:
        if phase == Phase.ENDED:
            continue
        took = [
            sum(interval.duration_ns or 0 for interval in node.phases if interval.phase == phase)
            for node in round_.nodes
            if any(interval.phase == phase and interval.duration_ns is not None for interval in node.phases)
        ]
        if took:
            low, high = duration(min(took)), duration(max(took))
            parts.append(f"{phase.value} {low if low == high else f'{low} to {high}'}")
    if parts:
        page.row("took", ", ".join(parts))


def _failed(page: Page, round_: Round, names: NodeNames) -> None:
    failure = round_.first_failure
    if failure is not None:
        text = f"{clock(failure.at_ns, page.format.utc)} {subject(failure, names)}: {describe(failure)}"
        message = message_of(failure)
        if message and failure.kind != "node_lost":
            text += f": {message}" if failure.kind in ("exception", "agent_error") else f" ({message})"
        if failure.kind == "node_lost" and failure.at_ns is not None:
            text += "; last heard of at that time"
        if failure.place and failure.kind != HANG:
            text += f", in {failure.place}"
        if failure.explanation and failure.kind != HANG:
            text += f" ({failure.explanation})"
        doubt = _DOUBTS.get(failure.evidence or "", " [another may have been first]") if failure.ambiguous else ""
        page.row("failed", text + doubt, Style.BAD)
        for culprit in failure.culprits[1:]:
            page.row("", f"and {culprit}", Style.BAD)
        page.quote(traceback_end(failure))
    lines = victim_groups(round_.victims, names)
    for i, line in enumerate(lines[:_MAX_GROUPS]):
        page.row("victims" if i == 0 else "", line)
    if len(lines) > _MAX_GROUPS:
        page.row("", f"and {count_of(len(lines) - _MAX_GROUPS, 'more group')}")


def _left(page: Page, round_: Round, names: NodeNames) -> None:
    """Why nodes left, unless all of them succeeded."""
    groups: dict[LeftReason, list[Node]] = {}
    for node in round_.nodes:
        if node.left_reason is not None:
            groups.setdefault(node.left_reason, []).append(node)
    if set(groups) <= {LeftReason.SUCCEEDED}:
        return
    rows = [f"{reason.value}: {_nodes(nodes, names)}" for reason, nodes in groups.items()]
    page.row("left", "; ".join(rows))
