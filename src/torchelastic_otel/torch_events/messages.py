"""The bodies of events: pure functions of their attributes, one for each inferred event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.cause import place_text
from torchelastic_otel.model.event import AttributeValue
from torchelastic_otel.model.failure import HANG, UNINTERRUPTIBLE_SLEEP, Evidence

_Attributes = Mapping[str, AttributeValue]

REASONS: Final = {
    "worker_failure": "a worker failed",
    "membership_change": "the membership changed",
    "node_lost": "a node was lost",
    "node_left": "a node left",
    "unknown": "cause unknown",
}
"""The values of ``torchelastic.restart.reason``, as words."""


def failure(attributes: _Attributes, *, prefix: str = "") -> str:
    """How a worker ended, in words: ``rank 3 (local rank 1, pid 41) was killed by SIGKILL``.

    Args:
        attributes: The attributes of its event; or of another one, that names them with a prefix.
        prefix: The prefix.
    """

    def of(name: str) -> AttributeValue | None:
        return attributes.get(f"{prefix}.{name}" if prefix else _FAILURE_ATTRIBUTES[name])

    text = f"rank {of('rank')} (local rank {of('local_rank')}, pid {of('pid')})"
    place = place_text(of("function"), of("file"), of("line"))
    if of("error_type") == HANG:
        return f"{text} hung{f' in {place}' if place else ''}: others waited for it until it was stopped"
    if of("error_type") == UNINTERRUPTIBLE_SLEEP:
        text += " hangs in uninterruptible sleep"
    elif of("signal"):
        text += f" was killed by {of('signal')}"
    elif of("exit_code") is not None:
        text += f" exited with code {of('exit_code')}"
    else:
        text += " failed"
    if of("message"):
        kind = "" if of("error_type") in (None, "", "exit", of("signal")) else f"{of('error_type')}: "
        text += f": {kind}{of('message')}"
    if place:
        text += f", in {place}"
    if of("explanation"):
        text += f" ({of('explanation')})"
    return text


_FAILURE_ATTRIBUTES: Final = {
    "rank": semconv.WORKER_RANK,
    "local_rank": semconv.WORKER_LOCAL_RANK,
    "pid": semconv.WORKER_PID,
    "signal": semconv.WORKER_SIGNAL,
    "exit_code": semconv.PROCESS_EXIT_CODE,
    "error_type": semconv.ERROR_TYPE,
    "message": semconv.EXCEPTION_MESSAGE,
    "function": semconv.CODE_FUNCTION_NAME,
    "file": semconv.CODE_FILE_PATH,
    "line": semconv.CODE_LINE_NUMBER,
    "explanation": semconv.FAILURE_EXPLANATION,
}


def _seconds(value: object) -> str:
    return f"{value:.3f} s" if isinstance(value, (int, float)) else "an unknown time"


def _count(number: object, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(value: object) -> str:
    texts = [str(part) for part in value] if isinstance(value, (tuple, list)) else []
    more = f" and {len(texts) - 8} more" if len(texts) > 8 else ""
    return ", ".join(texts[:8]) + more


def torch_event(name: str, attributes: _Attributes) -> str:
    """The body of an event of torch's agents, workers and watchdog, whose own text is no sentence."""
    of = attributes.get
    words = name.rpartition(".")[2].replace("_", " ")
    if name.startswith("torchelastic.worker."):
        line = f"Worker rank {of(semconv.WORKER_RANK)} (pid {of(semconv.WORKER_PID)}) {words}"
        if semconv.WORKER_SIGNAL in attributes:
            line += f" by {of(semconv.WORKER_SIGNAL)}"
        elif of(semconv.PROCESS_EXIT_CODE) is not None:
            line += f" with exit code {of(semconv.PROCESS_EXIT_CODE)}"
    elif name.startswith("torchelastic.watchdog."):
        line = f"Watchdog: {words}"
        if semconv.WORKER_PID in attributes:
            line += f", worker pid {of(semconv.WORKER_PID)}"
    else:
        # torch's SUCCEEDED means that run() returned, also if the workers failed for good
        line = "Agent finished" if name == semconv.AGENT_SUCCEEDED else f"Agent {words}"
        if semconv.AGENT_STEP_DURATION in attributes:
            line += f" after {_seconds(of(semconv.AGENT_STEP_DURATION))}"
    if semconv.EXCEPTION_MESSAGE in attributes:
        kind = f"{of(semconv.EXCEPTION_TYPE)}: " if semconv.EXCEPTION_TYPE in attributes else ""
        line += f": {kind}{of(semconv.EXCEPTION_MESSAGE)}"
    return line


# --- inferred events, by their names in the catalogue


def agent_started(of: _Attributes) -> str:
    return (
        f"Agent started: {of.get(semconv.NODES_MIN)} to {_count(of.get(semconv.NODES_MAX), 'node')},"
        f" {_count(of.get(semconv.LOCAL_WORLD_SIZE), 'worker')} on this node,"
        f" at most {_count(of.get(semconv.RESTARTS_MAX), 'restart')}"
    )


