"""Makes spans joined to its agent's, and tells what they are joined to.

Arguments: the file to tell it to, and the file that it waits for in its first attempt, which then fails.
"""

import json
import os
import sys
import time

from opentelemetry.sdk.trace import TracerProvider

from torchelastic_otel import attach_context

if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    agent, end = os.getppid(), time.monotonic() + 600
    while time.monotonic() < end and os.getppid() == agent and not os.path.exists(sys.argv[2]):
        time.sleep(0.02)
    raise SystemExit("the first attempt fails")
tracer = TracerProvider().get_tracer("worker")


def said(span):
    """The trace and the span that it is below of, and those that it has links to."""
    links = [(format(link.context.trace_id, "032x"), format(link.context.span_id, "016x")) for link in span.links]
    parent = span.parent and (format(span.parent.trace_id, "032x"), format(span.parent.span_id, "016x"))
    return {"parent": parent, "links": links}


with attach_context() as context, tracer.start_as_current_span("epoch", links=context.links) as linked:
    pass
with attach_context(as_parent=True) as context, tracer.start_as_current_span("epoch", links=context.links) as below:
    pass
with open(f"{sys.argv[1]}.tmp", "w") as file:
    json.dump({"linked": said(linked), "below": said(below)}, file)
os.replace(f"{sys.argv[1]}.tmp", sys.argv[1])
