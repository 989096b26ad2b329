"""``attach_context()``: connects a worker's spans with the agent's, by a link or, on request, as its children.

Guarantees:

- Unless the agent passes its context to workers, or the user set ``TRACEPARENT``, every call does nothing and has no
  links. It needs OpenTelemetry's API only, and never raises.
- The user's ``TRACEPARENT`` takes precedence over the agent's.

Facts: nothing in the SDK reads ``TRACEPARENT``. As a parent, its sampled flag makes ``parentbased_*`` samplers record
every span of the worker (opentelemetry-sdk 1.45), and all of them belong to one trace of a run that lasts for days.
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
    """The attached context; as a context manager it detaches at the end of the block.

    Attributes:
        links: For ``start_span(..., links=context.links)``: the user's span and the agent's, as far as they are known
            and not the parent.
    """

    __slots__ = ("_token", "links")

    def __init__(self, links: tuple[Link, ...] = (), token: Any = None) -> None:
        self.links = links
        self._token = token

    def detach(self) -> None:
        """Restore the previous context; a second call does nothing."""
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
    """Connect this worker's spans with the agent's.

    The current span gets the links at once; pass ``links`` to spans that are started later::

        with torchelastic_otel.attach_context() as context:
            with tracer.start_as_current_span("epoch", links=context.links):
                ...

    Args:
        as_parent: Make the agent's span (the user's, if ``TRACEPARENT`` is set) the parent of spans that are started in
            the block, or from now on without ``with``. Its sampling decision then applies to them.
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
    # an empty context: the current span is not the one of the environment
    found = trace.get_current_span(TraceContextTextMapPropagator().extract(carrier, Context())).get_span_context()
    return found if found.is_valid else None
