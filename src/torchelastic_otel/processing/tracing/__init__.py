"""The trace of one agent: ``reduce`` derives spans and events from its events."""

from torchelastic_otel.processing.tracing.reducer import Derived, finish_orphaned, reduce
from torchelastic_otel.processing.tracing.state import TraceState

__all__ = ["Derived", "TraceState", "finish_orphaned", "reduce"]
