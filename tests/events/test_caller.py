"""The frame look-up: right names, as ``inspect.stack()`` gives them, and no error at the end of a stack."""

from __future__ import annotations

import inspect
import os
from types import CodeType, SimpleNamespace
from typing import Any

import pytest

from torchelastic_otel.events import caller


class Stack:
    """A stack of a known height that refuses to give more, as ``sys._getframe`` does."""

    def __init__(self, *codes: tuple[str, str]) -> None:
        """File and function of each frame, the innermost first."""
        self.codes = codes

    def __call__(self, depth: int) -> Any:
        """The frame at a depth."""
        if depth >= len(self.codes):
            raise ValueError("call stack is not deep enough")
        filename, function = self.codes[depth]
        return SimpleNamespace(f_code=SimpleNamespace(co_filename=filename, co_name=function))


STACK = Stack(("/p/frames.py", "caller"), ("/p/events/__init__.py", "construct"), ("/job/train.py", "join"))


def test_caller_is_file_and_function_of_who_called_the_one_that_asks() -> None:
    """An event's name starts with these two."""
    assert caller.caller(get_frame=STACK) == ("train.py", "join")


@pytest.mark.parametrize(("depth", "name"), [(0, "caller"), (1, "construct"), (2, "join")])
def test_depth_counts_as_in_inspect_stack(depth: int, name: str) -> None:
    """Hooks put our look-up in the place of torch's, with torch's depth."""
    assert caller.caller(depth, STACK)[1] == name
    assert caller.method_name(depth, STACK) == name


def test_stack_that_is_too_short_gives_the_names_torch_gives() -> None:
    """A recorder embedded in another program may have no caller; that is no reason to fail."""
    assert caller.caller(3, STACK) == ("no_file", "")
    assert caller.method_name(3, STACK) == "no_method_name"
    assert caller.caller(100_000) == ("no_file", "")
    assert caller.method_name(100_000) == "no_method_name"


def test_real_frames_give_what_inspect_stack_gives() -> None:
    """The names must not change when the look-up takes the place of ``inspect.stack()``."""

    def asks() -> tuple[tuple[str, str], str, inspect.FrameInfo]:
        return caller.caller(), caller.method_name(), inspect.stack()[1]

    found, name, expected = asks()
    assert found == (os.path.basename(expected.filename), expected.function)
    assert name == expected.function == "test_real_frames_give_what_inspect_stack_gives"


def test_code_without_a_file_keeps_its_made_up_name() -> None:
    """Interactive and generated code records too."""
    code = compile("found = frames.caller(1)", "<made up>", "exec")
    assert isinstance(code, CodeType)
    scope: dict[str, Any] = {"frames": caller}
    exec(code, scope)
    assert scope["found"] == ("<made up>", "<module>")
