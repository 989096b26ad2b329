"""The line that a person reads, for each event that we say and torch does not: a pure function of its attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue

_Attributes = Mapping[str, AttributeValue]

REASONS: Final = {
    "worker_failure": "a worker failed",
    "membership_change": "the membership changed",
    "node_lost": "a node was lost",
    "node_left": "a node left",
    "unknown": "nobody knows why",
}
"""The values of ``torchelastic.restart.reason``, as words."""


def message_of(name: str, attributes: _Attributes) -> str:
    """The body of one of our events."""
    say = _MESSAGES.get(name)
    return say(attributes) if say is not None else name


def failure(attributes: _Attributes, *, prefix: str = "") -> str:
    """How a worker ended, in words: ``rank 3 (local rank 1, pid 41) was killed by SIGKILL``."""

    def of(name: str) -> AttributeValue | None:
        return attributes.get(f"{prefix}.{name}" if prefix else _PLAIN[name])

    text = f"rank {of('rank')} (local rank {of('local_rank')}, pid {of('pid')})"
    if of("error_type") == "uninterruptible_sleep":
        text += " hangs in uninterruptible sleep"
    elif of("signal"):
        text += f" was killed by {of('signal')}"
    elif of("exit_code") is not None:
        text += f" exited with code {of('exit_code')}"
    else:
        text += " failed"
    if of("message"):
        said = (None, "", "exit", of("signal"))
        kind = "" if of("error_type") in said else f"{of('error_type')}: "
        text += f": {kind}{of('message')}"
    return text


_PLAIN: Final = {
    "rank": semconv.WORKER_RANK,
    "local_rank": semconv.WORKER_LOCAL_RANK,
    "pid": semconv.WORKER_PID,
    "signal": semconv.WORKER_SIGNAL,
    "exit_code": semconv.PROCESS_EXIT_CODE,
    "error_type": semconv.ERROR_TYPE,
    "message": semconv.EXCEPTION_MESSAGE,
}


def _seconds(value: object) -> str:
    return f"{value:.3f} s" if isinstance(value, (int, float)) else "an unknown time"


def _listed(value: object) -> str:
    texts = [str(part) for part in value] if isinstance(value, (tuple, list)) else []
    more = f" and {len(texts) - 8} more" if len(texts) > 8 else ""
    return ", ".join(texts[:8]) + more


def _agent_started(of: _Attributes) -> str:
    return (
        f"Agent started: {of.get(semconv.NODES_MIN)} to {of.get(semconv.NODES_MAX)} nodes,"
        f" {of.get(semconv.LOCAL_WORLD_SIZE)} workers here, at most {of.get(semconv.RESTARTS_MAX)} restarts"
    )


def _phase_entered(of: _Attributes) -> str:
    phase = str(of.get(semconv.PHASE)).replace("_", " ")
    if semconv.PHASE_PREVIOUS not in of:
        return f"Agent: {phase}"
    before = str(of.get(semconv.PHASE_PREVIOUS)).replace("_", " ")
    return f"Agent: {phase}, after {_seconds(of.get(semconv.PHASE_DURATION))} of {before}"


def _worker_failed(of: _Attributes) -> str:
    return "Worker " + failure(of)


def _worker_exited(of: _Attributes) -> str:
    if of.get(semconv.PROCESS_EXIT_CODE) == 0:
        return f"Worker rank {of.get(semconv.WORKER_RANK)} (pid {of.get(semconv.WORKER_PID)}) ended"
    return "Worker " + failure(of)


def _restart_started(of: _Attributes) -> str:
    why = REASONS.get(str(of.get(semconv.RESTART_TRIGGER)), "")
    return f"Agent restarts its workers; as seen from here: {why}"


def _cause(of: _Attributes) -> str:
    text = REASONS.get(str(of.get(semconv.RESTART_REASON)), "")
    host = of.get(f"{semconv.CAUSE}.host") or of.get(f"{semconv.CAUSE}.node.id")
    if semconv.CAUSE + ".rank" in of:
        text += f": on {host}, {failure(of, prefix=semconv.CAUSE)}"
    elif host:
        text += f": {host}"
        if semconv.CAUSE + ".node.id" in of:
            text += f" ({of.get(semconv.CAUSE + '.node.id')}, last rank {of.get(semconv.CAUSE + '.group.rank')})"
    if of.get(semconv.FAILURE_AMBIGUOUS) is True:
        text += " (others failed within the error of the clock readings)"
    return text


def _cause_agreed(of: _Attributes) -> str:
    who = "All agents hold" if of.get(semconv.RESTART_AGREED) is True else "This agent, for itself, holds"
    return f"{who}: {_cause(of)}"


def _restart_completed(of: _Attributes) -> str:
    which = f"Restart {of.get(semconv.RESTART_INDEX)}" if semconv.RESTART_INDEX in of else "Restart"
    return f"{which} completed in {_seconds(of.get(semconv.RESTART_DURATION))}: {_cause(of)}"


def _membership_changed(of: _Attributes) -> str:
    parts = [
        f"{word} {_listed(of[name])}"
        for word, name in (
            ("joined:", semconv.MEMBERSHIP_JOINED),
            ("left:", semconv.MEMBERSHIP_LEFT),
            ("lost:", semconv.MEMBERSHIP_LOST),
        )
        if name in of
    ]
    return "Membership changed; " + "; ".join(parts)


def _agent_lost(of: _Attributes) -> str:
    last = of.get(semconv.PEER_LAST_HEARTBEAT)
    return f"Agent {of.get(semconv.PEER_NODE_ID)} is lost; its last heartbeat was at {last}"


def _agent_silent(of: _Attributes) -> str:
    return f"Agent {of.get(semconv.PEER_NODE_ID)} sends no heartbeats, but may be well"


def _agent_leaving(of: _Attributes) -> str:
    return f"Agent leaves: it got {of.get(semconv.WORKER_SIGNAL)}"


def _waiting(of: _Attributes) -> str:
    text = f"Rendezvous waits since {_seconds(of.get(semconv.RENDEZVOUS_WAITED))}"
    present, missing = of.get(semconv.RENDEZVOUS_PRESENT), of.get(semconv.RENDEZVOUS_MISSING)
    counts = [] if present is None else [f"{present} {'node is' if present == 1 else 'nodes are'} there"]
    counts += [] if missing is None else [f"{missing} {'is' if missing == 1 else 'are'} missing"]
    listed = _listed(of.get(semconv.RENDEZVOUS_MISSING_NODES))
    return ": ".join(part for part in (text, ", ".join(counts), listed) if part)


def _training_started(of: _Attributes) -> str:
    return f"Worker rank {of.get(semconv.WORKER_RANK)} trains"


def _round_started(of: _Attributes) -> str:
    return (
        f"Round {of.get(semconv.RENDEZVOUS_ROUND)} runs on {of.get(semconv.GROUP_WORLD_SIZE)} nodes, brought up in"
        f" {_seconds(of.get(semconv.ROUND_DURATION))}"
    )


def _identified(of: _Attributes) -> str:
    return f"This run is {of.get(semconv.RUN_NONCE)}, by {of.get(semconv.INFERRED_FROM)}"


_MESSAGES: Final[Mapping[str, Callable[[_Attributes], str]]] = {
    semconv.AGENT_STARTED: _agent_started,
    semconv.AGENT_PHASE_ENTERED: _phase_entered,
    semconv.AGENT_LOST: _agent_lost,
    semconv.AGENT_SILENT: _agent_silent,
    semconv.AGENT_LEAVING: _agent_leaving,
    semconv.WORKER_FAILED: _worker_failed,
    semconv.WORKER_EXITED: _worker_exited,
    semconv.RUN_IDENTIFIED: _identified,
    semconv.ROUND_STARTED: _round_started,
    semconv.RESTART_STARTED: _restart_started,
    semconv.RESTART_CAUSE_AGREED: _cause_agreed,
    semconv.RESTART_COMPLETED: _restart_completed,
    semconv.MEMBERSHIP_CHANGED: _membership_changed,
    semconv.RENDEZVOUS_WAITING: _waiting,
    semconv.TRAINING_STARTED: _training_started,
}
