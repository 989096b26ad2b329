"""An agent's story as its hooks say it, told by the same fold as on the writer thread; seconds since its beginning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.support.observers import moment
from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.phases import Phase
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.processing.enrichment import AgentContext, enrich
from torchelastic_otel.processing.tracing import TraceState, reduce

NONCE = "5" * 32


class Story:
    """One agent; what follows from its events is collected.

    Args:
        agent: Its id.
        run_id: Its run's.
        backend: The rendezvous backend.
        adopted: Whether it is told on by another process at each event, from what the spool keeps.
    """

    def __init__(self, agent: str = "a", run_id: str = "run", backend: str = "c10d", *, adopted: bool = True) -> None:
        self._adopted = adopted
        self.agent, self.run_id, self.backend = agent, run_id, backend
        self.standing, self.narrative = AgentContext(restart_count=0), TraceState()
        self.events: list[ElasticEvent] = []
        self.more: list[ElasticEvent] = []
        self.spans: list[ElasticSpan] = []
        self.stepped_s = 0.0
        """By how much the wall clock was set forth."""

    def say(self, at_s: float, name: str, **attributes: Any) -> ElasticEvent:
        """One event; attributes by their constants' names in semconv, in lower case."""
        told = {getattr(semconv, key.upper()): value for key, value in attributes.items() if value is not None}
        told[semconv.RUN_ID] = self.run_id
        wall_ns, monotonic_ns = moment(at_s + self.stepped_s).wall_ns, moment(at_s).monotonic_ns
        event = ElasticEvent(name, "null", name, wall_ns, wall_ns, monotonic_ns, attributes=told)
        self.standing, event = enrich(self.standing, event)
        return self.tell(event)

    def tell(self, event: ElasticEvent) -> ElasticEvent:
        """Go on with an event; whoever finds the spool could have gone on at any of them."""
        if self._adopted:
            kept = TraceState.from_json(self.narrative.to_json())
            assert kept == self.narrative
            self.narrative = kept
        self.narrative, told = reduce(self.narrative, event)
        self.events.append(told.event)
        self.more += told.events
        self.spans += told.spans
        return told.event

    def begin(self, at_s: float, *, nonce: str | None = NONCE, store: bool = True, hosts: bool = False) -> None:
        """An agent is made, goes to the rendezvous, and learns which run it is in."""
        self.say(at_s, semconv.AGENT_STARTED, agent_id=self.agent, rendezvous_backend=self.backend)
        self.enter(at_s, Phase.RENDEZVOUS)
        if nonce is not None:
            self.identify(at_s, nonce, store=store, hosts=hosts)

    def identify(self, at_s: float, nonce: str = NONCE, *, store: bool = True, hosts: bool = False) -> None:
        """It learns which run it is in."""
        source = "store" if store else "own_view"
        self.say(at_s, semconv.RUN_IDENTIFIED, run_nonce=nonce, inferred_from=source, hosts_store=hosts)

    def enter(self, at_s: float, phase: Phase, **attributes: Any) -> ElasticEvent:
        """It enters a phase."""
        return self.say(at_s, semconv.AGENT_PHASE_ENTERED, phase=phase.value, **attributes)

    def join(self, at_s: float, round_: int, rank: int = 0, size: int = 1) -> None:
        """It has joined a round; a second later it starts its workers, and another one later they run."""
        self.enter(at_s, Phase.ASSIGN_RANKS, rendezvous_round=round_, group_rank=rank, group_world_size=size)
        self.enter(at_s + 1, Phase.START)
        self.enter(at_s + 2, Phase.RUNNING)

    def round_started(self, at_s: float, round_: int, began_s: float, size: int = 1) -> None:
        """It speaks for all, and all nodes' workers run."""
        self.say(
            at_s,
            semconv.ROUND_STARTED,
            rendezvous_round=round_,
            group_world_size=size,
            round_began=moment(began_s).wall_ns,
            round_duration=at_s - began_s,
            writer=True,
        )

    def fail(self, at_s: float, rank: int = 0) -> None:
        """A worker of it fails."""
        self.enter(at_s, Phase.DETECT)
        self.say(
            at_s,
            semconv.WORKER_FAILED,
            inferred=True,
            worker_rank=rank,
            worker_pid=100 + rank,
            failure_role="cause",
            error_type="ValueError",
        )

    def agree(self, at_s: float, round_: int, *, writer: bool = False, reason: str = "worker_failure") -> None:
        """It learns why the job restarted."""
        self.say(
            at_s,
            semconv.RESTART_CAUSE_AGREED,
            rendezvous_round=round_,
            restart_index=round_,
            restart_reason=reason,
            restart_agreed=True,
            writer=writer,
            inferred=True,
        )


def times(spans: Iterable[ElasticSpan]) -> list[tuple[str, float, float]]:
    """Names, beginnings and ends, in seconds since the story's beginning."""
    zero = moment(0).wall_ns
    return [
        (span.name.removeprefix("torchelastic."), (span.start_ns - zero) / 1e9, (span.end_ns - zero) / 1e9)
        for span in spans
    ]


def check(*stories: Story, whole: bool = True) -> None:
    """What holds for the spans of all agents together, whatever happened.

    Args:
        stories: All agents of the job.
        whole: Whether every agent has ended, so that no parent and no linked span may be missing.
    """
    spans = [span for story in stories for span in story.spans]
    ids = [(span.trace_id, span.span_id) for span in spans]
    assert len(set(ids)) == len(ids), "a span is told twice"
    for span in spans:
        assert span.end_ns >= span.start_ns
        assert all(span.start_ns <= event.time_ns for event in span.events)
        if whole:
            assert span.parent_id is None or (span.trace_id, span.parent_id) in ids, f"{span.name} has no parent"
            for link in span.links:
                assert (link.trace_id, link.span_id) in ids, f"{span.name} leads nowhere"
    if whole:
        for event in [event for story in stories for event in (*story.events, *story.more)]:
            assert event.trace_id is None or (event.trace_id, event.span_id) in ids, f"{event.name} is in no span"
