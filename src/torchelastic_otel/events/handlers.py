"""The registry's face for :mod:`logging`: which handler takes a destination's events.

What always holds:

- Until something is bound, the destinations and their handlers are torch's (1.13 to 2.15): ``console`` writes
  to standard error, ``dynamic_rendezvous`` and ``null`` drop what they get.
- :func:`bind` and :func:`unbind` keep what ``torchelastic_otel.bindings`` promises.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

from torchelastic_otel.bindings import Bindings

_log_handlers: dict[str, logging.Handler] = {
    "console": logging.StreamHandler(),
    "dynamic_rendezvous": logging.NullHandler(),
    "null": logging.NullHandler(),
}


class UnknownDestinationError(KeyError):
    """No handler goes by this name. A ``KeyError``, as torch raises, whose ``str()`` is a sentence.

    Attributes:
        destination: The name that was asked for; also ``args[0]``, as in any ``KeyError``.
        known: The names that would have been right, sorted.
    """

    def __init__(self, destination: str, known: Iterable[str] = ()) -> None:
        """Say what was asked for and what is there."""
        super().__init__(destination)
        self.destination = destination
        self.known = tuple(sorted(known))

    def __str__(self) -> str:
        """What was given, what is known and what to do."""
        near = difflib.get_close_matches(str(self.destination), self.known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return (
            f"unknown destination {self.destination!r}; known: {', '.join(self.known)}; "
            f"register it with torchelastic_otel.register_destination(...){hint}"
        )


def get_logging_handler(destination: str = "null") -> logging.Handler:
    """The handler that takes this destination's events.

    Raises:
        UnknownDestinationError: There is none of that name (torch: a bare ``KeyError``).
    """
    try:
        return _log_handlers[destination]
    except KeyError:
        raise UnknownDestinationError(destination, _log_handlers) from None


def _loggers() -> dict[str, logging.Logger]:
    # late, and by name: the cache lives where torch has it, in the package that imports us
    from torchelastic_otel import events

    return events._events_loggers


def _logger_of(destination: str) -> logging.Logger:
    from torchelastic_otel import events

    return events._logger_of(destination)


_bindings = Bindings(_log_handlers, _loggers, _logger_of)
bind = _bindings.bind
unbind = _bindings.unbind
