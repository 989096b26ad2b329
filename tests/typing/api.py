"""Never run, only type-checked: the public names as a user's type checker sees them."""

from __future__ import annotations

import torchelastic_otel
from torchelastic_otel import (
    ElasticEvent,
    Installation,
    Settings,
    Status,
    TorchelasticOtelError,
    UnknownDestinationError,
)
from torchelastic_otel.events import Event, EventSource, NodeState, RdzvEvent, record, record_rdzv_event


def redact(event: ElasticEvent) -> ElasticEvent:
    """A redaction hook."""
    return event


installation: Installation = torchelastic_otel.install(
    "otlp", "file", redact=redact, settings=Settings(spool_max_bytes=1 << 24)
)
status: Status = installation.status
torchelastic_otel.register_destination("mine", "otlp_proto_http")
delivered: bool = torchelastic_otel.flush(timeout_s=2.0)
record(Event(name="checkpoint", source=EventSource.WORKER, metadata={"step": 5}), destination="mine")
record_rdzv_event(RdzvEvent("name", "run", "message", "host", 1, NodeState.RUNNING))
torchelastic_otel.unregister_destination("mine")
torchelastic_otel.training_started()
with torchelastic_otel.attach_context(as_parent=True) as context:
    linked: int = len(context.links)
torchelastic_otel.uninstall()
error: type[KeyError] = UnknownDestinationError
base: type[TorchelasticOtelError] = UnknownDestinationError
