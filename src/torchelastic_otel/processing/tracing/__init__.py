"""One agent's own story as it goes on; ``narrate`` is the way in."""

from torchelastic_otel.processing.tracing.reducer import Told, end_of_the_dead, narrate
from torchelastic_otel.processing.tracing.state import Narrative

__all__ = ["Narrative", "Told", "end_of_the_dead", "narrate"]
