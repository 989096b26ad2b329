"""All exception classes are in ``torchelastic_otel.errors`` and have one base class."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Iterator

import pytest

import torchelastic_otel
from torchelastic_otel import errors


def _classes() -> Iterator[type]:
    for module in pkgutil.walk_packages(torchelastic_otel.__path__, "torchelastic_otel."):
        if module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name:
                yield value


def test_every_exception_class_is_in_errors() -> None:
    """Whoever catches an error finds it in one place."""
    elsewhere = {
        f"{each.__module__}.{each.__qualname__}"
        for each in _classes()
        if issubclass(each, Exception) and each.__module__ != errors.__name__
    }
    assert not elsewhere


def test_every_exception_class_has_the_one_base_class() -> None:
    """``except TorchelasticOtelError`` catches all of them."""
    found = [each for each in vars(errors).values() if isinstance(each, type) and each.__module__ == errors.__name__]
    assert len(found) > 10
    assert all(issubclass(each, errors.TorchelasticOtelError) for each in found)


def test_public_errors_are_exported_at_the_top() -> None:
    """A user imports them from the package, not from a module of it."""
    assert torchelastic_otel.TorchelasticOtelError is errors.TorchelasticOtelError
    assert torchelastic_otel.UnknownDestinationError is errors.UnknownDestinationError


def test_unknown_destination_survives_pickling() -> None:
    """A launcher may pass it between processes; its text must come with it."""
    error = errors.UnknownDestinationError("otpl", ["otlp", "console"], "exporter")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    with pytest.raises(KeyError, match="unknown exporter 'otpl'"):
        raise again
