"""Frozen dataclasses as lines of JSON: for the spool, and for what agents write into the job's store.

Guarantees:

- A line is ASCII, and ``from_json`` is the inverse of ``to_json``.
- Other versions of this package may have written a line: unknown keys and trailing elements are ignored, missing ones
  have the field's default; a line that still makes no sense raises ``ValueError``.
- Nothing is inspected per call: the decoder of a class is built from its fields and types once, at its first use.
"""

from __future__ import annotations

import enum
import json
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any, ClassVar, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Layout = Literal["object", "array"]
NOT_STORED: Final[Mapping[str, Any]] = {"stored": False}
"""Metadata of a field that is left out of the JSON."""

_Decode = Callable[[Any], Any]
_Self = TypeVar("_Self", bound="Serializable")
_decoders: dict[tuple[type, Layout], _Decode] = {}
_stored: dict[type, tuple[tuple[str, str], ...]] = {}
_getters: dict[type, Callable[[Any], Any]] = {}


REQUIRED: Final[Mapping[str, Any]] = {"required": True}
"""Metadata of a field that every version writes though it has a default: without it the JSON is something else."""


def stored_as(key: str, *, required: bool = False) -> Mapping[str, Any]:
    """Metadata of a field whose JSON key is not its name."""
    return {"key": key, "required": required}


class Serializable:
    """A base of frozen, slotted dataclasses that are stored as one line of JSON."""

    __slots__ = ()
    LAYOUT: ClassVar[Layout] = "object"
    """Objects by field names, or arrays in the order of the fields; also for the dataclasses in it."""
    OMIT_NONE: ClassVar[bool] = False
    """Leave fields out that are ``None``, and sort the keys: equal data is equal text in every version."""

    def to_json(self) -> str:
        """The data as one line of ASCII JSON."""
        if self.OMIT_NONE:
            return json.dumps({k: v for k, v in _as_object(self).items() if v is not None}, sort_keys=True)
        return _ENCODERS[self.LAYOUT](self)

    @classmethod
    def from_json(cls: type[_Self], line: str) -> _Self:
        """The data that :meth:`to_json` wrote, in this or another version.

        Raises:
            ValueError: The line is no such data.
        """
        try:
            data: _Self = decoder_of(cls, cls.LAYOUT)(json.loads(line))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no {cls.__name__} of this version: {line[:80]!r}") from error
        return data


def encode_array(data: object) -> tuple[Any, ...]:
    """The fields of a dataclass, of two or more, in their order."""
    kind = type(data)
    get = _getters.get(kind)
    if get is None:
        get = _getters[kind] = attrgetter(*(name for name, _ in _stored_fields(kind)))
    values: tuple[Any, ...] = get(data)
    return values


def decoder_of(kind: Any, layout: Layout) -> _Decode:
    """The function from parsed JSON to a type, built once for each dataclass."""
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return _decoder(kind, layout) or _identity
    found = _decoders.get((kind, layout))
    if found is None:
        found = _decoders[kind, layout] = (_array_decoder if layout == "array" else _object_decoder)(kind)
    return found


def _as_object(data: Any) -> Any:
    if isinstance(data, frozenset):
        return sorted(data)
    return {key: getattr(data, name) for name, key in _stored_fields(type(data))}


_ENCODERS: Final[Mapping[str, Callable[[Any], str]]] = {
    "object": json.JSONEncoder(separators=(",", ":"), default=_as_object).encode,
    "array": json.JSONEncoder(separators=(",", ":"), default=encode_array).encode,
}


def _stored_fields(kind: type) -> tuple[tuple[str, str], ...]:
    """The names of a dataclass's stored fields, with their JSON keys."""
    found = _stored.get(kind)
    if found is None:
        stored = [each for each in fields(kind) if each.metadata.get("stored", True)]
        found = _stored[kind] = tuple((each.name, each.metadata.get("key", each.name)) for each in stored)
    return found


def _object_decoder(kind: type) -> _Decode:
    hints = get_type_hints(kind)
    required = {each.name for each in fields(kind) if each.metadata.get("required")}
    names = [(name, key, name in required) for name, key in _stored_fields(kind)]
    special = [(name, decode) for name, *_ in names if (decode := _decoder(hints[name], "object")) is not None]

    def decode_object(written: Mapping[str, Any]) -> Any:
        known = {name: written[key] for name, key, required in names if required or key in written}
        for name, decode in special:
            if name in known:
                known[name] = decode(known[name])
        return kind(**known)

    return decode_object


def _array_decoder(kind: type) -> _Decode:
    hints = get_type_hints(kind)
    names = [name for name, _ in _stored_fields(kind)]
    special = [(i, decode) for i, name in enumerate(names) if (decode := _decoder(hints[name], "array")) is not None]

    def decode_array(written: list[Any]) -> Any:
        known = written[: len(names)]
        for i, decode in special:
            if i < len(known):
                known[i] = decode(known[i])
        return kind(*known)

    return decode_array


def _decoder(kind: Any, layout: Layout) -> _Decode | None:
    """The decoder of a type; ``None`` if parsed JSON is the value already."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union_decoder([each for each in arguments if each is not types.NoneType], layout)
    if origin is tuple:
        return _tuple_decoder(arguments, layout)
    if origin is frozenset:
        return frozenset
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping_decoder(arguments[1], layout)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {member.value: member for member in kind}.__getitem__
    if isinstance(kind, type) and is_dataclass(kind):
        return decoder_of(kind, layout)
    return None


def _mapping_decoder(kind: Any, layout: Layout) -> _Decode | None:
    each = _decoder(kind, layout)
    if get_origin(kind) in (Union, types.UnionType) and any(get_origin(each) is tuple for each in get_args(kind)):
        # attributes, decoded with every event: without a call for each
        return lambda written: {
            key: tuple(value) if isinstance(value, list) else value for key, value in written.items()
        }
    return None if each is None else lambda written: {key: each(value) for key, value in written.items()}


def _union_decoder(kinds: list[Any], layout: Layout) -> _Decode | None:
    """Of ``None`` and one type, or of scalars and one type that is none."""
    decode = next((found for each in kinds if (found := _decoder(each, layout)) is not None), None)
    if decode is None:
        return None
    if len(kinds) == 1:
        return lambda written: None if written is None else decode(written)
    return lambda written: decode(written) if isinstance(written, (list, dict)) else written


def _tuple_decoder(arguments: tuple[Any, ...], layout: Layout) -> _Decode:
    if arguments[-1] is Ellipsis:
        each = _decoder(arguments[0], layout)
        return tuple if each is None else lambda written: tuple(each(value) for value in written)
    decoders = [_decoder(argument, layout) or _identity for argument in arguments]
    return lambda written: tuple(decode(value) for decode, value in zip(decoders, written, strict=True))


def _identity(written: Any) -> Any:
    return written
