"""A worker's failure, of the events that tell of it."""

from __future__ import annotations

from dataclasses import replace

from torchelastic_otel import semconv
from torchelastic_otel.history.agents import Agent
from torchelastic_otel.history.attributes import number_of, seconds_of, text_of
from torchelastic_otel.history.types import Failure
from torchelastic_otel.model.event import ElasticEvent


def failure_of(event: ElasticEvent, agent: Agent, group_rank: int | None, before: Failure | None) -> Failure:
    """The failure that an event tells of.

    Args:
        event: Ours when it was seen, or torch's at the end of the job.
        agent: Whose worker it was.
        group_rank: The node's rank in the round.
        before: The same failure as another event told it.
    """
    of = event.attributes
    ours = of.get(semconv.INFERRED) is True
    signal = text_of(event, semconv.WORKER_SIGNAL)
    raised = semconv.EXCEPTION_TYPE in of or semconv.EXCEPTION_MESSAGE in of
    told = Failure(
        kind=text_of(event, semconv.FAILURE_KIND) or ("exception" if raised else "signal" if signal else "exit"),
        host=agent.origin.host_name,
        node_id=agent.node_id,
        group_rank=group_rank,
        rank=number_of(event, semconv.WORKER_RANK),
        local_rank=number_of(event, semconv.WORKER_LOCAL_RANK),
        pid=number_of(event, semconv.WORKER_PID),
        exit_code=number_of(event, semconv.PROCESS_EXIT_CODE),
        signal=signal,
        error_type=text_of(event, semconv.ERROR_TYPE),
        message=text_of(event, semconv.EXCEPTION_MESSAGE),
        traceback=text_of(event, semconv.EXCEPTION_STACKTRACE),
        at_ns=event.time_ns,
        error_ns=(seconds_of(event, semconv.FAILURE_TIME_ERROR) or 0) if ours else None,
        inferred_from=(text_of(event, semconv.INFERRED_FROM) or "hook") if ours else "torch",
        ambiguous=of.get(semconv.FAILURE_AMBIGUOUS) is True,
    )
    if before is None:
        return told
    first, second = (told, before) if ours else (before, told)
    missing = {name: getattr(second, name) for name in Failure.__slots__ if getattr(first, name) is None}
    missing.pop("error_ns", None)
    return replace(first, **missing)
