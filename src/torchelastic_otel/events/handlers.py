"""The handlers of the drop-in's destinations.

Guarantees:

- Until a handler is bound, the destinations and their handlers are torch's (1.13 to 2.15): ``console`` writes
  to standard error, ``dynamic_rendezvous`` and ``null`` drop what they get.
- :func:`bind` and :func:`unbind` have the guarantees of ``torchelastic_otel.events.handler_registry``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from torchelastic_otel.errors import UnknownDestinationError
from torchelastic_otel.events.handler_registry import HandlerRegistry

_log_handlers: dict[str, logging.Handler] = {
    "console": logging.StreamHandler(),
    "dynamic_rendezvous": logging.NullHandler(),
    "null": logging.NullHandler(),
}


_resolve: Callable[[str], object] | None = None
"""An installation's: binds a known destination that is not bound yet, or raises ``UnknownDestinationError``."""


def get_logging_handler(destination: str = "null") -> logging.Handler:
    """The handler that takes this destination's events.

    Raises:
        UnknownDestinationError: There is none of that name (torch raises a bare ``KeyError``).
    """
    if destination not in _log_handlers and _resolve is not None:
        _resolve(destination)
    try:
        return _log_handlers[destination]
    except KeyError:
        raise UnknownDestinationError(destination, _log_handlers) from None


def resolve_with(resolve: Callable[[str], object] | None) -> None:
    """Set the function that resolves destinations that are not bound yet; ``None`` for no function."""
    global _resolve
    _resolve = resolve


def bound() -> tuple[str, ...]:
    """The destinations that are bound by :func:`bind`."""
    return _bindings.destinations


def _loggers() -> dict[str, logging.Logger]:
    # late, and by name: as in torch, the cache is in the package that imports this module
    from torchelastic_otel import events

    return events._events_loggers


def _logger_of(destination: str) -> logging.Logger:
    from torchelastic_otel import events

    return events._logger_of(destination)


_bindings = HandlerRegistry(_log_handlers, _loggers, _logger_of)
bind = _bindings.bind
unbind = _bindings.unbind
