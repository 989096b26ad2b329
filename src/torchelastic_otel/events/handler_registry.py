"""Handlers bound to event destinations, in torch's registry of handlers or in the drop-in's, of the same shape.

The shape (``torch.distributed.elastic.events``, 1.13 to 2.15): a dict from destination to handler, and a cache
from destination to the logger that was created with its first handler. Changing the dict alone does not affect cached
loggers.

Guarantees:

- :meth:`HandlerRegistry.bind` works at any time, also after a destination's logger has been cached.
- A bound handler is not silenced by ``LOGLEVEL``.
- :meth:`HandlerRegistry.unbind` restores what the first bind found; handlers that other code added stay.
- A logger's handlers are replaced by one assignment: a concurrent ``record`` sees the old ones or the new.

Not guaranteed: a bind and a first ``record`` that race for the same destination under a ``LOGLEVEL`` above INFO.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Saved:
    """What the first bind of a destination found, for unbind to restore."""

    entry: logging.Handler | None
    cached: logging.Logger | None
    logger: logging.Logger
    handlers: tuple[logging.Handler, ...]
    level: int
    propagate: bool
    disabled: bool


class HandlerRegistry:
    """The bound handlers of one registry.

    Args:
        entries: The registry: destination to handler (``events.handlers._log_handlers``).
        cache: The cached loggers (``events._events_loggers``).
        logger_of: The logger of a destination, created without a handler if it does not exist.
    """

    def __init__(
        self,
        entries: dict[str, logging.Handler],
        cache: Callable[[], dict[str, logging.Logger]],
        logger_of: Callable[[str], logging.Logger],
    ) -> None:
        self._entries = entries
        self._cache = cache
        self._logger_of = logger_of
        self._saved: dict[str, _Saved] = {}

    @property
    def destinations(self) -> tuple[str, ...]:
        """The bound destinations."""
        return tuple(self._saved)

    def bind(self, destination: str, handler: logging.Handler) -> None:
        """Let this handler take the destination's events, in place of the destination's own handler.

        The logger's level becomes INFO. A second bind replaces the first one's handler.

        Args:
            destination: A known name, or a new one, which is then known.
            handler: Takes the events as log records whose message is the event's JSON.
        """
        cache = self._cache()
        logger = cache.get(destination) or self._logger_of(destination)
        old = self._entries.get(destination)
        if destination not in self._saved:
            self._saved[destination] = _Saved(
                entry=old,
                cached=cache.get(destination),
                logger=logger,
                handlers=tuple(logger.handlers),
                level=logger.level,
                propagate=logger.propagate,
                disabled=logger.disabled,
            )
        self._entries[destination] = handler
        logger.handlers = [*(each for each in logger.handlers if each is not old and each is not handler), handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.disabled = False
        cache[destination] = logger

    def unbind(self, destination: str) -> None:
        """Restore the destination to its state before the first bind; does nothing if it is not bound."""
        before = self._saved.pop(destination, None)
        if before is None:
            return
        bound = self._entries.get(destination)
        if before.entry is not None:
            self._entries[destination] = before.entry
        else:
            self._entries.pop(destination, None)
        logger = before.logger
        added = [each for each in logger.handlers if each is not bound and each not in before.handlers]
        logger.handlers = [*before.handlers, *added]
        logger.setLevel(before.level)
        logger.propagate = before.propagate
        logger.disabled = before.disabled
        cache = self._cache()
        if before.cached is None:
            cache.pop(destination, None)
        else:
            cache[destination] = before.cached
