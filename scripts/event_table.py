"""The rows of ARCHITECTURE.md's tables of events, spans and metrics, from the code."""

from collections.abc import Iterator

from torchelastic_otel import semconv
from torchelastic_otel.model.event import Severity
from torchelastic_otel.processing.metrics.catalogue import TABLE
from torchelastic_otel.torch_events import inferred_events, messages, parser, rendezvous_messages


def rows() -> Iterator[tuple[str, str, str]]:
    """What torch says, the event's name, its severity."""
    seen: set[str] = set()
    for wording in rendezvous_messages.PATTERNS:
        if wording.event not in seen:
            seen.add(wording.event)
            yield f"rendezvous, `{wording.where}`", *_named(wording.event)
    yield "rendezvous, `T: text` of a call that raised", *_named(semconv.RENDEZVOUS_FAILED)
    yield "rendezvous, any other words", *_named(semconv.RENDEZVOUS_MESSAGE)
    for (source, state), event in parser._STATES.items():
        yield f"{source} {state}", *_named(event)
    for words, event in parser._WATCHDOG.items():
        yield f"watchdog, `{words}`", *_named(event)
    yield "any other event, or text", *_named(semconv.UNKNOWN_EVENT)


def _named(event: str) -> tuple[str, str]:
    return f"`{event}`", parser._SEVERITIES.get(event, Severity.INFO).name


TOLD = {
    semconv.AGENT_STARTED: "an agent is made, and how it was launched",
    semconv.RUN_IDENTIFIED: "the nonce that tells this run from others of its id, and whether all agents have it",
    semconv.AGENT_PHASE_ENTERED: "what the agent is at from here on, and how long it was at what was before",
    semconv.AGENT_LOST: "a node's heartbeats have stopped: it is gone",
    semconv.AGENT_SILENT: "heartbeats have stopped, the node may be well: in its exit barrier, or ours stopped, too",
    semconv.AGENT_LEAVING: "the agent was told by a signal to end",
    semconv.WORKER_FAILED: "a worker failed (`torchelastic.inferred`), told before torch restarts it",
    semconv.WORKER_EXITED: "a worker's process ended, however",
    semconv.TRAINING_STARTED: "a worker called `training_started()`",
    semconv.RESTART_STARTED: "this agent begins to restart its workers",
    semconv.RESTART_CAUSE_AGREED: "why the round before ended, as all agents hold it",
    semconv.RESTART_COMPLETED: "workers run again: reason, cause, and how long each phase took",
    semconv.MEMBERSHIP_CHANGED: "nodes joined, left or were lost from one round to the next; told by one agent",
    semconv.RENDEZVOUS_WAITING: "a rendezvous is held up: who and how many are there, how many are missing, and who",
    semconv.ROUND_STARTED: "the workers of all nodes run; told by the agent that speaks for the job",
}


def own_rows() -> Iterator[tuple[str, str, str]]:
    """What we say and torch does not: the event's name, its severity, what it tells."""
    assert TOLD.keys() == messages._SENTENCES.keys()
    for event, told in TOLD.items():
        yield f"`{event}`", inferred_events._SEVERITIES.get(event, Severity.DEBUG).name, told


def metric_rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Each metric that is counted from events: name, scope, instrument, unit, attributes with their values."""
    for row in TABLE:
        values = "; ".join(
            f"`{name}`: {', '.join(of) if len(of) <= 8 else 'every event name'}" for name, of in row.dimensions
        )
        yield f"`{row.name}`", row.scope.value, row.kind.value, f"`{row.unit}`", values
