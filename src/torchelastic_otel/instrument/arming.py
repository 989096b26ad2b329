"""The light part of what touches torch: waits until this process turns out to be an agent.

Guarantees: importing this costs a worker well under a millisecond (no dataclass, no logging handler, no
torch), and a process without a rendezvous gets one wrapper and nothing else.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from torchelastic_otel.errors import IncompatibleTorchError
from torchelastic_otel.guard import guard

TORCH_ELASTIC: Final = "torch.distributed.elastic"
VENDORED_COPIES: Final = ("nvidia_resiliency_ext.fault_tolerance._torch_elastic_compat",)
"""Copies of torch's package, in launchers that bring their own (NVRx 0.4, ``ft_launcher``)."""
ELASTIC_PACKAGES: Final = (TORCH_ELASTIC, *VENDORED_COPIES)
_MISSING: Final = object()


class Patches:
    """The replaced attributes and their previous values."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, object, object]] = []

    def put(self, owner: Any, name: str, value: object) -> None:
        """Replace an attribute of a module or a class."""
        self._replaced.append((owner, name, vars(owner).get(name, _MISSING), value))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Restore everything, last first, except for what other code has replaced since then."""
        while self._replaced:
            owner, name, before, value = self._replaced.pop()
            if vars(owner).get(name) is not value:
                continue
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


def loaded() -> tuple[str, ...]:
    """Those of :data:`ELASTIC_PACKAGES` whose rendezvous is imported."""
    return tuple(elastic for elastic in ELASTIC_PACKAGES if elastic + ".rendezvous.api" in sys.modules)


def at_first_rendezvous(
    arm: Callable[[], Callable[[str], object] | None],
    elastic: str = TORCH_ELASTIC,
    refused: Callable[[], object] = lambda: None,
) -> Callable[[], None]:
    """Call ``arm`` whenever this process is about to create a rendezvous, which makes it an agent.

    Workers that load the entry point get this one wrapper and nothing else (torch 2.8 and newer load it with
    ``torch.distributed.checkpoint``). Torch may be half imported at this time, so nothing else is touched.

    Args:
        arm: Returns a function that raises for an unknown event handler; ``None`` for no check.
        elastic: One of :data:`ELASTIC_PACKAGES`.
        refused: Called if the rendezvous cannot be created; the process is about to end.

    Returns:
        Removes the wrapper.

    Raises:
        IncompatibleTorchError: This torch has no registry to wrap.
    """
    registry = of_type(module(elastic + ".rendezvous.api"), "RendezvousHandlerRegistry", type)
    original = registry.create_handler
    takes(original, "params")

    def create_handler(self: Any, params: Any) -> Any:
        check = None
        with guard:
            check = arm()
        if check is not None:
            check_unless_torch_knows(_event_handler_of_launch(), check, elastic)
        try:
            return original(self, params)
        except BaseException:
            with guard:
                refused()
            raise

    create_handler.__wrapped__ = original  # type: ignore[attr-defined]
    patches = Patches()
    patches.put(registry, "create_handler", create_handler)
    return patches.undo


def _event_handler_of_launch() -> str | None:
    """The name of the event handler in the configuration of ``launch_agent``.

    It creates the rendezvous, which hosts the store, before the agent (torch 2.8 to 2.15): until then the name is only
    in its frame.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "launch_agent":
        frame = frame.f_back
    return None if frame is None else getattr(frame.f_locals.get("config"), "event_log_handler", None)


def check_unless_torch_knows(name: str | None, check: Callable[[str], object], elastic: str = TORCH_ELASTIC) -> None:
    """Raise for an event handler that neither ``check`` nor torch's own registry knows."""
    # a program may have put a handler of its own into torch's registry
    known = getattr(sys.modules.get(elastic + ".events.handlers"), "_log_handlers", {})
    if name is not None and name not in known:
        check(name)


def module(name: str) -> Any:
    """One of torch's modules; ``ImportError`` if this torch has none of that name."""
    return importlib.import_module(name)


def of_type(owner: Any, name: str, kind: type) -> Any:
    """An attribute of the given type; otherwise raises :class:`IncompatibleTorchError`."""
    value = getattr(owner, name, None)
    if not isinstance(value, kind):
        raise IncompatibleTorchError(f"{owner.__name__}.{name} is no {kind.__name__}")
    return value


def takes(function: Callable[..., Any], *parameters: str) -> None:
    """Raise :class:`IncompatibleTorchError` if the function does not take these parameters."""
    missing = set(parameters) - inspect.signature(function).parameters.keys()
    if missing:
        raise IncompatibleTorchError(f"{function.__qualname__} takes no {', '.join(sorted(missing))}")
