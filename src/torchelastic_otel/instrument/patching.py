"""How a method of torch's is wrapped, on the class that really defines it.

What always holds:

- A wrapper calls the original exactly once, with what it was given, and returns or raises what that did.
- What we do around it is guarded; a signal that torch turns into an exception passes.
- A method is wrapped where it is defined, once for all classes that inherit it; where one that overrides it calls it,
  that is not seen a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from torchelastic_otel.guard import guard
from torchelastic_otel.instrument.arming import Patches


class Wrapped(Protocol):
    """What is known of one object whose methods are wrapped; ``inside`` names those that are running."""

    inside: set[str]


W = TypeVar("W", bound=Wrapped)
Found = TypeVar("Found", bound=Wrapped, covariant=True)
AroundFunction = Callable[[W, Any, tuple[Any, ...], Any, "BaseException | None"], None]
"""Takes what is known of the object, the object, its arguments, its result, and what it raised."""


class Lookup(Protocol[Found]):
    """Finds what is known of an object."""

    def get(self, key: Any, /) -> Found | None:
        """``None`` for an object that is not watched."""


class IdentityMap(Generic[W]):
    """Looks up by identity: a class may have its own idea of equality."""

    def __init__(self, known: Mapping[int, W]) -> None:
        self._known = known

    def get(self, key: Any, /) -> W | None:
        """As a mapping's."""
        return self._known.get(id(key))


class MethodPatcher:
    """The methods that are wrapped.

    Args:
        patches: Where what is replaced is noted.
    """

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._wrapped: set[tuple[type, str]] = set()

    def around(self, kind: type, name: str, of: Lookup[W], before: AroundFunction[W], after: AroundFunction[W]) -> None:
        """Call one function before and one after a method, of those of its objects that are known."""

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
                watched = None
                with guard:  # a class may have its own idea of what its objects are told by
                    watched = of.get(self)
                if watched is None or name in watched.inside:
                    return original(self, *args, **kwargs)
                watched.inside.add(name)
                try:
                    with guard:
                        before(watched, self, args, None, None)
                    try:
                        result = original(self, *args, **kwargs)
                    except BaseException as error:
                        with guard:
                            after(watched, self, args, None, error)
                        raise
                    with guard:
                        after(watched, self, args, result, None)
                    return result
                finally:
                    watched.inside.discard(name)

            return wrapper

        self.wrap(kind, name, make)

    def wrap(self, kind: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace a method on the class that defines it, once."""
        owner = next((base for base in kind.__mro__ if name in vars(base)), None)
        if owner is None or (owner, name) in self._wrapped:
            return
        original = vars(owner)[name]
        if not callable(original):
            return  # a static or class method: not as any torch has it
        wrapper = make(original)
        wrapper.__wrapped__ = original  # type: ignore[attr-defined]
        wrapper.__name__, wrapper.__doc__ = name, original.__doc__
        self._wrapped.add((owner, name))
        self._patches.put(owner, name, wrapper)


def nothing(watched: object, owner: Any, args: tuple[Any, ...], result: Any, error: BaseException | None) -> None:
    """Nothing before, or after, a method."""
