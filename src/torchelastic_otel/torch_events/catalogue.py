"""Every event, once: its name, its severity, and how it comes about.

An event of torch has the pattern by which it is recognised; an inferred one has its message and its meaning. Parsers,
metrics, and the tables of the reference read this catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.model.event import AttributeValue, Severity
from torchelastic_otel.torch_events import messages

_PARTS: Final = {
    "%node": r"The node '(?P<node>.*)'",
    "%round": r"round (?P<round>\d+) of the rendezvous '\x00'",
    "%run": r"the rendezvous '\x00'",
    "%error": r"due to an error of type (?P<error>[\w.]+)\.",
}
"""Parts of the patterns below."""
_Message = Callable[[Mapping[str, AttributeValue]], str]


@dataclass(frozen=True, slots=True)
class EventType:
    r"""One way in which an event comes about.

    Attributes:
        name: The event's name.
        severity: Its severity.
        source: Where it comes from, for the reference.
        function: Of a rendezvous message: how the name of torch's event ends.
        pattern: Of a rendezvous message: matches all of it, with the run id replaced by ``\\x00``.
        status: Of an agent's or a worker's event: torch's source and state.
        text: Of a watchdog's event: its name in torch.
        message: Of an inferred event: its body from its attributes.
        meaning: Of an inferred event: what it means, for the reference.
    """

    name: str
    severity: Severity = Severity.INFO
    source: str = ""
    function: str = ""
    pattern: re.Pattern[str] | None = None
    status: tuple[str, str] | None = None
    text: str = ""
    message: _Message | None = None
    meaning: str = ""


def _rendezvous(name: str, function: str, pattern: str, severity: Severity = Severity.INFO) -> EventType:
    for part, regex in _PARTS.items():
        pattern = pattern.replace(part, regex)
    source = f"rendezvous, `{function}`"
    return EventType(name, severity, source, function=function, pattern=re.compile(pattern, re.DOTALL))


def _status(name: str, source: str, state: str, severity: Severity = Severity.INFO) -> EventType:
    return EventType(name, severity, f"{source} {state}", status=(source, state))


def _watchdog(name: str, text: str, severity: Severity = Severity.INFO) -> EventType:
    return EventType(name, severity, f"watchdog, `{text}`", text=text)


def _inferred(name: str, severity: Severity, message: _Message, meaning: str) -> EventType:
    return EventType(name, severity, message=message, meaning=meaning)


EVENTS: Final = (
    # --- rendezvous: dynamic_rendezvous.py and c10d_rendezvous_backend.py, torch 1.13 to 2.15
    _rendezvous(
        semconv.RENDEZVOUS_STORE_HOSTED,
        "_create_tcp_store",
        r"Process \d+ hosts the TCP store for the C10d rendezvous backend\.",
    ),
    _rendezvous(
        semconv.RENDEZVOUS_JOIN_ATTEMPTED, "next_rendezvous", r"%node attempts to join the next round of %run\."
    ),
    _rendezvous(
        semconv.RENDEZVOUS_JOINED,
        "next_rendezvous",
        r"%node has joined %round as rank (?P<rank>\d+) in a world of size (?P<world_size>\d+)\.",
    ),
    _rendezvous(
        semconv.RENDEZVOUS_PARTICIPANT_ADDED,
        "_add_to_participants",
        r"%node added itself to the participants of %round",
    ),
    _rendezvous(
        semconv.RENDEZVOUS_WAIT_LIST_ADDED, "_add_to_wait_list", r"%node added itself to the wait list of %round"
    ),
    # torch 2.6 and 2.7 write "redunant" of a node that leaves the list
    _rendezvous(
        semconv.RENDEZVOUS_REDUNDANCY_LIST_ADDED,
        "_add_to_redundancy_list",
        r"%node added itself to the redun\w+ list of %round",
    ),
    _rendezvous(
        semconv.RENDEZVOUS_PARTICIPANT_REMOVED,
        "_remove_from_participants",
        r"%node removed itself from the participants of %round",
    ),
    _rendezvous(
        semconv.RENDEZVOUS_WAIT_LIST_REMOVED,
        "_remove_from_wait_list",
        r"%node removed itself from the wait list of %round",
    ),
    _rendezvous(
        semconv.RENDEZVOUS_REDUNDANCY_LIST_REMOVED,
        "_remove_from_redundancy_list",
        r"%node removed itself from the redun\w+ list of %round",
    ),
    _rendezvous(semconv.RENDEZVOUS_COMPLETED, "_mark_rendezvous_complete", r"%node marked %round as complete"),
    _rendezvous(semconv.RENDEZVOUS_MARKED_CLOSED, "_mark_rendezvous_closed", r"%node marked %run as closed"),
    _rendezvous(
        semconv.RENDEZVOUS_KEEP_ALIVE_UPDATED,
        "_keep_alive",
        r"%node updated its keep-alive heartbeat time for %run",
        Severity.DEBUG,
    ),
    _rendezvous(
        semconv.RENDEZVOUS_STATE_SYNCED,
        "run",
        r"%node has successfully synced its local changes with other nodes in %run\.",
        Severity.DEBUG,
    ),
    _rendezvous(
        semconv.RENDEZVOUS_STATE_STALE,
        "run",
        r"%node has a stale state and failed to sync its local changes with other nodes in %run\.",
        Severity.DEBUG,
    ),
    _rendezvous(
        semconv.RENDEZVOUS_KEEP_ALIVE_SENT,
        "_keep_alive",
        r"%node has sent a keep-alive heartbeat to %run\.",
        Severity.DEBUG,
    ),
    _rendezvous(
        semconv.RENDEZVOUS_KEEP_ALIVE_FAILED,
        "_keep_alive",
        r"%node has failed to send a keep-alive heartbeat to %run %error",
        Severity.ERROR,
    ),
    _rendezvous(semconv.RENDEZVOUS_CLOSED, "_close", r"%node has closed %run\."),
    _rendezvous(
        semconv.RENDEZVOUS_SHUTDOWN_FAILED, "shutdown", r"%node has failed to shutdown %run %error", Severity.ERROR
    ),
    _rendezvous(
        semconv.RENDEZVOUS_NODES_REMOVED,
        "sync",
        r"As part of the sync operation the node\(s\) (?P<removed>'.*') have been removed from %run"
        r" since they had no heartbeat\.",
        Severity.WARN,
    ),
    EventType(semconv.RENDEZVOUS_FAILED, Severity.ERROR, "rendezvous, a call raised: `T: text`"),
    EventType(semconv.RENDEZVOUS_MESSAGE, Severity.INFO, "rendezvous, any other text"),
    # --- agents, workers and the watchdog
    _status(semconv.AGENT_RENDEZVOUS_FINISHED, "AGENT", "RENDEZVOUS"),
    _status(semconv.AGENT_RANKS_ASSIGNED, "AGENT", "ASSIGN_WORKER_RANKS"),
    _status(semconv.AGENT_SUCCEEDED, "AGENT", "SUCCEEDED"),
    _status(semconv.AGENT_FAILED, "AGENT", "FAILED", Severity.FATAL),
    _status(semconv.WORKER_STARTED, "WORKER", "START"),
    _status(semconv.WORKER_SUCCEEDED, "WORKER", "SUCCEEDED"),
    _status(semconv.WORKER_FAILED, "WORKER", "FAILED", Severity.ERROR),
    _status(semconv.WORKER_TERMINATED, "WORKER", "TERMINATED"),
    _watchdog(semconv.WATCHDOG_STARTED, "watchdog started"),
    _watchdog(semconv.WATCHDOG_STOPPED, "watchdog stopped"),
    _watchdog(semconv.WATCHDOG_TIMER_EXPIRED, "timer expired", Severity.WARN),
    _watchdog(semconv.WATCHDOG_WORKER_KILLED, "kill worker process", Severity.WARN),
    EventType(semconv.UNKNOWN_EVENT, Severity.INFO, "any other event, or text"),
    # --- inferred
    _inferred(
        semconv.AGENT_STARTED, Severity.INFO, messages.agent_started, "an agent was created, with its configuration"
    ),
    _inferred(
        semconv.RUN_IDENTIFIED,
        Severity.DEBUG,
        messages.run_identified,
        "the nonce that distinguishes this run from others with its id; whether all agents have it",
    ),
    _inferred(
        semconv.AGENT_PHASE_ENTERED,
        Severity.DEBUG,
        messages.phase_entered,
        "the agent entered a phase; the duration of the phase before it",
    ),
    _inferred(
        semconv.AGENT_LOST, Severity.WARN, messages.agent_lost, "a node's heartbeats have stopped: the node is lost"
    ),
    _inferred(
        semconv.AGENT_SILENT,
        Severity.INFO,
        messages.agent_silent,
        "a node's heartbeats have stopped, but it may be well: it is in its exit barrier, or the"
        " observing agent's own heartbeats have stopped, too",
    ),
    _inferred(semconv.AGENT_LEAVING, Severity.WARN, messages.agent_leaving, "the agent received a signal that ends it"),
    _inferred(
        semconv.WORKER_FAILED,
        Severity.ERROR,
        messages.worker_failed,
        "a worker failed (`torchelastic.inferred`); emitted before torch restarts the workers",
    ),
    _inferred(
        semconv.WORKER_EXITED, Severity.DEBUG, messages.worker_exited, "a worker's process ended, for any reason"
    ),
    _inferred(
        semconv.TRAINING_STARTED, Severity.INFO, messages.training_started, "a worker called `training_started()`"
    ),
    _inferred(
        semconv.RESTART_STARTED, Severity.WARN, messages.restart_started, "this agent begins to restart its workers"
    ),
    _inferred(
        semconv.RESTART_CAUSE_AGREED,
        Severity.DEBUG,
        messages.cause_agreed,
        "the cause of the end of the round before, as agreed by all agents",
    ),
    _inferred(
        semconv.RESTART_COMPLETED,
        Severity.WARN,
        messages.restart_completed,
        "the workers run again: reason, cause, and duration of each phase",
    ),
    _inferred(
        semconv.MEMBERSHIP_CHANGED,
        Severity.WARN,
        messages.membership_changed,
        "nodes joined, left or were lost between two rounds; emitted by one agent",
    ),
    _inferred(
        semconv.RENDEZVOUS_WAITING,
        Severity.WARN,
        messages.rendezvous_waiting,
        "a rendezvous waits: the nodes that are present, how many are missing, and which",
    ),
    _inferred(
        semconv.ROUND_STARTED,
        Severity.INFO,
        messages.round_started,
        "the workers of all nodes run; emitted by the job reporter",
    ),
)
"""In the order of the reference."""

EVENT_NAMES: Final = tuple(dict.fromkeys(each.name for each in EVENTS))
"""Every event name; an event that is not here is counted as :data:`~torchelastic_otel.semconv.UNKNOWN_EVENT`."""
RENDEZVOUS: Final = tuple(each for each in EVENTS if each.pattern is not None)
STATUSES: Final = {each.status: each.name for each in EVENTS if each.status is not None}
WATCHDOG: Final = {each.text: each.name for each in EVENTS if each.text}
INFERRED: Final = {each.name: each for each in EVENTS if each.message is not None}
SEVERITIES: Final = {each.name: each.severity for each in reversed(EVENTS)}


def message_of(name: str, attributes: Mapping[str, AttributeValue]) -> str:
    """The body of an inferred event; the name of one that only a newer version knows."""
    known = INFERRED.get(name)
    return name if known is None or known.message is None else known.message(attributes)
