"""A worker's spans joined to the agent's: by a link, or below the agent's span where that is asked for.

What always holds:

- Nothing is joined unless the agent was told to hand its context on, or the user set ``TRACEPARENT``; then every call
  does nothing and has no links. It needs OpenTelemetry's API only, and never raises.
- The user's ``TRACEPARENT`` comes before the agent's: where there can be only one, it is the user's.

Facts: nothing in the SDK reads ``TRACEPARENT``; made a parent, its sampled flag makes ``parentbased_*`` samplers keep
every span of the worker (opentelemetry-sdk 1.45), and all of them fall into one trace of a run that lasts for days.
Therefore links are the default.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from torchelastic_otel.environment_variables import TRACEPARENT, TRACESTATE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanContext

_SOURCES: Final = (("TRACEPARENT", "TRACESTATE"), (TRACEPARENT, TRACESTATE))


class WorkerContext:
    """What :func:`attach_context` has joined; as a context manager it ends the joining at the end of the block.

    Attributes:
        links: For ``start_span(..., links=context.links)``: the user's span and the agent's, as far as they are known
            and not the parent; empty where there is nothing to link to.
    """

    __slots__ = ("_token", "links")

    def __init__(self, links: tuple[Link, ...] = (), token: Any = None) -> None:
        self.links = links
        self._token = token

    def detach(self) -> None:
        """Make current what was current before; again does nothing."""
        token, self._token = self._token, None
        if token is not None:
            from opentelemetry import context

            from torchelastic_otel.guard import guard

            with guard:
                context.detach(token)

    def __enter__(self) -> WorkerContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def attach_context(*, as_parent: bool = False) -> WorkerContext:
    """Join this worker's spans to the agent's.

    A span that is current gets the links at once; give ``links`` to those that are started later::

        with torchelastic_otel.attach_context() as context:
            with tracer.start_as_current_span("epoch", links=context.links):
                ...

    Args:
        as_parent: Make the agent's span (the user's, where ``TRACEPARENT`` is set) the parent of spans that are
            started in the block, or from here on where it is used without ``with``. Its sampling decision then holds
            for them.
    """
    if not any(os.environ.get(variable) for variable, _ in _SOURCES):
        return WorkerContext()
    from torchelastic_otel.guard import guard

    with guard:
        return _attach(os.environ, as_parent)
    return WorkerContext()


def _attach(environ: Mapping[str, str], as_parent: bool) -> WorkerContext:
    from opentelemetry import context, trace
    from opentelemetry.trace import Link, NonRecordingSpan

    from torchelastic_otel import semconv

    known = [known for known in (_span_context(environ, *source) for source in _SOURCES) if known is not None]
    run_id = environ.get("TORCHELASTIC_RUN_ID")
    token, attributes = None, {semconv.RUN_ID: run_id} if run_id else {}
    if known and as_parent:
        parent: Context = trace.set_span_in_context(NonRecordingSpan(known.pop(0)))
        token = context.attach(parent)
    links = tuple(Link(linked, attributes) for linked in known)
    if not as_parent:
        current = trace.get_current_span()
        for link in links:
            current.add_link(link.context, attributes)
    return WorkerContext(links, token)


def _span_context(environ: Mapping[str, str], parent: str, state: str) -> SpanContext | None:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": environ.get(parent, ""), "tracestate": environ.get(state, "")}
    # an empty context: what is current here is not what the environment says
    found = trace.get_current_span(TraceContextTextMapPropagator().extract(carrier, Context())).get_span_context()
    return found if found.is_valid else None
