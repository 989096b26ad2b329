"""How an agent ended, from its own words and from what became of its workers.

Torch's own words are no outcome: AGENT SUCCEEDED only says that ``run`` returned, also where the workers failed for
good, and where a worker hung in uninterruptible sleep, in which case its workers are TERMINATED and nothing says
FAILED (1.13 to 2.15).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torchelastic_otel import semconv
from torchelastic_otel.history.agents import Agent
from torchelastic_otel.history.attributes import number_of, text_of
from torchelastic_otel.history.participation import RoundParticipation
from torchelastic_otel.history.types import Outcome
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.phases import Phase

_JOINED: Final = frozenset({semconv.RENDEZVOUS_JOINED, semconv.WORKER_STARTED})
VICTIMS: Final = frozenset({"RendezvousConnectionError", "RendezvousClosedError"})
"""An agent that dies of these has lost the others, and cannot know why."""
SIGNALLED: Final = "SignalException"
LEFT_IN_GOOD_ORDER: Final = "RendezvousGracefulExitError"
_OUTCOMES: Final = {
    "succeeded": Outcome.SUCCEEDED,
    "failed": Outcome.FAILED,
    "terminated": Outcome.TERMINATED,
    "error": Outcome.FAILED,
    "left": Outcome.LEFT,
}


@dataclass(frozen=True, slots=True)
class AgentOutcome:
    """How an agent ended.

    Attributes:
        outcome: ``unknown`` where its events stop without an end.
        at_ns: When.
        error_type: What the agent itself raised.
        message: What that said.
        signal: The signal that told it to stop.
        leaving_ns: When it was told so.
        why_unknown: What is missing to tell the outcome, where it has an end; else empty.
    """

    outcome: Outcome
    at_ns: int | None = None
    error_type: str | None = None
    message: str | None = None
    signal: str | None = None
    leaving_ns: int | None = None
    why_unknown: str = ""

    @property
    def is_victim(self) -> bool:
        """Whether it died of losing the others."""
        return self.error_type in VICTIMS


def agent_outcome(agent: Agent, last: RoundParticipation | None) -> AgentOutcome:
    """How an agent ended.

    Args:
        agent: The agent.
        last: Its part in its last round.
    """
    said = at_ns = error = message = signal = leaving_ns = torchs = None
    workers: set[str] = set()
    beyond = False  # in a later round, or in the exit barrier
    joined = max((i for i, event in enumerate(agent.events) if event.name in _JOINED), default=-1)
    for i, event in enumerate(agent.events):
        if event.name == semconv.AGENT_PHASE_ENTERED and text_of(event, semconv.PHASE) == Phase.ENDED.value:
            said, at_ns = text_of(event, semconv.AGENT_OUTCOME), event.time_ns
            beyond = text_of(event, semconv.PHASE_PREVIOUS) == Phase.EXIT_BARRIER.value
            error, message = _error_of(event, error, message)
        elif event.name == semconv.AGENT_LEAVING:
            signal = text_of(event, semconv.WORKER_SIGNAL) or signal
            leaving_ns = leaving_ns if leaving_ns is not None else event.time_ns
        elif event.name in (semconv.AGENT_FAILED, semconv.AGENT_SUCCEEDED):
            torchs = event.name
            # the round that it ended in, though nothing else of it may be here
            beyond = beyond or (
                last is not None and number_of(event, semconv.RENDEZVOUS_ROUND) not in (None, last.round)
            )
            at_ns = at_ns if said is not None else event.time_ns
            if event.name == semconv.AGENT_FAILED:
                error, message = _error_of(event, error, message)
        elif event.name == semconv.RENDEZVOUS_FAILED and i > joined:
            error, message = _error_of(event, error, message)
            at_ns = at_ns if at_ns is not None else event.time_ns
        elif event.name in (semconv.WORKER_SUCCEEDED, semconv.WORKER_TERMINATED) or (
            event.name == semconv.WORKER_FAILED and event.attributes.get(semconv.INFERRED) is not True
        ):
            workers.add(event.name)
    outcome, why = _outcome(said, torchs, error, workers, None if beyond else last)
    if outcome == Outcome.UNKNOWN and signal is not None:
        outcome = Outcome.TERMINATED
    if outcome == Outcome.SUCCEEDED:
        error = message = None  # what failed was a call of its farewell
    return AgentOutcome(outcome, at_ns, error, message, signal, leaving_ns, why)


def _outcome(
    said: str | None, torchs: str | None, error: str | None, workers: set[str], last: RoundParticipation | None
) -> tuple[Outcome, str]:
    if said in _OUTCOMES and said != "succeeded":
        return _OUTCOMES[said], ""
    if semconv.WORKER_FAILED in workers or semconv.WORKER_TERMINATED in workers:
        return Outcome.FAILED, ""
    if said == "succeeded":
        # a failure that no restart followed is how the agent ended, whatever its run returned; but who has waited
        # for the others in the exit barrier was done
        failed = last is not None and last.failures and last.restarted_ns is None
        return (Outcome.FAILED if failed else Outcome.SUCCEEDED), ""
    if torchs == semconv.AGENT_FAILED or (error is not None and torchs is None):
        if error == SIGNALLED:
            return Outcome.TERMINATED, ""
        return (Outcome.LEFT if error == LEFT_IN_GOOD_ORDER else Outcome.FAILED), ""
    if semconv.WORKER_SUCCEEDED in workers:
        return Outcome.SUCCEEDED, ""
    if torchs == semconv.AGENT_SUCCEEDED:
        if last is not None and last.failures and last.restarted_ns is None:
            return Outcome.FAILED, ""
        return Outcome.UNKNOWN, "what became of the workers is not told"
    return Outcome.UNKNOWN, ""


def _error_of(event: ElasticEvent, error: str | None, message: str | None) -> tuple[str | None, str | None]:
    told = text_of(event, semconv.ERROR_TYPE)
    if told is None:
        return error, message
    return told, text_of(event, semconv.EXCEPTION_MESSAGE) or (message if told == error else None)