def phase_entered(of: _Attributes) -> str:
    text = f"Agent entered phase {of.get(semconv.PHASE)}"
    if semconv.PHASE_PREVIOUS not in of:
        return text
    return f"{text} after {_seconds(of.get(semconv.PHASE_DURATION))} in {of.get(semconv.PHASE_PREVIOUS)}"


def worker_failed(of: _Attributes) -> str:
    return "Worker " + failure(of)


def worker_exited(of: _Attributes) -> str:
    if of.get(semconv.PROCESS_EXIT_CODE) == 0:
        return f"Worker rank {of.get(semconv.WORKER_RANK)} (pid {of.get(semconv.WORKER_PID)}) exited with code 0"
    return worker_failed(of)


def restart_started(of: _Attributes) -> str:
    return f"Agent restarts its workers; its local view: {_reason(of.get(semconv.RESTART_TRIGGER))}"


def _reason(value: object) -> str:
    return REASONS.get(str(value), REASONS["unknown"])


def _cause(of: _Attributes) -> str:
    text = _reason(of.get(semconv.RESTART_REASON))
    host = of.get(f"{semconv.CAUSE}.host") or of.get(f"{semconv.CAUSE}.node.id")
    if semconv.CAUSE + ".rank" in of:
        text += f": on {host}, {failure(of, prefix=semconv.CAUSE)}"
    elif host:
        text += f": {host}"
        if semconv.CAUSE + ".node.id" in of:
            text += f" ({of.get(semconv.CAUSE + '.node.id')}, last rank {of.get(semconv.CAUSE + '.group.rank')})"
    if of.get(semconv.FAILURE_AMBIGUOUS) is True:
        if of.get(semconv.FAILURE_EVIDENCE) == Evidence.ALL_WAITED.value:
            return f"{text} (all that failed waited for another: the network, or a cause that left no trace)"
        text += " (ambiguous: another failure is within the error of the times)"
    culprits = of.get(f"{semconv.CAUSE}.culprits")
    if isinstance(culprits, (tuple, list)) and len(culprits) > 1:
        text += f"; others waited for {_listed(culprits)}"
    return text


def cause_agreed(of: _Attributes) -> str:
    view = "All agents agree" if of.get(semconv.RESTART_AGREED) is True else "This agent's local view"
    return f"{view}: {_cause(of)}"


def restart_completed(of: _Attributes) -> str:
    restart = f"Restart {of.get(semconv.RESTART_INDEX)}" if semconv.RESTART_INDEX in of else "Restart"
    return f"{restart} completed in {_seconds(of.get(semconv.RESTART_DURATION))}: {_cause(of)}"


def membership_changed(of: _Attributes) -> str:
    parts = [
        f"{word} {_listed(of[name])}"
        for word, name in (
            ("joined", semconv.MEMBERSHIP_JOINED),
            ("left", semconv.MEMBERSHIP_LEFT),
            ("lost", semconv.MEMBERSHIP_LOST),
        )
        if name in of
    ]
    return "Membership changed: " + "; ".join(parts)


def agent_lost(of: _Attributes) -> str:
    return (
        f"Node {of.get(semconv.PEER_NODE_ID)} is lost; its last heartbeat was at {of.get(semconv.PEER_LAST_HEARTBEAT)}"
    )


def agent_silent(of: _Attributes) -> str:
    return f"Node {of.get(semconv.PEER_NODE_ID)} sends no heartbeats, but may still be running"


def agent_leaving(of: _Attributes) -> str:
    return f"Agent is leaving: it received {of.get(semconv.WORKER_SIGNAL)}"


def rendezvous_waiting(of: _Attributes) -> str:
    text = f"Rendezvous has been waiting for {_seconds(of.get(semconv.RENDEZVOUS_WAITED))}"
    present, missing = of.get(semconv.RENDEZVOUS_PRESENT), of.get(semconv.RENDEZVOUS_MISSING)
    counts = [] if present is None else [f"{_count(present, 'node')} present"]
    counts += [] if missing is None else [f"{missing} missing"]
    listed = _listed(of.get(semconv.RENDEZVOUS_MISSING_NODES))
    return ": ".join(part for part in (text, ", ".join(counts), listed) if part)


def training_started(of: _Attributes) -> str:
    return f"Worker rank {of.get(semconv.WORKER_RANK)} started training"


def round_started(of: _Attributes) -> str:
    return (
        f"Round {of.get(semconv.RENDEZVOUS_ROUND)} started on {_count(of.get(semconv.GROUP_WORLD_SIZE), 'node')};"
        f" its bring-up took {_seconds(of.get(semconv.ROUND_DURATION))}"
    )


def run_identified(of: _Attributes) -> str:
    return f"The nonce of this run is {of.get(semconv.RUN_NONCE)}, from {of.get(semconv.INFERRED_FROM)}"
