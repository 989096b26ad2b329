"""What differs between the signals on their way through an exporter; everything else is the same for all three.

What always holds: a projection is pure; importing this module loads no protobuf, no exporter and no transport.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Generic, TypeVar

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from torchelastic_otel import semconv
from torchelastic_otel.model.metric import Kind
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.version import __version__

SCOPE: Final = InstrumentationScope(semconv.SCOPE_NAME, __version__, semconv.SCHEMA_URL)

Batch = TypeVar("Batch", contravariant=True)


class Projection(ABC, Generic[Batch]):
    """From what the pipeline sends to what an exporter of one signal takes, and what its receiver answers.

    Attributes:
        signal: The signal.
        rejected_field: Where a partial success says how many it rejected (OTLP specification, "Partial Success").
        deltas: Instruments of which differences are sent; metrics only.
    """

    signal: ClassVar[Signal]
    rejected_field: ClassVar[str]
    deltas: frozenset[Kind] = frozenset()

    @abstractmethod
    def data(self, batch: Batch) -> Any:
        """What the exporter's ``export()`` takes.

        Raises:
            ValueError: The batch holds what cannot be told.
        """

    @property
    @abstractmethod
    def nothing(self) -> Any:
        """An empty batch, as ``export()`` takes it."""

    @abstractmethod
    def encoded(self, data: Any) -> Any:
        """The OTLP request of what ``export()`` takes; raises whatever OpenTelemetry's encoder raises."""

    @abstractmethod
    def response(self) -> Any:
        """An empty OTLP response (protobuf) of this signal."""

    def rejected(self, response: Any) -> int:
        """How many the receiver says it did not take."""
        return max(0, int(getattr(response.partial_success, self.rejected_field)))


def fixed64(time_ns: int | None) -> int | None:
    """The time as OTLP can say it; a replayed one may be anything."""
    return time_ns if time_ns is not None and 0 < time_ns < 1 << 64 else None


def encodable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes, an integer that does not fit OTLP's 64 bits as text; one such would refuse its whole batch."""
    return {
        key: str(value) if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63 else value
        for key, value in attributes.items()
    }
