"""What torch's event functions are at a time, so that a benchmark can switch between torch's own and somebody's.

What always holds: a table is taken of torch's modules alone, whatever was put there; putting a table back restores
every name, dictionary and class attribute that differs between two tables; nothing of whoever changed them is known.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from typing import Any

_ELASTIC = "torch.distributed.elastic."
_MODULES = tuple(
    _ELASTIC + name
    for name in (
        "events",
        "events.api",
        "events.handlers",
        "rendezvous.dynamic_rendezvous",
        "rendezvous.c10d_rendezvous_backend",
    )
)
DESTINATION = "dynamic_rendezvous"

Table = dict[tuple[int, str], tuple[Any, str, Any]]


def take() -> Table:
    """What stands in torch's event and rendezvous modules and their classes now."""
    table: Table = {}
    for owner in _owners():
        for name, value in list(vars(owner).items()):
            if not name.startswith("__"):
                table[id(owner), name] = (owner, name, value)
    return table


def change(before: Table, after: Table) -> list[tuple[Any, str, Any, Any]]:
    """The attributes that differ: owner, name, before, after."""
    return [
        (owner, name, before[key][2], value)
        for key, (owner, name, value) in after.items()
        if key in before and before[key][2] is not value
    ]


class Variant:
    """One way in which torch's rendezvous events are recorded.

    Args:
        name: What it is called in the results.
        attributes: Owner, name and value of what differs between the variants.
        handler: What stands in torch's table of handlers.
        logger: The logger that torch has cached; ``None`` for none.
    """

    def __init__(
        self,
        name: str,
        attributes: Iterable[tuple[Any, str, Any]],
        handler: logging.Handler,
        logger: logging.Logger | None,
    ) -> None:
        self.name = name
        self._attributes = tuple(attributes)
        self._handler = handler
        self._logger = logger

    def use(self) -> None:
        """Put it in place."""
        events = importlib.import_module(_ELASTIC + "events")
        handlers = importlib.import_module(_ELASTIC + "events.handlers")
        for owner, name, value in self._attributes:
            setattr(owner, name, value)
        handlers._log_handlers[DESTINATION] = self._handler
        if self._logger is None:
            events._events_loggers.pop(DESTINATION, None)
        else:
            events._events_loggers[DESTINATION] = self._logger


def logger_with(handler: logging.Handler) -> logging.Logger:
    """A logger as torch makes it for a destination, with this handler."""
    made = logging.Logger(f"torchelastic-events-{DESTINATION}", logging.INFO)
    made.propagate = False
    made.addHandler(handler)
    return made


def current_handler() -> logging.Handler:
    """What stands in torch's table of handlers for rendezvous events."""
    handler: logging.Handler = importlib.import_module(_ELASTIC + "events.handlers")._log_handlers[DESTINATION]
    return handler


def current_logger() -> logging.Logger:
    """The logger that torch uses for rendezvous events, made if need be."""
    logger: logging.Logger = importlib.import_module(_ELASTIC + "events")._get_or_create_logger(DESTINATION)
    return logger


def _owners() -> Iterable[Any]:
    for name in _MODULES:
        module = importlib.import_module(name)
        yield module
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == name:
                yield value
