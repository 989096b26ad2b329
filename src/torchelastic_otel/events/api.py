"""The events, as in ``torch.distributed.elastic.events.api`` (torch 1.13 to 2.15).

Guarantees:

- Fields, their order and their defaults are torch's, and so is every byte of :meth:`Event.serialize` and
  :meth:`RdzvEvent.serialize`: what one writes, the other reads.
- The enums are strings: a member equals its value, and torch's member of the same name.
- Nothing here imports torch. Its objects are recognised by their ``serialize()``.

Annotations are evaluated, as in torch's module, for callers that inspect them.
"""

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Union

__all__ = ["Event", "EventSource", "NodeState", "RdzvEvent"]

EventMetadataValue = str | int | float | bool | None
"""The type of a value of :attr:`Event.metadata`."""


class EventSource(str, Enum):
    """Who recorded the event."""

    AGENT = "AGENT"
    WORKER = "WORKER"


class NodeState(str, Enum):
    """The state of a node in the rendezvous."""

    INIT = "INIT"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


def _fields_of(data: object) -> dict[str, Any]:
    """The fields of a JSON line, or of another package's event."""
    if not isinstance(data, str):
        serialize = getattr(data, "serialize", None)
        if not callable(serialize):
            raise TypeError(
                f"cannot read an event from {type(data).__name__} {data!r:.80}; "
                "give the JSON text that serialize() wrote, or an event"
            )
        data = serialize()
    fields: dict[str, Any] = json.loads(data)  # type: ignore[arg-type]  # a foreign serialize() has no type
    return fields


@dataclass
class Event:
    """Something that happened to an agent or a worker.

    Attributes:
        name: What happened; torch's agents record ``torchelastic.worker.status.<STATE>``.
        source: Who recorded it.
        timestamp: When it happened, in milliseconds since the epoch. Torch itself leaves it at 0
            (1.13 to 2.15): the log record's ``created`` is the time.
        metadata: Further details.
    """

    name: str
    source: EventSource
    timestamp: int = 0
    metadata: dict[str, EventMetadataValue] = field(default_factory=dict)

    def __str__(self) -> str:
        """The same as :meth:`serialize`."""
        return self.serialize()

    @staticmethod
    def deserialize(data: Union[str, "Event"]) -> "Event":
        """The event that :meth:`serialize` wrote, of this class or of torch's class.

        Args:
            data: The JSON text. An event of this class is returned as it is, one of torch's is converted.

        Raises:
            json.JSONDecodeError: The text is not JSON.
            KeyError: The source is missing, or not in :class:`EventSource`.
            TypeError: A field is missing or unknown, or ``data`` is neither text nor an event.
        """
        if isinstance(data, Event):
            return data
        fields = _fields_of(data)
        fields["source"] = EventSource[fields["source"]]
        return Event(**fields)

    def serialize(self) -> str:
        """The event as one line of JSON, its fields in order.

        Raises:
            TypeError: A value of ``metadata`` has no JSON form.
        """
        return json.dumps(asdict(self))


@dataclass
class RdzvEvent:
    """Something that happened to a node in the rendezvous.

    Attributes:
        name: Where it was recorded: the file, a colon, and the function, or a name that the caller gave.
        run_id: The rendezvous' run id.
        message: What happened, for a person to read.
        hostname: The node's host.
        pid: The node's process id.
        node_state: The node's state.
        master_endpoint: The rendezvous store's endpoint; empty if unknown.
        rank: The node's rank; ``None`` if unknown.
        local_id: The node's number within its process; ``None`` outside of dynamic rendezvous.
        error_trace: The traceback of the exception that was being handled; empty unless the state is FAILED.
    """

    name: str
    run_id: str
    message: str
    hostname: str
    pid: int
    node_state: NodeState
    master_endpoint: str = ""
    rank: int | None = None
    local_id: int | None = None
    error_trace: str = ""

    def __str__(self) -> str:
        """The same as :meth:`serialize`."""
        return self.serialize()

    @staticmethod
    def deserialize(data: Union[str, "RdzvEvent"]) -> "RdzvEvent":
        """The event that :meth:`serialize` wrote, of this class or of torch's class.

        Args:
            data: The JSON text. An event of this class is returned as it is, one of torch's is converted.

        Raises:
            json.JSONDecodeError: The text is not JSON.
            KeyError: The node state is missing, or not in :class:`NodeState`.
            TypeError: A field is missing or unknown, or ``data`` is neither text nor an event.
        """
        if isinstance(data, RdzvEvent):
            return data
        fields = _fields_of(data)
        fields["node_state"] = NodeState[fields["node_state"]]
        return RdzvEvent(**fields)

    def serialize(self) -> str:
        """The event as one line of JSON, its fields in order."""
        return json.dumps(asdict(self))
