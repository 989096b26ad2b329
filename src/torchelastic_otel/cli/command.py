"""What a command is: an object with ``prepare_parser`` and ``run``; its docstring is its help, its class its name."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import ClassVar

PROGRAM = "torchelastic-otel"


class Command:
    """What the commands share.

    Attributes:
        exit_codes: Each exit status and what it means, for the help.
        examples: Lines for the help.
        verbatim: Whether the arguments after the name are somebody else's: they come as ``arguments.rest``, unread.
    """

    exit_codes: ClassVar[Mapping[int, str]]
    examples: ClassVar[tuple[str, ...]] = ()
    verbatim: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The word that the command is called by."""
        return type(self).__name__.lower()

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; the exit status.

        Raises:
            CommandError: It cannot be done as asked.
        """
        raise NotImplementedError


def seconds(text: str) -> float:
    """A number of seconds, 0 or more, for an option's ``type``."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give seconds, from 0 to 86400")
    return number
