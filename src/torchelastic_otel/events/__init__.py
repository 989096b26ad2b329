"""A drop-in for ``torch.distributed.elastic.events``: one changed import is enough.

Guarantees:

- Names, signatures, defaults and behaviour are torch's (2.15; the package is unchanged since 2.4), and functions of
  this module are looked up by name at each call, so that a test may patch them.
- Torch is never imported. Its events are accepted, and so are its ``NodeState`` and ``EventSource``.
- ``null`` and ``dynamic_rendezvous`` drop their events until a handler is bound to them.

Better than torch: the error for an unknown destination lists the known ones
(:class:`~torchelastic_otel.UnknownDestinationError`), and the recording function's name is looked up
in its frame instead of walking the whole stack with ``inspect.stack()``.

Example:
    >>> from torchelastic_otel import events
    >>> saved = events.Event(name="checkpoint_saved", source=events.EventSource.WORKER, metadata={"step": 7})
    >>> events.record(saved, destination="console")  # one line of JSON on standard error
    >>> events.record(saved)  # to "null": nowhere, unless it was bound
"""

import logging
import os
import socket
import traceback

from torchelastic_otel.events import caller
from torchelastic_otel.events.handlers import get_logging_handler

from .api import Event, EventMetadataValue, EventSource, NodeState, RdzvEvent

__all__ = [
    "Event",
    "EventMetadataValue",
    "EventSource",
    "NodeState",
    "RdzvEvent",
    "construct_and_record_rdzv_event",
    "get_logging_handler",
    "record",
    "record_rdzv_event",
]

_events_loggers: dict[str, logging.Logger] = {}


def _logger_of(destination: str) -> logging.Logger:
    # Not torch's "torchelastic-events-...": if both packages are loaded they would share one logger, each would
    # add its handler, and every event would be recorded twice.
    return logging.getLogger(f"torchelastic_otel-events-{destination}")


def _get_or_create_logger(destination: str = "null") -> logging.Logger:
    """The logger of a destination, created with the destination's handler at its first use.

    It does not propagate, so that an event is handled once; its level is ``LOGLEVEL`` of the environment, by default
    INFO, unless the destination is bound.

    Raises:
        UnknownDestinationError: There is no destination of this name.
        ValueError: ``LOGLEVEL`` is no level of :mod:`logging`.
    """
    if destination not in _events_loggers:
        handler = get_logging_handler(destination)
        logger = _logger_of(destination)
        logger.setLevel(os.environ.get("LOGLEVEL", "INFO"))
        logger.propagate = False
        logger.addHandler(handler)
        _events_loggers[destination] = logger
    return _events_loggers[destination]


def record(event: Event, destination: str = "null") -> None:
    """Record an event to a destination.

    Args:
        event: The event, of this package or torch's: anything with ``serialize()``.
        destination: The destination's name.

    Raises:
        UnknownDestinationError: There is no destination of this name.
    """
    _get_or_create_logger(destination).info(event.serialize())


def record_rdzv_event(event: RdzvEvent) -> None:
    """Record a rendezvous event, of this package or torch's, to the destination ``dynamic_rendezvous``."""
    _get_or_create_logger("dynamic_rendezvous").info(event.serialize())


def construct_and_record_rdzv_event(
    run_id: str,
    message: str,
    node_state: NodeState,
    name: str = "",
    hostname: str = "",
    pid: int | None = None,
    master_endpoint: str = "",
    local_id: int | None = None,
    rank: int | None = None,
) -> None:
    """Create a rendezvous event and record it; returns at once if ``dynamic_rendezvous`` drops its events.

    Args:
        run_id: The rendezvous' run id.
        message: What happened.
        node_state: The node's state, of this package or torch's. FAILED adds the traceback of the exception that is
            being handled.
        name: The event's name after the calling file's name and a colon; by default the calling function's name.
        hostname: The node's host; by default ``socket.getfqdn()``, which may query the DNS.
        pid: The node's process id; by default this process's.
        master_endpoint: The rendezvous store's endpoint, if known.
        local_id: The node's number within its process, if it has one.
        rank: The node's rank, if known.

    Example:
        A wrapper that records for its callers, with their names:

        >>> from torchelastic_otel.events import NodeState, construct_and_record_rdzv_event
        >>> from torchelastic_otel.events.caller import method_name
        >>> class Handler:
        ...     def _record(self, message: str, node_state: NodeState = NodeState.RUNNING) -> None:
        ...         construct_and_record_rdzv_event(
        ...             name=f"{type(self).__name__}.{method_name()}",
        ...             run_id="my_run",
        ...             message=message,
        ...             node_state=node_state,
        ...         )
        ...
        ...     def join(self) -> None:
        ...         self._record("joins")  # its name ends in ":Handler.join"
        >>> Handler().join()
    """
    # first: a job without a destination pays for this only
    if isinstance(get_logging_handler("dynamic_rendezvous"), logging.NullHandler):
        return

    filename, function = caller.caller()
    record_rdzv_event(
        RdzvEvent(
            name=f"{filename}:{name or function}",
            run_id=run_id,
            message=message,
            hostname=hostname or socket.getfqdn(),
            pid=pid or os.getpid(),
            node_state=node_state,
            master_endpoint=master_endpoint,
            rank=rank,
            local_id=local_id,
            error_trace=traceback.format_exc() if node_state == NodeState.FAILED else "",
        )
    )
