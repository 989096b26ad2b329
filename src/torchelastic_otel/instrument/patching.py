"""Wrapping one of torch's methods, on the class that defines it.

Guarantees:

- A wrapper calls the original exactly once, with its arguments, and returns or raises what the original does.
- The functions around it are guarded; a signal that torch turns into an exception passes.
- A method is wrapped where it is defined, once for all classes that inherit it; the call from a method that overrides
  it is not observed a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from torchelastic_otel.guard import guard
from torchelastic_otel.instrument.arming import Patches


class Wrapped(Protocol):
    """What belongs to one object with wrapped methods; ``inside`` has the names of those that are running."""

    inside: set[str]


W = TypeVar("W", bound=Wrapped)
Found = TypeVar("Found", bound=Wrapped, covariant=True)
AroundFunction = Callable[[W, Any, tuple[Any, ...], Any, "BaseException | None"], None]
"""Takes what belongs to the object, the object, its arguments, its result, and what it raised."""


class Lookup(Protocol[Found]):
    """Finds what belongs to an object."""

    def get(self, key: Any, /) -> Found | None:
        """``None`` for an object that is not observed."""


class IdentityMap(Generic[W]):
    """Looks up by identity: a class may define its own equality."""

    def __init__(self, by_id: Mapping[int, W]) -> None:
        self._by_id = by_id

    def get(self, key: Any, /) -> W | None:
        """As a mapping's."""
        return self._by_id.get(id(key))


class MethodPatcher:
    """The wrapped methods.

    Args:
        patches: Records the replaced attributes.
    """

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._wrapped: set[tuple[type, str]] = set()

    def around(self, kind: type, name: str, of: Lookup[W], before: AroundFunction[W], after: AroundFunction[W]) -> None:
        """Call one function before and one after a method, for those of its objects that ``of`` finds."""

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
                found = None
                with guard:  # a class may define its own equality and hash
                    found = of.get(self)
                if found is None or name in found.inside:
                    return original(self, *args, **kwargs)
                found.inside.add(name)
                try:
                    with guard:
                        before(found, self, args, None, None)
                    try:
                        result = original(self, *args, **kwargs)
                    except BaseException as error:
                        with guard:
                            after(found, self, args, None, error)
                        raise
                    with guard:
                        after(found, self, args, result, None)
                    return result
                finally:
                    found.inside.discard(name)

            return wrapper

        self.wrap(kind, name, make)

    def wrap(self, kind: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace a method on the class that defines it, once."""
        owner = next((base for base in kind.__mro__ if name in vars(base)), None)
        if owner is None or (owner, name) in self._wrapped:
            return
        original = vars(owner)[name]
        if not callable(original):
            return  # a static or class method, which no torch has here
        wrapper = make(original)
        wrapper.__wrapped__ = original  # type: ignore[attr-defined]
        wrapper.__name__, wrapper.__doc__ = name, original.__doc__
        self._wrapped.add((owner, name))
        self._patches.put(owner, name, wrapper)


def nothing(found: object, owner: Any, args: tuple[Any, ...], result: Any, error: BaseException | None) -> None:
    """Do nothing before, or after, a method."""
