"""One agent's own story as it goes on; ``narrate`` is the way in."""

from torchelastic_otel.processing.tracing.reducer import Derived, finish_orphaned, reduce
from torchelastic_otel.processing.tracing.state import TraceState

__all__ = ["Derived", "TraceState", "finish_orphaned", "reduce"]
