"""The rows of the tables of events and metrics in docs/reference, from the code."""

from collections.abc import Iterator

from torchelastic_otel import semconv
from torchelastic_otel.model.event import Severity
from torchelastic_otel.processing.metrics.catalogue import METRICS
from torchelastic_otel.torch_events import inferred_events, messages, parser, rendezvous_messages


def rows() -> Iterator[tuple[str, str, str]]:
    """The events of torch: where torch emits it, the event's name, its severity."""
    seen: set[str] = set()
    for pattern in rendezvous_messages.PATTERNS:
        if pattern.event not in seen:
            seen.add(pattern.event)
            yield f"rendezvous, `{pattern.where}`", *_named(pattern.event)
    yield "rendezvous, a call raised: `T: text`", *_named(semconv.RENDEZVOUS_FAILED)
    yield "rendezvous, any other text", *_named(semconv.RENDEZVOUS_MESSAGE)
    for (source, state), event in parser._STATES.items():
        yield f"{source} {state}", *_named(event)
    for text, event in parser._WATCHDOG.items():
        yield f"watchdog, `{text}`", *_named(event)
    yield "any other event, or text", *_named(semconv.UNKNOWN_EVENT)


def _named(event: str) -> tuple[str, str]:
    return f"`{event}`", parser._SEVERITIES.get(event, Severity.INFO).name


MEANINGS = {
    semconv.AGENT_STARTED: "an agent was created, with its configuration",
    semconv.RUN_IDENTIFIED: "the nonce that distinguishes this run from others with its id; whether all agents have it",
    semconv.AGENT_PHASE_ENTERED: "the agent entered a phase; the duration of the phase before it",
    semconv.AGENT_LOST: "a node's heartbeats have stopped: the node is lost",
    semconv.AGENT_SILENT: "a node's heartbeats have stopped, but it may be well: it is in its exit barrier, or the"
    " observing agent's own heartbeats have stopped, too",
    semconv.AGENT_LEAVING: "the agent received a signal that ends it",
    semconv.WORKER_FAILED: "a worker failed (`torchelastic.inferred`); emitted before torch restarts the workers",
    semconv.WORKER_EXITED: "a worker's process ended, for any reason",
    semconv.TRAINING_STARTED: "a worker called `training_started()`",
    semconv.RESTART_STARTED: "this agent begins to restart its workers",
    semconv.RESTART_CAUSE_AGREED: "the cause of the end of the round before, as agreed by all agents",
    semconv.RESTART_COMPLETED: "the workers run again: reason, cause, and duration of each phase",
    semconv.MEMBERSHIP_CHANGED: "nodes joined, left or were lost between two rounds; emitted by one agent",
    semconv.RENDEZVOUS_WAITING: "a rendezvous waits: the nodes that are present, how many are missing, and which",
    semconv.ROUND_STARTED: "the workers of all nodes run; emitted by the job reporter",
}


def inferred_rows() -> Iterator[tuple[str, str, str]]:
    """The inferred events: the event's name, its severity, its meaning."""
    assert MEANINGS.keys() == messages._MESSAGES.keys()
    for event, meaning in MEANINGS.items():
        yield f"`{event}`", inferred_events._SEVERITIES.get(event, Severity.DEBUG).name, meaning


def metric_rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Each metric that is counted from events: name, scope, instrument, unit, attributes with their values."""
    for row in METRICS:
        values = "; ".join(
            f"`{name}`: {', '.join(of) if len(of) <= 8 else 'every event name'}" for name, of in row.dimensions
        )
        yield f"`{row.name}`", row.scope.value, row.kind.value, f"`{row.unit}`", values
